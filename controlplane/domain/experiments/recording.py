"""What becomes of the record of a unit that is seen, or of which an outcome is known. Pure.

A unit is recorded once per phase, and so is each of its outcomes: the same report twice, after a
retry or by two replicas, counts once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.experiments.counters import Counters, Deltas
from controlplane.domain.experiments.model import (
    FIXED_ONE,
    MAX_EXPOSING_AGENTS,
    Exclusion,
    Exposure,
    Metric,
    MetricKind,
    Outcome,
    Variant,
)


class Recorded(StrEnum):
    """What became of one report."""

    RECORDED = "RECORDED"
    DUPLICATE = "DUPLICATE"
    """It was known; the first report stands."""
    EXCLUDED = "EXCLUDED"
    """It is known now, and counts for nothing."""
    IGNORED = "IGNORED"
    """It is about an earlier phase, or the phase has all the units that it wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A report: a unit has used something."""

    unit: str
    variant: str
    digest: str
    agent_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """A report: what came of a unit, in one metric."""

    unit: str
    metric: str
    value: float
    replace: bool = False
    """Take the place of what was reported before."""
    agent_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows from a report: the record of the unit afterwards, and what to answer."""

    record: Exposure
    recorded: Recorded


def expose(
    known: Exposure | None,
    seen: Seen,
    *,
    own: Variant | None,
    earlier: Callable[[], bool],
    now_ms: int,
    counters: Counters,
    deltas: Deltas,
) -> Step:
    """Record that a unit has used something.

    Args:
        known: Its record in this phase, if it has one.
        seen: The report.
        own: The variant that it was dealt; None: it is not covered.
        earlier: Says whether an earlier phase that this one excludes has exposed it.
        now_ms: The time.
        counters: Names of the counters of the phase.
        deltas: What is added to them; changed.
    """
    clash = _clash(seen, own)
    if known is None:
        why = Exclusion.EARLIER_PHASE if earlier() else clash
        record = Exposure(
            unit=seen.unit,
            variant=seen.variant,
            digest=seen.digest,
            exposed_at_ms=now_ms,
            agents=(seen.agent_name,) if seen.agent_name else (),
            excluded=why,
        )
        counters.add_unit(deltas, record)
        return Step(record=record, recorded=Recorded.EXCLUDED if why else Recorded.RECORDED)
    record = _with_agent(known, seen.agent_name)
    if known.excluded:
        return Step(record=record, recorded=Recorded.EXCLUDED)
    if clash:
        counters.take_out(deltas, known, clash)
        return Step(record=replace(record, excluded=clash), recorded=Recorded.EXCLUDED)
    return Step(record=record, recorded=Recorded.DUPLICATE)


def _clash(seen: Seen, own: Variant | None) -> Exclusion:
    if own is None or seen.variant != own.name:
        return Exclusion.OTHER_VARIANT
    if own.digest and seen.digest != own.digest:
        return Exclusion.OTHER_DIGEST
    return Exclusion.NONE


def _with_agent(known: Exposure, agent_name: str) -> Exposure:
    if not agent_name or agent_name in known.agents or len(known.agents) >= MAX_EXPOSING_AGENTS:
        return known
    return replace(known, agents=(*known.agents, agent_name))


def conclude(
    known: Exposure,
    came: Came,
    metric: Metric,
    *,
    counters: Counters,
    deltas: Deltas,
) -> Step:
    """Record what came of a unit that was exposed.

    Raises:
        InvalidArgument: `value` is no number, or neither 0 nor 1 of a BINARY metric.
    """
    outcome = measured(metric, came.value)
    if known.excluded:
        return Step(record=known, recorded=Recorded.EXCLUDED)
    before = known.outcome(metric.name)
    if before is not None:
        if not came.replace or before == outcome:
            return Step(record=known, recorded=Recorded.DUPLICATE)
        counters.add_outcome(deltas, known.variant, before, sign=-1)
    counters.add_outcome(deltas, known.variant, outcome)
    others = tuple(one for one in known.outcomes if one.metric != metric.name)
    return Step(record=replace(known, outcomes=(*others, outcome)), recorded=Recorded.RECORDED)


def measured(metric: Metric, value: float) -> Outcome:
    """Return a value as it is counted: on the scale of the metric's range, within it.

    Raises:
        InvalidArgument: see `conclude`.
    """
    if not isfinite(value):
        raise InvalidArgument.of("value", "must be a finite number")
    if metric.kind is MetricKind.BINARY and value not in {0, 1}:
        raise InvalidArgument.of("value", f"must be 0 or 1: {metric.name!r} is BINARY")
    share = (value - metric.low) / metric.span
    return Outcome(
        metric=metric.name,
        value=round(min(1.0, max(0.0, share)) * FIXED_ONE),
        clamped=not 0.0 <= share <= 1.0,
    )
