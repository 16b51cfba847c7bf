"""A watcher holds what the replica holds, whatever happens between two of its reads."""

import asyncio
import random
from contextlib import aclosing

import pytest

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.selection import AgentFilter
from controlplane.services.agent_watch import AgentWatch, Bookmark, Delta, SnapshotPart
from controlplane.services.ports import Collection, Position
from tests.fakes.registered import EPOCH, Replica, an_agent, an_instance

NS = "default"
ACTIVE = AgentFilter(statuses=frozenset({AgentStatus.ACTIVE}))


@pytest.fixture
def replica():
    return Replica()


class Watcher:
    """A client: holds ids and a position, by the rules of the contract."""

    def __init__(self, replica, wanted=ACTIVE, held=None, **options):
        self.held = dict(held or {})
        self.epoch, self.revision = "", 0
        self.watch = AgentWatch(replica.read_model, NS, wanted, **options)
        self._fresh = {}

    def start(self, epoch="", revision=0, **options):
        self.stream = self.watch.events(epoch, revision, **options)
        return aclosing(self.stream)

    async def next(self):
        async with asyncio.timeout(5):
            event = await anext(self.stream)
        agents = {entry.agent.agent_id: entry.agent for entry in getattr(event, "entries", ())}
        if isinstance(event, SnapshotPart):
            self._fresh.update(agents)
            if event.complete:
                self.held, self._fresh = self._fresh, {}
        elif isinstance(event, Delta):
            self.held.update(agents)
            for agent_id in event.removed_ids:
                self.held.pop(agent_id, None)
        assert event.position.epoch != self.epoch or event.position.revision >= self.revision
        self.epoch, self.revision = event.position.epoch, event.position.revision
        return event


def truth(replica):
    return {
        agent_id: entry.agent
        for agent_id, entry in replica.view.agents.items()
        if ACTIVE.matches(entry.agent)
    }


def ids(event):
    return [entry.agent.agent_id for entry in event.entries]


async def test_a_new_watcher_gets_a_snapshot_and_then_changes(replica):
    replica.write(an_agent("a"), an_agent("off", status=AgentStatus.INACTIVE))
    watcher = Watcher(replica)
    async with watcher.start():
        first = await watcher.next()
        assert isinstance(first, SnapshotPart)
        assert (ids(first), first.complete, first.position) == (["a"], True, Position(EPOCH, 1))

        replica.write(an_agent("b"))
        delta = await watcher.next()

        assert isinstance(delta, Delta)
        assert (ids(delta), delta.removed_ids, delta.position) == (["b"], (), Position(EPOCH, 2))


async def test_an_empty_fleet_is_a_complete_snapshot(replica):
    watcher = Watcher(replica)
    async with watcher.start():
        assert await watcher.next() == SnapshotPart(
            entries=(), complete=True, position=Position(EPOCH, 0)
        )


async def test_a_snapshot_comes_in_parts_in_order(replica):
    replica.write(*(an_agent(f"agt-{n}") for n in range(5)))
    watcher = Watcher(replica, part_size=2)
    async with watcher.start():
        parts = [await watcher.next() for _ in range(3)]

    assert [ids(part) for part in parts] == [["agt-0", "agt-1"], ["agt-2", "agt-3"], ["agt-4"]]
    assert [part.complete for part in parts] == [False, False, True]


async def test_what_changes_while_a_snapshot_is_written_is_not_lost(replica):
    replica.write(*(an_agent(f"agt-{n}") for n in range(4)))
    watcher = Watcher(replica, part_size=2)
    async with watcher.start():
        await watcher.next()
        replica.write(an_agent("agt-0", status=AgentStatus.INACTIVE), an_agent("agt-00"))
        last = await watcher.next()
        delta = await watcher.next()

    assert (last.complete, last.position) == (True, Position(EPOCH, 1))
    assert (ids(delta), delta.removed_ids) == (["agt-00"], ("agt-0",))
    assert sorted(watcher.held) == ["agt-00", "agt-1", "agt-2", "agt-3"]


async def test_a_burst_is_one_delta_with_the_newest_state(replica):
    watcher = Watcher(replica)
    async with watcher.start():
        await watcher.next()
        for owner in ("one", "two", "three"):
            replica.write(an_agent("a", owner=owner))

        delta = await watcher.next()

    assert [entry.agent.spec.owner for entry in delta.entries] == ["three"]
    assert delta.position == Position(EPOCH, 3)


async def test_an_agent_that_stops_matching_is_removed_and_others_are_not_mentioned(replica):
    replica.write(an_agent("a"), an_agent("b"))
    watcher = Watcher(replica)
    async with watcher.start():
        await watcher.next()
        replica.write(an_agent("off", status=AgentStatus.INACTIVE))
        replica.write(an_agent("a", status=AgentStatus.DEGRADED))

        delta = await watcher.next()

    assert (ids(delta), delta.removed_ids) == ([], ("a",))


async def test_a_deleted_agent_is_removed(replica):
    replica.write(an_agent("a"))
    watcher = Watcher(replica, AgentFilter())
    async with watcher.start():
        await watcher.next()
        replica.delete(Collection.AGENTS, "a")

        delta = await watcher.next()

    assert (ids(delta), delta.removed_ids) == ([], ("a",))


async def test_a_large_delta_comes_in_parts_and_only_the_last_moves_the_position(replica):
    watcher = Watcher(replica, part_size=2)
    async with watcher.start():
        await watcher.next()
        replica.write(*(an_agent(f"agt-{n}") for n in range(3)))

        first, last = await watcher.next(), await watcher.next()

    assert (ids(first), ids(last)) == (["agt-0", "agt-1"], ["agt-2"])
    assert (first.position.revision, last.position.revision) == (0, 1)


async def test_silence_is_a_bookmark(replica):
    watcher = Watcher(replica)
    async with watcher.start(bookmark_seconds=0.01):
        await watcher.next()
        replica.pass_by()

        assert await watcher.next() == Bookmark(position=Position(EPOCH, 1))


async def test_a_change_of_an_instance_is_a_change_of_its_agent(replica):
    replica.write(an_agent("a"), an_instance("i", "a"))
    watcher = Watcher(replica)
    async with watcher.start():
        await watcher.next()
        replica.write(an_instance("j", "a"))
        assert ids(await watcher.next()) == ["a"]

        replica.delete(Collection.INSTANCES, "i")
        delta = await watcher.next()

    assert [list(entry.instances) for entry in delta.entries] == [["j"]]


async def test_instances_do_not_concern_a_watcher_that_is_not_shown_them(replica):
    replica.write(an_agent("a"))
    watcher = Watcher(replica, with_instances=False)
    async with watcher.start():
        await watcher.next()
        replica.write(an_instance("i", "a"))
        replica.write(an_agent("b"))

        assert ids(await watcher.next()) == ["b"]


async def test_a_watcher_that_resumes_gets_what_it_missed(replica):
    replica.write(an_agent("a"), an_agent("b"))
    replica.write(an_agent("a", status=AgentStatus.INACTIVE), an_agent("c"))
    watcher = Watcher(replica, held={"a": None, "b": None})
    async with watcher.start(EPOCH, 1):
        delta = await watcher.next()
        assert (ids(delta), delta.removed_ids) == (["c"], ("a",))

        replica.write(an_agent("b", status=AgentStatus.INACTIVE))
        assert (await watcher.next()).removed_ids == ("b",)

    assert sorted(watcher.held) == ["c"]


async def test_a_watcher_that_missed_nothing_is_told_so_at_once(replica):
    replica.write(an_agent("a"))
    watcher = Watcher(replica)
    async with watcher.start(EPOCH, 1):
        assert await watcher.next() == Bookmark(position=Position(EPOCH, 1))


@pytest.mark.parametrize(("epoch", "revision"), [("other", 1), (EPOCH, 2), ("", 1)])
async def test_a_position_that_is_not_ours_or_ahead_of_us_gets_a_snapshot(replica, epoch, revision):
    replica.write(an_agent("a"))
    watcher = Watcher(replica)
    async with watcher.start(epoch, revision):
        assert isinstance(await watcher.next(), SnapshotPart)


async def test_a_watcher_resumes_on_a_replica_that_has_just_started(replica):
    replica.revision = 5
    replica.load([an_agent("a")])
    watcher = Watcher(replica, with_instances=False)
    async with watcher.start(EPOCH, 3):
        delta = await watcher.next()

    assert isinstance(delta, Delta)
    assert ids(delta) == ["a"]


async def test_a_replica_that_cannot_know_about_instances_sends_a_snapshot(replica):
    replica.revision = 5
    replica.load([an_agent("a")])
    watcher = Watcher(replica)
    async with watcher.start(EPOCH, 3):
        assert isinstance(await watcher.next(), SnapshotPart)


async def test_a_new_epoch_is_a_new_snapshot(replica):
    replica.write(an_agent("a"), an_agent("b"))
    watcher = Watcher(replica)
    async with watcher.start():
        await watcher.next()
        replica.epoch, replica.revision = "epoch-2", 1
        replica.load([an_agent("b")])

        again = await watcher.next()

    assert isinstance(again, SnapshotPart)
    assert again.position == Position("epoch-2", 1)
    assert sorted(watcher.held) == ["b"]


async def test_a_watch_that_ends_leaves_no_listener(replica):
    watcher = Watcher(replica)
    async with watcher.start():
        await watcher.next()
        assert replica.hub.listener_count == 1

    assert replica.hub.listener_count == 0


@pytest.mark.parametrize("with_instances", [True, False])
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_a_watcher_ends_up_with_the_truth(replica, seed, with_instances):
    dice = random.Random(seed)
    held: dict[str, Agent] = {}
    epoch, revision = "", 0
    for _ in range(12):
        watcher = Watcher(replica, held=held, part_size=3, with_instances=with_instances)
        async with watcher.start(epoch, revision, bookmark_seconds=0.005):
            for _ in range(dice.randrange(1, 4)):
                for _ in range(dice.randrange(1, 6)):
                    agent_id, status = f"agt-{dice.randrange(12)}", dice.choice([*AgentStatus])
                    replica.write(an_agent(agent_id, status=status))
                await watcher.next()
            while watcher.revision < replica.revision:
                await watcher.next()
            assert watcher.held == truth(replica)
        held, epoch, revision = watcher.held, watcher.epoch, watcher.revision
        replica.write(an_agent(f"agt-{dice.randrange(12)}", status=AgentStatus.INACTIVE))
        if dice.random() < 0.3:
            replica.load([entry.agent for entry in replica.view.agents.values()])
    watcher = Watcher(replica, held=held, with_instances=with_instances)
    async with watcher.start(epoch, revision):
        await watcher.next()
    assert watcher.held == truth(replica)
