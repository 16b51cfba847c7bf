"""How a demo of rollouts is shown on a terminal."""

import time
from collections import deque
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from controlplane.cli.demo_board import Happening
from controlplane.cli.demo_traffic import Traffic
from controlplane.cli.moments import span
from controlplane.cli.rollout_screen import screen
from fleetplane import TaskState
from fleetplane.v1 import lifecycle_service_pb2, rollout_service_pb2

LOG: Final = 12
"""Happenings that are shown at most, the newest."""

FRAME: Final = 18
"""Lines that are not happenings: counters, the rollout, what stands between."""


class RolloutStage:
    """A rollout, the tasks around it and what happened, in place."""

    def __init__(self) -> None:
        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._happenings: deque[Happening] = deque(maxlen=LOG)
        self._began = time.monotonic()

    def happened(self, happening: Happening) -> None:
        """Note something for the next frame."""
        self._happenings.append(happening)

    def redraw(
        self,
        traffic: Traffic,
        rollout: rollout_service_pb2.Rollout | None,
        drain: lifecycle_service_pb2.Drain | None,
    ) -> None:
        """Draw the next frame."""
        parts: list[Text | Group] = [self._counters(traffic), Text()]
        if rollout is not None:
            parts += [Group(screen(rollout, drain, time.time())), Text()]
        room = max(3, self._live.console.height - FRAME)
        newest = list(self._happenings)[-room:]
        self._live.update(Group(*parts, *map(_line, newest)), refresh=True)

    def _counters(self, traffic: Traffic) -> Text:
        text = Text(f"tasks submitted {traffic.submitted:,}  ", style="bold")
        text.append(f"succeeded {traffic.ended[TaskState.SUCCEEDED]:,}  ", style="green")
        failed = traffic.ended[TaskState.FAILED]
        text.append(f"failed {failed:,}  ", style="red" if failed else "dim")
        text.append(f"under way {traffic.waiting:,}  run twice {traffic.twice:,}  ", style="dim")
        text.append(span(time.monotonic() - self._began), style="dim")
        return text

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


def _line(happening: Happening) -> Text:
    """Return a happening cut to one line; only the sum is worth more."""
    text = f"{happening.at.astimezone():%H:%M:%S}  {happening.text}"
    if happening.event == "summary":
        return Text(text, style="bold")
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")
