"""How a demo is shown: a live table on a terminal, lines everywhere else."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controlplane.cli.agent_views import config_of
from controlplane.cli.call import Output
from controlplane.cli.demo_board import Board, Happening
from controlplane.cli.moments import ago, span
from controlplane.cli.rendering import write, write_event
from fleetplane import AgentStatus
from fleetplane.v1 import agent_pb2

FRAME: Final = 14
"""Lines of the live view that are not agents: title, head, counters, happenings."""

_STYLES: Final = {
    AgentStatus.ACTIVE: "green",
    AgentStatus.DEGRADED: "yellow",
    AgentStatus.INACTIVE: "red",
}


class View(Protocol):
    """Shows a demo."""

    def happened(self, happening: Happening) -> None:
        """Show something worth a line."""

    def redraw(self, board: Board) -> None:
        """Show how things are now."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""


class LinesView:
    """One line per happening: for pipes, files and programs."""

    def __init__(self, output: Output) -> None:
        self._show: Callable[[Happening], None] = (
            _write_text
            if output is Output.TABLE
            else lambda happening: write_event(output, happening.as_dict())
        )

    def happened(self, happening: Happening) -> None:
        """Write a line."""
        self._show(happening)

    def redraw(self, board: Board) -> None:
        """Nothing: only happenings are worth a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open."""


def _write_text(happening: Happening) -> None:
    write(f"{happening.at.astimezone():%H:%M:%S}  {happening.text}")


class LiveView:
    """A table that changes in place."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def happened(self, happening: Happening) -> None:
        """Nothing: the next frame shows it."""

    def redraw(self, board: Board) -> None:
        """Draw the next frame."""
        rows = max(3, self._console.height - FRAME)
        self._live.update(Group(_counters(board), _agents(board, rows), _log(board)), refresh=True)

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


def _counters(board: Board) -> Text:
    text = Text()
    for status, style in _STYLES.items():
        text.append(f"{status.name} {board.in_status(status)}  ", style=style)
    loads = [one.load for agent in board.agents.values() for one in agent.instances]
    text.append(
        f"of {len(board.names)} agents   in flight {sum(one.in_flight for one in loads)}"
        f"   done {sum(one.completed for one in loads):,}"
        f"   failed {sum(one.failed for one in loads):,}"
        f"   kills {board.counts['killed']}   recoveries {board.counts['recovered']}"
        f"   {span(time.monotonic() - board.started)}"
    )
    return text


def _agents(board: Board, rows: int) -> Table:
    """Show those that need attention first, as many as fit."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "STATUS"):
        table.add_column(title, no_wrap=True)
    for title in ("INSTANCES", "IN FLIGHT", "DONE", "FAILED", "LAST BEAT", "CONFIG"):
        table.add_column(title, justify="right", no_wrap=True)
    agents = sorted(board.agents.values(), key=_attention)
    for agent in agents[:rows]:
        status = AgentStatus(agent.status)
        table.add_row(
            agent.spec.name, Text(status.name, style=_STYLES.get(status, "dim")), *_numbers(agent)
        )
    if len(agents) > rows:
        table.add_row(Text(f"and {len(agents) - rows} more", style="dim"))
    return table


def _attention(agent: agent_pb2.Agent) -> tuple[bool, str]:
    return AgentStatus(agent.status) is AgentStatus.ACTIVE, agent.spec.name


def _numbers(agent: agent_pb2.Agent) -> tuple[str, ...]:
    loads = [one.load for one in agent.instances]
    configs = sorted({config for one in agent.instances if (config := config_of(one))})
    return (
        str(len(agent.instances)),
        str(sum(one.in_flight for one in loads)),
        str(sum(one.completed for one in loads)),
        str(sum(one.failed for one in loads)),
        ago(agent.last_heartbeat) or "-",
        ",".join(configs) or "-",
    )


def _log(board: Board) -> Text:
    lines = [f"{one.at.astimezone():%H:%M:%S}  {one.text}" for one in list(board.happenings)[-8:]]
    return Text("\n" + "\n".join(lines), style="dim")
