"""How a step is judged: by the outcomes of the new version, held against a limit and the old one.

Every outcome is a success or a failure, so two integers per version say everything, and they
survive a crash. SEQUENTIAL is Wald's sequential probability ratio test: with each outcome it either
has seen enough, in one direction or the other, or goes on; its chance of rolling back a healthy
version holds over all looks, however many. THRESHOLD looks once, when the observation is over.

A breach is held against the old version under the same conditions: if that fails alike, the fault
is in the environment, and rolling back would not mend it.
"""

from collections.abc import Callable, Mapping
from math import isfinite, log
from typing import Final

from controlplane.domain.rollouts.model import (
    AnalysisKind,
    Counts,
    Frozen,
    Plan,
    Verdict,
)
from controlplane.domain.rollouts.statistics import fisher_worse, wilson_upper

HEALTHY_RATE: Final = 0.02
"""Error rate that a healthy version may have, if the old one shows nothing higher."""

BASELINE_MARGIN: Final = 0.01
"""How much worse than the old version's upper bound the new one may be."""

BASELINE_MINIMUM: Final = 100
"""Outcomes of the old version before its rate moves the limit: fewer say little about 5 %."""

APART: Final = 0.6
"""The healthy rate is at most this share of the limit: closer ones need too many outcomes to tell
apart."""

CONCURRENT_MINIMUM: Final = 20
"""Outcomes of the old version in the step before they stand alone; of fewer (at full weight there
are none) those before the step are taken as well."""

SIGNIFICANT: Final = 0.05
"""p-value below which the new version is worse than the old one, by more than chance."""

Judgement = tuple[Verdict, float, str]
"""The verdict, the log-likelihood ratio (0.0 for THRESHOLD), and the reason in words."""


def tests_of(plan: Plan) -> int:
    """Return how often a plan tests: each step, and the old version's warm time after the last."""
    return len(plan.steps) + (1 if plan.bake_ms else 0)


def freeze(plan: Plan, baseline: Counts) -> Frozen:
    """Return what the step that begins now is judged against.

    `baseline` is the old version's newest outcomes before the step. `alpha` is the chance over all
    steps, so each gets its part.
    """
    analysis = plan.analysis
    limit = analysis.max_error_rate
    healthy = HEALTHY_RATE
    if baseline.total:
        healthy = max(healthy, baseline.failed / baseline.total)
    if analysis.kind is AnalysisKind.SEQUENTIAL and baseline.total >= BASELINE_MINIMUM:
        usual = wilson_upper(baseline.failed, baseline.total) + BASELINE_MARGIN
        # Above one half there is nothing left to compare.
        limit = max(limit, min(usual, 0.5))
    healthy = min(healthy, APART * limit)
    alpha = analysis.alpha / tests_of(plan)
    return Frozen(
        p0=healthy,
        p1=limit,
        accept_at=log(analysis.beta / (1 - alpha)),
        reject_at=log((1 - analysis.beta) / alpha),
        baseline=baseline,
    )


def judge(
    plan: Plan,
    frozen: Frozen,
    canary: Counts,
    stable: Counts,
    *,
    observed_ms: int,
    elapsed_ms: int,
) -> Judgement:
    """Judge one look at the outcomes of a step.

    `observed_ms` counts from the new version's first work in the step, `elapsed_ms` from the
    step's entry. Never passes without `min_tasks` outcomes and a full observation; counts that make
    no sense are an ERROR.
    """
    for whose, counts in (("new", canary), ("old", stable)):
        if not _makes_sense(counts):
            why = f"outcomes of the {whose} version make no sense: {_said(counts)}"
            return Verdict.ERROR, 0.0, why
    verdict, llr = _RULES[plan.analysis.kind](plan, frozen, canary, observed_ms)
    if verdict is Verdict.BREACH:
        verdict, message = _held_against_the_old(plan, frozen, canary, stable)
        return verdict, llr, message
    if verdict is Verdict.PASS:
        return verdict, llr, f"{_said(canary)}: within the limit of {frozen.p1 * 100:.3g} %"
    if elapsed_ms >= plan.max_dwell_ms:
        return Verdict.INCONCLUSIVE, llr, f"{_said(canary)}: no verdict within the longest dwell"
    if not canary.total:
        return Verdict.CONTINUE, llr, "no outcome of the new version yet"
    return Verdict.CONTINUE, llr, f"{_said(canary)}: not enough to tell"


def _sequential(
    plan: Plan, frozen: Frozen, canary: Counts, observed_ms: int
) -> tuple[Verdict, float]:
    llr = log_likelihood_ratio(frozen, canary)
    if llr >= frozen.reject_at:
        return Verdict.BREACH, llr
    enough = canary.total >= plan.analysis.min_tasks and observed_ms >= plan.observe_ms
    if llr <= frozen.accept_at and enough:
        return Verdict.PASS, llr
    return Verdict.CONTINUE, llr


def _threshold(
    plan: Plan,
    frozen: Frozen,  # noqa: ARG001 - same signature as the other rule
    canary: Counts,
    observed_ms: int,
) -> tuple[Verdict, float]:
    if canary.total < plan.analysis.min_tasks or observed_ms < plan.observe_ms:
        return Verdict.CONTINUE, 0.0
    over = canary.failed / canary.total > plan.analysis.max_error_rate
    return (Verdict.BREACH if over else Verdict.PASS), 0.0


_RULES: Final[
    Mapping[AnalysisKind, Callable[[Plan, Frozen, Counts, int], tuple[Verdict, float]]]
] = {AnalysisKind.SEQUENTIAL: _sequential, AnalysisKind.THRESHOLD: _threshold}


def log_likelihood_ratio(frozen: Frozen, canary: Counts) -> float:
    """Return how much likelier the outcomes are at the limit than from a healthy version, as ln."""
    good = canary.total - canary.failed
    return canary.failed * log(frozen.p1 / frozen.p0) + good * log(
        (1 - frozen.p1) / (1 - frozen.p0)
    )


def _held_against_the_old(
    plan: Plan, frozen: Frozen, canary: Counts, stable: Counts
) -> tuple[Verdict, str]:
    """Tell a version that is worse from an incident that strikes both.

    An incident needs a sign of it: an old version that does not fail excuses nothing, and for
    THRESHOLD it must be over the limit itself.
    """
    reference = stable
    if stable.total < CONCURRENT_MINIMUM:
        reference = Counts(
            total=stable.total + frozen.baseline.total,
            failed=stable.failed + frozen.baseline.failed,
        )
    p = fisher_worse(canary.failed, canary.total, reference.failed, reference.total)
    both = f"{_said(canary)}, of the old version {_said(reference)}"
    struck = reference.failed > 0
    if plan.analysis.kind is AnalysisKind.THRESHOLD:
        struck = reference.failed > frozen.p1 * reference.total
    if p >= SIGNIFICANT and struck:
        return Verdict.ENVIRONMENT, f"{both}: alike (p = {p:.3f}), so it is not this version"
    return Verdict.BREACH, f"{both}: over the limit of {frozen.p1 * 100:.3g} %"


def _makes_sense(counts: Counts) -> bool:
    finite = isfinite(counts.total) and isfinite(counts.failed)
    return finite and 0 <= counts.failed <= counts.total


def _said(counts: Counts) -> str:
    return f"{counts.failed} of {counts.total} failed"
