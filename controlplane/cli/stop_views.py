"""Emergency stops as tables: who has acknowledged, and how fast."""

from collections.abc import Iterable

from controlplane.cli.contract_words import word
from controlplane.cli.durations import seconds_of
from controlplane.cli.rendering import Column, table
from fleetplane import StopOutcome
from fleetplane.v1 import lifecycle_service_pb2 as pb

_COLUMNS = (
    Column("INSTANCE", flexible=True),
    Column("AGENT", flexible=True),
    Column("OUTCOME"),
    Column("AFTER", right=True),
)

_STOPPED = frozenset({StopOutcome.ACKNOWLEDGED, StopOutcome.LEFT})
"""Outcomes of those that certainly do not work any more."""


def silent(stop: pb.EmergencyStop) -> list[str]:
    """Return the instances of which nobody knows that they have stopped."""
    return [one.instance_id for one in stop.answers if StopOutcome(one.outcome) not in _STOPPED]


def answers_table(answers: Iterable[pb.StopAnswer]) -> str:
    """Lay out who was told to stop and what came of it."""
    rows = [
        (
            one.instance_id,
            one.agent_id,
            word(StopOutcome, one.outcome),
            f"{seconds_of(one.after) * 1000:.0f}ms" if one.HasField("after") else "",
        )
        for one in answers
    ]
    return table(_COLUMNS, rows)


def stop_sentence(stop: pb.EmergencyStop) -> str:
    """Return what came of a stop, in a line."""
    total = len(stop.answers)
    text = f"{len(stop.agent_ids)} agents stopped, {stop.acknowledged} of {total} instances"
    if stop.acknowledged and stop.HasField("last_acknowledged_after"):
        last = seconds_of(stop.last_acknowledged_after) * 1000
        return f"{text} acknowledged, the last after {last:.0f} ms"
    return f"{text} acknowledged"
