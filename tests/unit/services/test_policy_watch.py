"""Who follows the policies holds what the replica decides by, whatever happens in between."""

import asyncio
import random
from contextlib import aclosing

import pytest

from controlplane.domain.policy_sets.candidates import PolicyCandidate
from controlplane.services.policies.decisions import facts_of
from controlplane.services.policies.policy_watch import PART_AGENTS
from controlplane.services.policies.staging import rules_for
from controlplane.services.ports import Position
from fleetplane._policy_copy import CopyDiverged, PolicyCopy
from fleetplane_policy import Effect, Policy
from tests.fakes.policy_world import NS, Follower, PolicyWorld


def deny(policy_id: str, *, priority: int = 0, description: str = "", action: str = "x") -> Policy:
    return Policy(
        policy_id=policy_id,
        action=Effect.DENY,
        conditions={"action": action},
        priority=priority,
        description=description,
    )


@pytest.fixture
def world() -> PolicyWorld:
    world = PolicyWorld()
    world.register("a", tags={"scope": "internal"})
    world.register("b")
    world.put(deny("p1"), deny("p2"))
    return world


def assert_same(world: PolicyWorld, copy: PolicyCopy, agent_ids: tuple[str, ...]) -> None:
    """Compare a copy with what the replica decides by."""
    view = world.replica.view
    for agent_id in agent_ids:
        held, entry = copy.agents[agent_id], view.agents.get(agent_id)
        if entry is None:
            assert held is None
            continue
        assert held is not None
        rules = rules_for(view, agent_id)
        assert held.facts == facts_of(NS, entry.agent)
        assert held.rules.digest == rules.digest == held.digest
        assert held.rules.revision == rules.revision
        assert held.rules.default_effect == rules.default_effect
        assert held.rules.candidate_id == rules.candidate_id
        assert len(held.rules) == len(rules)


async def test_the_first_thing_sent_is_everything(world: PolicyWorld) -> None:
    follower = Follower(world, ("a", "b", "nobody"))
    follower.open()
    async with aclosing(follower.stream):
        await follower.step()
        assert follower.sent_policies == {"p1", "p2"}
        assert follower.copy.agents["nobody"] is None
        assert_same(world, follower.copy, ("a", "b"))
        assert follower.position == world.replica.position


async def test_a_change_is_sent_alone(world: PolicyWorld) -> None:
    follower = Follower(world, ("a",))
    follower.open()
    async with aclosing(follower.stream):
        await follower.step()
        world.put(deny("p2", priority=7), deny("p3"))
        await follower.step()
        assert (follower.sent_policies, follower.sent_facts) == ({"p2", "p3"}, set())
        world.remove("p1")
        await follower.step()
        assert follower.sent_policies == set()
        world.register("a", tags={"scope": "public"})
        await follower.step()
        assert (follower.sent_policies, follower.sent_facts) == (set(), {"a"})
        assert_same(world, follower.copy, ("a",))


async def test_who_comes_back_is_sent_what_differs(world: PolicyWorld) -> None:
    first = Follower(world, ("a", "b"))
    first.open()
    async with aclosing(first.stream):
        await first.step()
    world.put(deny("p3"))
    world.register("b", tags={"new": "1"})
    again = Follower(world, ("a", "b"), first.copy)
    again.open(held=first.position)
    async with aclosing(again.stream):
        await again.step()
        assert (again.sent_policies, again.sent_facts) == ({"p3"}, {"b"})
        assert_same(world, again.copy, ("a", "b"))
    last = Follower(world, ("a", "b"), again.copy)
    last.open(held=again.position)
    async with aclosing(last.stream):
        await last.step()
        assert (last.sent_policies, last.sent_facts) == (set(), set())
        assert_same(world, last.copy, ("a", "b"))


async def test_a_staged_candidate_decides_for_some_agents_here_too(world: PolicyWorld) -> None:
    agent_ids = tuple(f"agent-{number}" for number in range(20))
    for agent_id in agent_ids:
        world.register(agent_id)
    follower = Follower(world, agent_ids)
    follower.open()
    async with aclosing(follower.stream):
        await follower.step()
        world.stage(PolicyCandidate(candidate_id="c-1", put=(deny("p3"),)), percent=50)
        await follower.step()
        held = [follower.copy.agents[agent_id] for agent_id in agent_ids]
        named = {one.rules.candidate_id for one in held if one is not None}
        assert named == {"", "c-1"}
        assert follower.sent_policies == {"p3"}
        assert_same(world, follower.copy, agent_ids)
        world.put(deny("p4"))
        await follower.step()
        assert_same(world, follower.copy, agent_ids)
        world.unstage()
        await follower.step()
        assert len(follower.copy.sets) == 1
        assert_same(world, follower.copy, agent_ids)


async def test_another_replica_sends_all_of_a_set_that_it_never_had(world: PolicyWorld) -> None:
    first = Follower(world, ("a",))
    first.open()
    async with aclosing(first.stream):
        await first.step()
    world.put(deny("p3"))
    elsewhere = PolicyWorld()
    elsewhere.watches._read_model = world.replica.read_model
    elsewhere.replica = world.replica
    again = Follower(elsewhere, ("a",), first.copy)
    again.open(held=first.position)
    async with aclosing(again.stream):
        await again.step()
        assert again.sent_policies == {"p1", "p2", "p3"}
        assert_same(elsewhere, again.copy, ("a",))


async def test_a_slow_follower_gets_the_newest_state_once(world: PolicyWorld) -> None:
    follower = Follower(world, ("a",))
    follower.open(bookmark_seconds=0.05)
    async with aclosing(follower.stream):
        await follower.step()
        for priority in range(10):
            world.put(deny("p2", priority=priority))
            world.register("a", tags={"n": str(priority)})
        await follower.step()
        assert_same(world, follower.copy, ("a",))
        assert (await follower.step()).bookmark


async def test_silence_is_broken_by_bookmarks_that_say_how_old_the_copy_is(
    world: PolicyWorld,
) -> None:
    world.replica.read_model.confirm(world.clock.monotonic() - 3.0)
    follower = Follower(world, ("a",))
    follower.open(bookmark_seconds=0.002)
    async with aclosing(follower.stream):
        await follower.step()
        event = await follower.step()
        assert event.bookmark
        (message,) = follower.messages
        assert message.position.revision == world.replica.revision
        assert message.now.ToMilliseconds() == world.clock.store_ms()
        assert message.age.ToMilliseconds() == 3_000


async def test_an_agent_that_goes_and_comes_back_is_told(world: PolicyWorld) -> None:
    follower = Follower(world, ("a",))
    follower.open()
    async with aclosing(follower.stream):
        await follower.step()
        world.unregister("a")
        await follower.step()
        assert follower.copy.agents == {"a": None}
        assert follower.copy.sets == {}
        world.register("a", tags={"again": "1"})
        await follower.step()
        assert follower.sent_policies == {"p1", "p2"}
        assert_same(world, follower.copy, ("a",))


async def test_a_replica_that_lags_behind_says_nothing_until_it_has_caught_up(
    world: PolicyWorld,
) -> None:
    ahead = Position(world.replica.epoch, world.replica.revision + 2)
    follower = Follower(world, ("a",))
    follower.open(held=ahead)
    step = asyncio.create_task(follower.step())
    async with aclosing(follower.stream):
        await asyncio.sleep(0)
        world.put(deny("p3"))
        await asyncio.sleep(0)
        assert not step.done()
        world.put(deny("p4"))
        await step
        assert follower.position == ahead
        assert_same(world, follower.copy, ("a",))


async def test_a_large_set_and_many_agents_come_in_parts(world: PolicyWorld) -> None:
    world.put(*(deny(f"large-{n}", description="d" * 4_000) for n in range(400)))
    agent_ids = tuple(f"agent-{n}" for n in range(2 * PART_AGENTS + 1))
    for agent_id in agent_ids:
        world.register(agent_id)
    follower = Follower(world, agent_ids)
    follower.open()
    async with aclosing(follower.stream):
        await follower.step()
        assert len(follower.messages) > 5
        assert max(map(len, follower.raw)) < 2**20
        assert_same(world, follower.copy, agent_ids)


async def test_watchers_of_one_set_are_sent_the_same_bytes(world: PolicyWorld) -> None:
    both = Follower(world, ("a",)), Follower(world, ("b",))
    for follower in both:
        follower.open()
        await follower.step()
        await follower.stream.aclose()
    parts = [follower.raw[0] for follower in both]
    assert parts[0] == parts[1]
    assert len(world.watches._sets._of_rules._entries) == 1


async def test_who_holds_something_else_notices(world: PolicyWorld) -> None:
    follower = Follower(world, ("a",))
    follower.open()
    async with aclosing(follower.stream):
        await follower.step()
        messages = follower.messages
    wrong = messages[0]
    del wrong.sets[0].policies[0]
    with pytest.raises(CopyDiverged, match="are not those of"):
        PolicyCopy().after(messages)
    wrong.sets[0].base_set_id = "sha256:unheard"
    with pytest.raises(CopyDiverged, match="not held"):
        PolicyCopy().after(messages)


@pytest.mark.parametrize("seed", range(8))
async def test_after_any_changes_the_copy_is_what_the_replica_decides_by(seed: int) -> None:
    chance, world = random.Random(seed), PolicyWorld()
    agent_ids = ("a", "b", "c")
    follower = Follower(world, agent_ids)
    follower.open(bookmark_seconds=0.002)
    for _ in range(60):
        for _ in range(chance.randint(1, 4)):
            one = chance.choice(agent_ids)
            policy_id = f"p{chance.randint(0, 5)}"
            match chance.randint(0, 4):
                case 0:
                    world.unregister(one)
                case 1:
                    world.register(one, tags={"n": str(chance.randint(0, 3))})
                case 2:
                    world.remove(policy_id)
                case _:
                    world.put(deny(policy_id, priority=chance.randint(0, 3)))
        if chance.random() < 0.2:
            await follower.stream.aclose()
            follower.open(held=follower.position, bookmark_seconds=0.002)
        while not (await follower.step()).bookmark:
            pass
        assert_same(world, follower.copy, agent_ids)
    await follower.stream.aclose()
