"""What instances are owed, and which streams are told."""

import pytest

from controlplane.services.lifecycle.commands import RESUME_MS, CommandKind, Commands
from tests.fakes.fleet import NAMESPACE, FakeBeat
from tests.fakes.lifecycle_plane import LifecyclePlane


class Desk:
    """Commands at the first replica of a plane."""

    def __init__(self, plane: LifecyclePlane) -> None:
        self.plane = plane
        self.commands = Commands(plane.replica.read_model, plane.clock)
        self.pushed: list[str] = []

    def owed(self) -> dict[str, CommandKind]:
        self.plane.clock.shift(2)  # what is owed is worked out anew at most so often
        board = self.commands.board(self.plane.replica.view)
        return {name: one.kind for name, one in board.items()}

    def stream(self, name: str, *instance_ids: str):
        def push() -> None:
            self.pushed.append(name)

        self.commands.carried(NAMESPACE, instance_ids, push)
        return push


@pytest.fixture
def desk():
    return Desk(LifecyclePlane())


async def test_nothing_is_owed_where_nothing_is_commanded(desk):
    await desk.plane.active("a", "i")
    view = desk.plane.replica.view
    assert not desk.commands.board(view)
    assert desk.commands.board(view) is desk.commands.board(view)


async def test_a_drain_is_owed_to_every_instance_until_it_is_undone(desk):
    await desk.plane.active("a", "i", "j")
    report = await desk.plane.ops.drain()
    assert desk.owed() == {"i": CommandKind.DRAIN, "j": CommandKind.DRAIN}
    owed = desk.commands.board(desk.plane.replica.view)["i"]
    assert (owed.reason, owed.deadline_ms) == ("new release", report.drain.deadline_at_ms)
    assert owed.urgent
    await desk.plane.join("a", "late")
    assert desk.owed()["late"] is CommandKind.DRAIN
    await desk.plane.ops.cancel()
    assert desk.owed()["i"] is CommandKind.RESUME
    desk.plane.clock.shift(RESUME_MS / 1000)
    assert desk.owed() == {}


async def test_a_drain_of_one_instance_concerns_no_other(desk):
    await desk.plane.active("a", "i", "j")
    await desk.plane.ops.drain("", "i")
    assert desk.owed() == {"i": CommandKind.DRAIN}
    await desk.plane.join("a", "i")
    assert desk.owed() == {}


async def test_an_instance_stays_drained_when_only_one_of_two_drains_is_undone(desk):
    await desk.plane.active("a", "i")
    await desk.plane.ops.drain()
    await desk.plane.ops.drain("", "i")
    await desk.plane.ops.cancel("", "i")
    assert desk.owed() == {"i": CommandKind.DRAIN}
    await desk.plane.ops.drain("", "i")
    await desk.plane.ops.cancel()
    assert desk.owed() == {"i": CommandKind.DRAIN}


async def test_work_comes_again_when_a_drained_agent_is_activated(desk):
    generations = await desk.plane.active("a", "i")
    await desk.plane.ops.deactivate("a", drain_ms=60_000)
    for _ in range(3):
        desk.plane.clock.shift(1)
        await desk.plane.replica.beat(FakeBeat("i", generations["i"]))
        await desk.plane.ops.tick()
    assert desk.owed() == {}
    await desk.plane.ops.activate("a")
    assert desk.owed() == {"i": CommandKind.RESUME}


async def test_a_stop_is_owed_until_it_is_acknowledged_and_goes_before_a_drain(desk):
    generations = await desk.plane.active("a", "i", "j")
    await desk.plane.ops.drain()
    stop_id = (await desk.plane.ops.stop(everything=True)).stop.stop_id
    board = desk.commands.board(desk.plane.replica.view)
    assert {(one.kind, one.stop_id) for one in board.values()} == {(CommandKind.STOP, stop_id)}
    await desk.plane.ops.stops.acknowledge(NAMESPACE, stop_id, "i", generations["i"])
    assert desk.owed()["i"] is not CommandKind.STOP
    assert desk.owed()["j"] is CommandKind.STOP
    newer = await desk.plane.join("a", "j")
    assert newer
    assert CommandKind.STOP not in desk.owed().values()


async def test_only_the_streams_of_those_concerned_are_told(desk):
    await desk.plane.active("a", "i")
    await desk.plane.active("b", "j")
    desk.stream("one", "i")
    desk.stream("two", "j")
    await desk.plane.ops.drain("a")
    assert desk.pushed == ["one"]
    await desk.plane.ops.cancel("a")
    assert desk.pushed == ["one", "one"]
    await desk.plane.ops.stop(names=("b",))
    assert desk.pushed == ["one", "one", "two"]


async def test_the_newest_stream_of_an_instance_is_told(desk):
    await desk.plane.active("a", "i")
    old = desk.stream("old", "i")
    new = desk.stream("new", "i")
    desk.commands.closed(NAMESPACE, ("i",), old)
    await desk.plane.ops.drain("a")
    assert desk.pushed == ["new"]
    desk.commands.closed(NAMESPACE, ("i",), new)
    assert desk.plane.replica.read_model.hub.listener_count == 0


async def test_a_decision_at_another_replica_is_heard_here(desk):
    await desk.plane.active("a", "i")
    other = await desk.plane.another("two")
    desk.stream("one", "i")
    await other.stop(everything=True)
    await desk.plane.replica.follow()
    assert desk.pushed == ["one"]
