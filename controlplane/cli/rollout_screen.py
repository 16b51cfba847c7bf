"""A rollout as a picture that changes in place."""

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controlplane.cli.drain_views import drain_sentence
from controlplane.cli.moments import ago
from controlplane.cli.rollout_views import (
    evidence_bar,
    of_all,
    pause_line,
    phase_of,
    rate,
    steps_line,
    times_line,
    verdict_of,
    weight_bar,
)
from controlplane.cli.routes import percent
from controlplane.cli.styles import STATUS_COLOURS, Colour, printable
from fleetplane.v1 import lifecycle_service_pb2
from fleetplane.v1 import rollout_service_pb2 as pb

_STYLES: Final = {
    Colour.GOOD: "green",
    Colour.WARNING: "yellow",
    Colour.BAD: "red",
    Colour.FAINT: "dim",
    Colour.STRONG: "bold",
}


def screen(
    rollout: pb.Rollout, drain: lifecycle_service_pb2.Drain | None, now: float
) -> RenderableType:
    """Draw a rollout.

    Args:
        rollout: as it stands.
        drain: of the version that retires, if one is under way.
        now: seconds since 1970.
    """
    lines = {
        "steps": steps_line(rollout),
        "weight": f"{weight_bar(rollout)}  {percent(rollout.weight_bp)} of new sessions",
        "evidence": evidence_bar(rollout),
        "verdict": verdict_of(rollout),
        "paused": pause_line(rollout),
        "time": times_line(rollout, now),
        "drain": _drain(drain, now),
        "message": rollout.message,
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in lines.items():
        if line:
            grid.add_row(name, Text(printable(line)))
    return Group(_title(rollout), _counts(rollout), Text(), grid)


def _title(rollout: pb.Rollout) -> Text:
    phase = phase_of(rollout)
    colour = STATUS_COLOURS.get(phase)
    versions = f"{rollout.agent_name} {rollout.from_version} → {rollout.to_version}"
    text = Text(printable(versions), style="bold")
    text.append(f"  {phase}", style=_STYLES[colour] if colour else "bold")
    since = ago(rollout.phase_since)
    text.append(f"  for {since}  {printable(rollout.rollout_id)}" if since else "", style="dim")
    return text


def _counts(rollout: pb.Rollout) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("VERSION", no_wrap=True)
    shown.add_column("SHARE", justify="right", no_wrap=True)
    for title in ("OUTCOMES", "FAILED", "RATE"):
        shown.add_column(title, justify="right", no_wrap=True)
    for version, weight, counts in (
        (f"{rollout.to_version} (new)", rollout.weight_bp, rollout.canary),
        (f"{rollout.from_version} (old)", 10_000 - rollout.weight_bp, rollout.stable),
    ):
        shown.add_row(
            printable(version),
            percent(weight),
            str(counts.total),
            str(counts.failed),
            Text(rate(counts), style=_style_of(rollout, counts)),
        )
    return shown


def _style_of(rollout: pb.Rollout, counts: pb.OutcomeCounts) -> str:
    """Return red for a rate above the limit of the plan."""
    if not counts.total:
        return "dim"
    above = counts.failed / counts.total > rollout.plan.analysis.max_error_rate
    return "red" if above else "green"


def _drain(drain: lifecycle_service_pb2.Drain | None, now: float) -> str:
    return f"{drain.agent_id}: {drain_sentence(drain, now)}" if drain is not None else ""


def summary(rollout: pb.Rollout) -> str:
    """Return how a rollout stands in one plain line."""
    return printable(
        f"{rollout.agent_name} {rollout.from_version} -> {rollout.to_version}:"
        f" {phase_of(rollout)}, new {of_all(rollout.canary)}, old {of_all(rollout.stable)}"
    )
