"""Where changes of policies meet one another, time, and what was not recorded."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from controlplane.api.convert.policy_sets import activated_to_proto, created_to_proto
from controlplane.api.convert.policy_watch import policy_event_to_proto
from controlplane.api.server import MEBIBYTE
from controlplane.domain.errors import RevisionNotFound
from controlplane.domain.policies import Effect, Policy
from controlplane.domain.policy_sets.candidates import StageKind
from controlplane.domain.policy_sets.history import HISTORY_KEPT
from controlplane.domain.policy_sets.refusals import (
    PolicyCandidateNotFound,
    PolicyTestsFailed,
    TooManyFlips,
)
from controlplane.domain.policy_sets.tests import PolicyTest, TestAgent
from controlplane.domain.policy_settings import PolicySettings
from controlplane.services.policies.activations import Activation
from controlplane.services.policies.candidates import CandidateDraft
from controlplane.services.policies.policy_tests import TestsChange
from controlplane.services.policies.policy_watch import PART_POLICIES
from controlplane.services.policies.settings import PolicySettingsKeeper, SettingsChange
from controlplane.services.policies.shadow import Shadow
from controlplane.services.policies.simulation import BATCHES_LOOKED_AT, Sample
from tests.fakes.plane import CALLER, NS
from tests.fakes.policy_changes import ChangingPlane, record_of
from tests.fakes.policy_world import Follower, PolicyWorld

READS = Policy(policy_id="reads", action=Effect.DENY, conditions={"action": "read"})
WRITES = Policy(policy_id="writes", action=Effect.DENY, conditions={"action": "write"})
CARDS = Policy(
    policy_id="cards", action=Effect.DENY, conditions={"action": "pay", "claim.card.kind": "test"}
)
READS_ARE_FREE = PolicyTest(
    name="reads are free", agent=TestAgent(name="bot"), action="read", effect=Effect.ALLOW
)


async def recorded(plane: ChangingPlane, count: int, action: str = "read", **fields: Any) -> None:
    agent = (await plane.register()).agent.agent_id
    plane.log.add([record_of(plane.ask(agent, action), **fields) for _ in range(count)])


async def test_a_candidate_that_is_deleted_meanwhile_is_not_staged() -> None:
    plane = ChangingPlane()
    candidate = await plane.candidate(READS)
    commit = plane.ledger.commit

    async def after_a_deletion(transaction: Any) -> Any:
        plane.ledger.commit = commit  # type: ignore[method-assign]  # a fake
        await plane.candidates.delete(
            NS, candidate.candidate_id, reason="", request=None, caller=CALLER
        )
        return await plane.ledger.commit(transaction)

    plane.ledger.commit = after_a_deletion  # type: ignore[method-assign]  # a fake
    with pytest.raises(PolicyCandidateNotFound):
        await plane.activate(candidate.candidate_id, stage=StageKind.PERCENT, percent=50)
    assert (await plane.follow()).stage is None


async def test_tests_that_this_replica_has_not_seen_yet_block_an_activation() -> None:
    plane = ChangingPlane()
    candidate = await plane.candidate(READS)
    await plane.live_tests.put(NS, TestsChange(tests=(READS_ARE_FREE,)), caller=CALLER)
    activation = asyncio.create_task(
        plane.activations.activate(
            NS, Activation(candidate_id=candidate.candidate_id), caller=CALLER
        )
    )
    await asyncio.sleep(0)
    await plane.follow()
    with pytest.raises(PolicyTestsFailed):
        await activation


async def test_tests_that_are_set_during_a_replay_block_the_activation() -> None:
    plane = ChangingPlane()
    await recorded(plane, 1, "write")
    candidate = await plane.candidate(READS)
    run = plane.simulations.run

    async def with_tests(*arguments: Any) -> Any:
        found = await run(*arguments)
        await plane.live_tests.put(NS, TestsChange(tests=(READS_ARE_FREE,)), caller=CALLER)
        await plane.follow()
        return found

    plane.simulations.run = with_tests  # type: ignore[method-assign, assignment]  # in between
    with pytest.raises(PolicyTestsFailed):
        await plane.activate(candidate.candidate_id, max_flips=0)


async def test_an_edit_during_a_replay_is_replayed_as_well() -> None:
    plane = ChangingPlane()
    await recorded(plane, 3, "write")
    candidate = await plane.candidate(READS, replace(WRITES, enabled=False))
    await plane.create(WRITES)
    relaxed = await plane.candidate(READS)
    run = plane.simulations.run

    async def edited(*arguments: Any) -> Any:
        found = await run(*arguments)
        plane.simulations.run = run  # type: ignore[method-assign]  # a fake
        await plane.activate(candidate.candidate_id)
        return found

    plane.simulations.run = edited  # type: ignore[method-assign, assignment]  # in between
    done = await plane.activate(relaxed.candidate_id, max_flips=3)
    assert done.report is not None
    assert done.report.flips == 0  # under what is live since the edit, writing is permitted


async def test_a_policy_that_comes_into_force_later_flips_what_it_will_flip() -> None:
    plane = ChangingPlane()
    await recorded(plane, 3)
    now = plane.clock.store_ms()
    later = replace(READS, not_before_ms=now + 60_000)
    report = await plane.simulations.run(plane.read_model.view(NS), [later], Sample())
    assert report.flips == 3


async def test_a_policy_that_is_out_of_force_flips_nothing() -> None:
    plane = ChangingPlane()
    at = plane.clock.store_ms()
    await recorded(plane, 3)
    await plane.clock.advance(3600)
    over = replace(READS, not_after_ms=at + 60_000)
    report = await plane.simulations.run(plane.read_model.view(NS), [over], Sample())
    assert report.flips == 0


async def test_a_sampled_flip_counts_for_all_it_stands_for() -> None:
    plane = ChangingPlane()
    await recorded(plane, 2, sample_rate=0.01)
    candidate = await plane.candidate(READS)
    with pytest.raises(TooManyFlips) as refused:
        await plane.activate(candidate.candidate_id, max_flips=10)
    assert refused.value.metadata["flips"] == "200"


async def test_flips_that_are_live_already_do_not_hold_up_another_candidate() -> None:
    plane = ChangingPlane()
    await recorded(plane, 5)
    await plane.create(READS)
    candidate = await plane.candidate(WRITES)
    done = await plane.activate(candidate.candidate_id, max_flips=0)
    assert done.report is not None
    assert done.report.flips == done.report.agreed_by_live == 5


async def test_nothing_that_could_be_replayed_is_no_proof() -> None:
    plane = ChangingPlane()
    masked = {"claims": {"card": {"kind": "(masked)"}}, "masked_paths": ("card.kind",)}
    await recorded(plane, 4, "pay", **masked)
    candidate = await plane.candidate(CARDS)
    with pytest.raises(TooManyFlips) as refused:
        await plane.activate(candidate.candidate_id, max_flips=3)
    assert "masked" in str(refused.value)


async def test_a_log_of_single_decisions_is_replayed_as_far_as_asked() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    plane.log.add([record_of(plane.ask(agent, "read"))])
    plane.log.stored *= BATCHES_LOOKED_AT + 100
    report = await plane.simulations.run(plane.read_model.view(NS), [READS], Sample())
    assert report.recorded == BATCHES_LOOKED_AT + 100


async def test_what_changes_much_is_answered_in_one_message() -> None:
    plane = ChangingPlane()
    large = [replace(READS, policy_id=f"p{n}", description="x" * 2_400) for n in range(1000)]
    shown = await plane.candidates.create(NS, CandidateDraft(put=tuple(large)), caller=CALLER)
    assert created_to_proto(shown).ByteSize() < 4 * MEBIBYTE
    await plane.follow()
    await plane.activate(shown.candidate.candidate_id)
    changed = [replace(one, description="y" * 2_400) for one in large]
    second = await plane.candidate(*changed)
    done = await plane.activate(second.candidate_id)
    message = activated_to_proto(done)
    assert message.ByteSize() < 4 * MEBIBYTE
    assert len(message.differences) == 1000
    assert all(one.HasField("before") and one.HasField("after") for one in message.differences)
    assert {tuple(one.fields) for one in message.differences} == {("description",)}


async def test_a_shadow_that_ended_is_forgotten() -> None:
    plane = ChangingPlane()
    candidate = await plane.candidate(READS)
    await plane.activate(candidate.candidate_id, stage=StageKind.SHADOW)
    agent = (await plane.register()).agent.agent_id
    shadow = Shadow(plane.read_model)
    record = record_of(plane.ask(agent, "read"))
    shadow.listen(NS, [record])
    await shadow.compare()
    shadow.listen(NS, [record])
    stage = plane.read_model.view(NS).stage
    assert stage is not None
    assert shadow.report_of(NS, stage).report.replayed == 1
    await plane.stages.stop(NS, reason="", request=None, caller=CALLER)
    await plane.follow()
    await shadow.compare()
    shadow.listen(NS, [record])
    assert shadow.report_of(NS, stage).report.replayed == 0


async def test_many_policies_of_then_do_not_hold_up_the_loop() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    many = tuple(replace(READS, policy_id=f"p{n}") for n in range(900))
    candidate = await plane.candidate(*many)
    live = await plane.create(READS)
    loop = asyncio.get_running_loop()
    longest, last, busy = 0.0, loop.time(), True

    async def others() -> None:
        nonlocal longest, last
        while busy:
            await asyncio.sleep(0)
            longest, last = max(longest, loop.time() - last), loop.time()

    watching = asyncio.create_task(others())
    await asyncio.sleep(0)
    await plane.revisions.rules_at(NS, live, candidate.candidate_id)
    busy = False
    await watching
    assert longest < 0.05


async def test_the_first_change_of_all_can_be_taken_back() -> None:
    plane = ChangingPlane()
    candidate = await plane.candidate(READS, tests=(replace(READS_ARE_FREE, effect=Effect.DENY),))
    await plane.activate(candidate.candidate_id)
    before = plane.read_model.view(NS).policy_set.revision - 1
    done = await plane.rollback(before)
    assert [(one.policy_id, one.after) for one in done.changes] == [("reads", None)]
    view = plane.read_model.view(NS)
    assert not view.policies
    (newest,) = (await plane.revisions.page(NS, before=None, limit=1)).revisions
    assert newest.change.restored_from == before
    again = await plane.revisions.at(NS, before)
    assert not again.snapshot.policies
    assert not again.snapshot.tests


async def test_what_was_before_a_trimmed_history_is_not_known() -> None:
    plane = ChangingPlane()
    first = await plane.create(READS)
    settings = PolicySettingsKeeper(plane.ledger, plane.read_model)
    for number in range(HISTORY_KEPT):
        effect = Effect.DENY if number % 2 else Effect.ALLOW
        change = SettingsChange(
            settings=PolicySettings(default_effect=effect), fields=("default_effect",)
        )
        await settings.update(NS, change, caller=CALLER)
    await plane.follow()
    with pytest.raises(RevisionNotFound):
        await plane.revisions.at(NS, first)
    assert (await plane.revisions.at(NS, first + 1)).change is not None


async def test_a_watcher_of_many_policies_holds_up_nobody() -> None:
    world = PolicyWorld()
    world.register("a")
    follower = Follower(world, ["a"])
    follower.open()
    await follower.step()
    many = [replace(READS, policy_id=f"p{n}") for n in range(1000)]
    world.put(*many)
    longest = 0.0
    parts = 0
    while True:
        step = follower.stream.__anext__()
        while True:  # by hand: how long each stretch without a pause takes
            began = time.perf_counter()
            try:
                step.send(None)
            except StopIteration as done:
                event = done.value
                policy_event_to_proto(event)
                break
            finally:
                longest = max(longest, time.perf_counter() - began)
            await asyncio.sleep(0)
        parts += event.part is not None
        if event.complete:
            break
    assert parts == 1000 // PART_POLICIES
    assert longest < 0.05
