"""What the counters of a phase say: an interval per arm and metric, and one verdict.

In this order: HOLD if units are not dealt as they should be; ROLLBACK if a guardrail is harmed, or
every arm is worse than its margin; SHIP if an arm is better and harms no guardrail; KEEP_CONTROL
when time or units are used up; else CONTINUE.

Every treatment is compared with the control. The chance of an error is shared out (Bonferroni): the
primary metric has `alpha / treatments` per arm, and the guardrails 0.01 over all of them, on the
side of harm. One side of a sequence at twice the chance errs with that chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from controlplane.domain.experiments.counters import Arm, PhaseCounts
from controlplane.domain.experiments.model import (
    Conclusion,
    Direction,
    Experiment,
    Metric,
    MetricKind,
    Phase,
    Verdict,
)
from controlplane.domain.experiments.statistics import Interval, difference, ratio_p_value

RATIO_P: Final = 0.001
"""Below, the arms are not as large as their weights say: units get lost in one of them."""

CONFLICT_SHARE: Final = 0.01
"""Share of units seen with something else than their own, above which nothing is concluded."""

LEAST_CONFLICTS: Final = 5
"""Such units below which their share says nothing."""

GUARDRAIL_ALPHA: Final = 0.01
"""Chance that any guardrail of any arm is ever called harmed, or losing, though it is not."""


class Standing(StrEnum):
    """How a metric of an arm compares with the control."""

    UNCERTAIN = "UNCERTAIN"
    BETTER = "BETTER"
    """Primary: better, or (non-inferiority) not worse by more than the margin."""
    WORSE = "WORSE"
    """Primary: worse by more than the margin."""
    SAFE = "SAFE"
    """Guardrail: not worse by more than the margin."""
    LOSING = "LOSING"
    """Guardrail: worse, but not surely by more than the margin."""
    HARMED = "HARMED"
    """Guardrail: worse by more than the margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of one arm against the control; treatment - control, in the metric's unit."""

    variant: str
    metric: str
    interval: Interval
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What one look at a phase says."""

    phase: int
    verdict: Verdict
    winner: str
    """SHIP: the arm with the largest effect among those that are better."""
    why: str
    """In words."""
    counts: PhaseCounts
    comparisons: tuple[Comparison, ...]
    ratio_p: float
    """How likely arms as uneven as these are by chance."""
    conflict_share: float
    """Share of the units that were seen with something else than their own, 0-1."""
    progress: float
    """0-1: how far the phase is, by units or time, whichever is further."""

    @property
    def conclusion(self) -> Conclusion:
        """Return what is worth keeping of it."""
        return Conclusion(phase=self.phase, verdict=self.verdict, winner=self.winner, why=self.why)


def analyse(experiment: Experiment, phase: Phase, counts: PhaseCounts, now_ms: int) -> Analysis:
    """Return what the counters of a phase say; `now_ms` for one that runs, else its end."""
    end_ms = phase.ended_at_ms or now_ms
    ratio_p = ratio_p_value(
        tuple(arm.exposed for arm in counts.arms), tuple(v.weight_bp for v in phase.variants)
    )
    seen = counts.exposed + counts.conflicting
    comparisons = tuple(_comparisons(experiment, phase, counts))
    conflict_share = counts.conflicting / seen if seen else 0.0
    by_time = (end_ms - phase.started_at_ms) / experiment.plan.max_ms
    progress = max(counts.recorded / experiment.plan.max_units, by_time)
    wrong = _what_is_wrong(counts, ratio_p, conflict_share)
    if wrong:
        verdict, winner, why = Verdict.HOLD, "", wrong
    else:
        verdict, winner, why = _verdict(experiment, counts, comparisons, progress)
    return Analysis(
        phase=phase.number,
        verdict=verdict,
        winner=winner,
        why=why,
        counts=counts,
        comparisons=comparisons,
        ratio_p=ratio_p,
        conflict_share=conflict_share,
        progress=min(1.0, max(0.0, progress)),
    )


def _what_is_wrong(counts: PhaseCounts, ratio_p: float, conflict_share: float) -> str:
    if ratio_p < RATIO_P:
        return "the arms are not as large as their weights say"
    if conflict_share > CONFLICT_SHARE and counts.conflicting >= LEAST_CONFLICTS:
        return "too many units were seen with something else than their variant"
    return ""


def _comparisons(experiment: Experiment, phase: Phase, counts: PhaseCounts) -> Iterator[Comparison]:
    plan = experiment.plan
    arms = {arm.variant: arm for arm in counts.arms}
    control = arms[phase.control.name]
    treatments = [arms[one.name] for one in phase.variants if not one.control]
    guarded = max(1, len(plan.guardrails) * len(treatments))
    for arm in treatments:
        yield _primary(plan.primary, arm, control, plan.alpha / len(treatments), experiment)
        for metric in plan.guardrails:
            # Both sides of the sequence share its alpha, and only one of them is looked at.
            yield _guardrail(metric, arm, control, 2 * GUARDRAIL_ALPHA / guarded, experiment)


def _primary(
    metric: Metric, arm: Arm, control: Arm, alpha: float, experiment: Experiment
) -> Comparison:
    interval = _between(metric, arm, control, alpha, experiment)
    gain = _gain(metric, interval)
    standing = Standing.UNCERTAIN
    if _enough(experiment, metric, arm, control):
        if gain.lower > (-metric.margin if metric.non_inferiority else 0.0):
            standing = Standing.BETTER
        elif gain.upper < -metric.margin:
            standing = Standing.WORSE
    return Comparison(variant=arm.variant, metric=metric.name, interval=interval, standing=standing)


def _guardrail(
    metric: Metric, arm: Arm, control: Arm, alpha: float, experiment: Experiment
) -> Comparison:
    interval = _between(metric, arm, control, alpha, experiment)
    gain = _gain(metric, interval)
    standing = Standing.UNCERTAIN
    if _enough(experiment, metric, arm, control):
        if gain.upper < -metric.margin:
            standing = Standing.HARMED
        elif gain.upper < 0:
            standing = Standing.LOSING
        elif gain.lower > -metric.margin:
            standing = Standing.SAFE
    return Comparison(variant=arm.variant, metric=metric.name, interval=interval, standing=standing)


def _between(
    metric: Metric, arm: Arm, control: Arm, alpha: float, experiment: Experiment
) -> Interval:
    """Return the difference in the metric's own unit."""
    found = difference(
        arm.metrics[metric.name],
        control.metrics[metric.name],
        alpha=alpha,
        n_star=experiment.plan.n_star,
        binary=metric.kind is MetricKind.BINARY,
    )
    span = metric.span
    return Interval(
        estimate=found.estimate * span, lower=found.lower * span, upper=found.upper * span
    )


def _gain(metric: Metric, interval: Interval) -> Interval:
    """Return a difference so that more is better."""
    if metric.direction is Direction.HIGHER:
        return interval
    return Interval(estimate=-interval.estimate, lower=-interval.upper, upper=-interval.lower)


def _enough(experiment: Experiment, metric: Metric, arm: Arm, control: Arm) -> bool:
    least = min(arm.metrics[metric.name].count, control.metrics[metric.name].count)
    return least >= experiment.plan.min_units_per_arm


def _verdict(
    experiment: Experiment,
    counts: PhaseCounts,
    comparisons: tuple[Comparison, ...],
    progress: float,
) -> tuple[Verdict, str, str]:
    primary = experiment.plan.primary
    for one in comparisons:
        if one.standing is Standing.HARMED:
            return Verdict.ROLLBACK, "", f"{one.variant} harms {one.metric}"
    effects = [one for one in comparisons if one.metric == primary.name]
    losing = {one.variant for one in comparisons if one.standing is Standing.LOSING}
    better = [
        one for one in effects if one.standing is Standing.BETTER and one.variant not in losing
    ]
    if better:
        best = max(better, key=lambda one: _gain(primary, one.interval).estimate)
        return Verdict.SHIP, best.variant, f"{best.variant} is better in {primary.name}"
    if effects and all(one.standing is Standing.WORSE for one in effects):
        names = " and ".join(one.variant for one in effects)
        return Verdict.ROLLBACK, "", f"{names} worse in {primary.name}"
    if progress >= 1:
        spent = "units" if counts.recorded >= experiment.plan.max_units else "time"
        return Verdict.KEEP_CONTROL, "", f"no winner within the {spent} it was given"
    return Verdict.CONTINUE, "", _what_is_missing(experiment, counts, losing)


def _what_is_missing(experiment: Experiment, counts: PhaseCounts, losing: set[str]) -> str:
    primary = experiment.plan.primary.name
    least = min((arm.metrics[primary].count for arm in counts.arms), default=0)
    wanted = experiment.plan.min_units_per_arm
    if least < wanted:
        return f"{least} of {wanted} outcomes in the smallest arm"
    if losing:
        return f"{' and '.join(sorted(losing))} loses in a guardrail"
    return "the intervals are still too wide"


def bounded(value: float) -> float | None:
    """Return a bound of an interval; None for one that is not known yet."""
    return None if value in {inf, -inf} else value
