import asyncio
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Console, RenderableType

from controlplane.cli.rollout_watch import Scene
from fleetplane import Unavailable
from fleetplane.v1 import lifecycle_service_pb2
from fleetplane.v1 import rollout_service_pb2 as pb


def rollout(phase: pb.RolloutPhase.ValueType, revision: int) -> pb.Rollout:
    return pb.Rollout(
        rollout_id="r1",
        agent_name="writer",
        from_agent_id="a1",
        to_agent_id="a2",
        phase=phase,
        revision=revision,
    )


class Frames:
    """What a screen would have shown, as text."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, picture: RenderableType, *, refresh: bool) -> None:
        assert refresh
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(picture)
        self.shown.append(capture.get())


class DrainingFleet:
    """A rollout that goes on only once its drain has been asked for."""

    def __init__(self, *, fails: int = 0) -> None:
        self.drained: list[str] = []
        self._fails = fails
        self._asked = asyncio.Event()

    async def watch_rollout(self, rollout_id: str) -> AsyncIterator[pb.Rollout]:
        assert rollout_id == "r1"
        yield rollout(pb.ROLLOUT_PHASE_DRAINING_NEW, 1)
        await self._asked.wait()
        yield rollout(pb.ROLLOUT_PHASE_ROLLED_BACK, 2)

    async def get_drain(self, agent_id: str) -> lifecycle_service_pb2.Drain:
        self.drained.append(agent_id)
        if len(self.drained) <= self._fails:
            raise Unavailable("away")
        self._asked.set()
        return lifecycle_service_pb2.Drain(agent_id=agent_id, tasks_in_flight=2)


async def played(fleet: Any) -> tuple[pb.Rollout, list[str]]:
    frames = Frames()
    async with asyncio.timeout(20):
        last = await Scene(fleet, "r1", frames).play()
    return last, frames.shown


async def test_a_screen_is_drawn_until_the_end_and_asks_for_the_drain_meanwhile() -> None:
    fleet = DrainingFleet()
    last, shown = await played(fleet)
    assert last.phase == pb.ROLLOUT_PHASE_ROLLED_BACK
    assert fleet.drained == ["a2"]
    assert "DRAINING_NEW" in shown[0]
    assert "ROLLED_BACK" in shown[-1]
    assert "drain" not in shown[-1].splitlines()[-1]


async def test_a_look_at_the_drain_that_fails_is_repeated() -> None:
    fleet = DrainingFleet(fails=1)
    last, _ = await played(fleet)
    assert last.revision == 2
    assert fleet.drained == ["a2", "a2"]
