"""`fleetplane rollout watch`: a rollout on its way, on a screen or in lines."""

import asyncio
import contextlib
import sys
import time
from typing import Any, Final

from controlplane.cli.call import Output
from controlplane.cli.moments import clock
from controlplane.cli.rendering import as_dict, write, write_event
from controlplane.cli.rollout_views import change_line
from controlplane.cli.styles import Colour, coloured, printable
from fleetplane import FleetClient, FleetError, RolloutPhase
from fleetplane.v1 import lifecycle_service_pb2
from fleetplane.v1 import rollout_service_pb2 as pb

FRAME: Final = 0.25
"""Seconds between two frames of the screen, whose countdowns run."""

DRAIN_LOOK: Final = 1.0
"""Seconds between two looks at the drain of the version that retires."""

_DRAINING: Final = {
    RolloutPhase.DRAINING_OLD: "from_agent_id",
    RolloutPhase.DRAINING_NEW: "to_agent_id",
}
"""Phases in which a version drains, and the field that says which."""


async def follow(client: FleetClient, output: Output, rollout_id: str) -> pb.Rollout:
    """Show a rollout until it has ended.

    Args:
        client: an open client.
        output: how to show it: a screen on a terminal, lines in a pipe, values for programs.
        rollout_id: which.

    Returns:
        Its last state.
    """
    if output is Output.TABLE and sys.stdout.isatty():
        return await _on_screen(client, rollout_id)
    last = pb.Rollout()
    async for rollout in client.watch_rollout(rollout_id):
        if rollout.revision == last.revision:
            continue
        last = rollout
        if output is Output.TABLE:
            write(f"{coloured(clock(), Colour.FAINT)}  {printable(change_line(rollout))}")
        else:
            write_event(output, as_event(rollout))
    return last


def as_event(rollout: pb.Rollout) -> dict[str, Any]:
    """Return a rollout for programs; of its measurements, the newest."""
    value = as_dict(rollout)
    value["measurements"] = value["measurements"][-1:]
    return value


async def _on_screen(client: FleetClient, rollout_id: str) -> pb.Rollout:
    from rich.console import Console  # noqa: PLC0415  # 80 ms, for terminals
    from rich.live import Live  # noqa: PLC0415  # same

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        scene = Scene(client, rollout_id, live)
        return await scene.play()


class Scene:
    """What the screen knows, and what keeps it up to date.

    Args:
        client: an open client.
        rollout_id: which rollout.
        live: what is drawn on.
    """

    def __init__(self, client: FleetClient, rollout_id: str, live: Any) -> None:
        self._client = client
        self._rollout_id = rollout_id
        self._live = live
        self._rollout = pb.Rollout()
        self._drain: lifecycle_service_pb2.Drain | None = None

    async def play(self) -> pb.Rollout:
        """Draw until the rollout has ended; return its last state."""
        async with asyncio.TaskGroup() as group:
            around = [
                group.create_task(self._redraw(), name="rollout-frames"),
                group.create_task(self._look_at_drain(), name="rollout-drain"),
            ]
            async for rollout in self._client.watch_rollout(self._rollout_id):
                self._rollout = rollout
                if RolloutPhase(rollout.phase) not in _DRAINING:
                    self._drain = None
                self._draw()
            for one in around:
                one.cancel()
        return self._rollout

    def _draw(self) -> None:
        from controlplane.cli.rollout_screen import screen  # noqa: PLC0415  # imports rich

        if self._rollout.rollout_id:
            self._live.update(screen(self._rollout, self._drain, time.time()), refresh=True)

    async def _redraw(self) -> None:
        while True:
            await asyncio.sleep(FRAME)
            self._draw()

    async def _look_at_drain(self) -> None:
        """Ask how far the drain has come, while there is one; a look that fails is skipped."""
        while True:
            field = _DRAINING.get(RolloutPhase(self._rollout.phase))
            if field is not None:
                with contextlib.suppress(FleetError):
                    self._drain = await self._client.get_drain(getattr(self._rollout, field))
            await asyncio.sleep(DRAIN_LOOK)
