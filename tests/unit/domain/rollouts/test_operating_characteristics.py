"""What the sequential rule does with versions whose true error rates are known, by simulation.

The expectations are those of the design; tolerances are five standard errors of the simulation plus
what rounding of the published numbers hides. Seeds are fixed, so nothing here can flicker.
"""

from collections import Counter
from collections.abc import Callable
from math import sqrt
from random import Random

import pytest

from controlplane.domain.rollouts.analysis import freeze, judge, log_likelihood_ratio
from controlplane.domain.rollouts.model import Analysis, Counts, Frozen, Plan, Step, Verdict

RUNS = 2_000
HORIZON = 1_500
"""Outcomes of the new version in one step, after which there is no verdict."""
BASELINE = 500
LONG = 1_000_000_000

ONE_STEP = Plan(steps=(Step(weight_bp=1_000),), observe_ms=1_000, max_dwell_ms=LONG)


def one_step(
    plan: Plan, weight: float, canary_rate: float, stable_rate: float, usual: float, random: Random
) -> tuple[Verdict, int]:
    """Run one step; return its verdict and the outcomes of the new version it took."""
    draw = random.random
    baseline = Counts(total=BASELINE, failed=sum(draw() < usual for _ in range(BASELINE)))
    frozen = freeze(plan, baseline)
    worse = log_likelihood_ratio(frozen, Counts(total=1, failed=1))
    better = log_likelihood_ratio(frozen, Counts(total=1, failed=0))
    least, accept_at, reject_at = plan.analysis.min_tasks, frozen.accept_at, frozen.reject_at
    failed, llr = 0, 0.0
    for total in range(1, HORIZON + 1):
        if draw() < canary_rate:
            failed += 1
            llr += worse
            crossed = llr >= reject_at
        else:
            llr += better
            crossed = llr <= accept_at and total >= least
        if crossed:
            verdict = _verdict(plan, frozen, total, failed, weight, stable_rate, random)
            return verdict, total
    return Verdict.INCONCLUSIVE, HORIZON


def _verdict(
    plan: Plan,
    frozen: Frozen,
    total: int,
    failed: int,
    weight: float,
    stable_rate: float,
    random: Random,
) -> Verdict:
    """Let the product judge; the old version is drawn only if it matters, for a breach."""
    others = round(total * (1 - weight) / weight) if failed else 0
    draw = random.random
    stable = Counts(total=others, failed=sum(draw() < stable_rate for _ in range(others)))
    canary = Counts(total=total, failed=failed)
    verdict, _, _ = judge(
        plan, frozen, canary, stable, observed_ms=plan.observe_ms, elapsed_ms=plan.observe_ms
    )
    assert verdict is not Verdict.CONTINUE
    return verdict


def table_row(
    canary_rate: float, stable_rate: float, usual: float, seed: int
) -> tuple[Callable[[Verdict], float], float]:
    random = Random(seed)
    verdicts: Counter[Verdict] = Counter()
    outcomes = 0
    for _ in range(RUNS):
        verdict, total = one_step(ONE_STEP, 0.1, canary_rate, stable_rate, usual, random)
        verdicts[verdict] += 1
        outcomes += total
    return (lambda verdict: verdicts[verdict] / RUNS), outcomes / RUNS


def near(expected: float, *, rounding: float = 0.005) -> tuple[float, float]:
    error = 5 * sqrt(max(expected * (1 - expected), 0.001) / RUNS) + rounding
    return expected - error, expected + error


@pytest.mark.parametrize(
    ("canary", "stable", "verdict", "share", "mean"),
    [
        (0.01, 0.01, Verdict.PASS, 1.0, 139),
        (0.02, 0.02, Verdict.PASS, 0.997, 242),
        (0.03, 0.03, Verdict.PASS, 0.926, None),
        (0.05, 0.05, Verdict.PASS, 0.86, None),
        (0.05, 0.01, Verdict.BREACH, 0.956, 272),
        (0.10, 0.02, Verdict.BREACH, 1.0, 92),
        (0.50, 0.01, Verdict.BREACH, 1.0, 12),
    ],
)
def test_the_published_table_is_what_the_rule_does(canary, stable, verdict, share, mean):
    shares, outcomes = table_row(canary, stable, stable, seed=20_260_101)
    low, high = near(share)
    assert low <= shares(verdict) <= high
    if mean is not None:
        assert outcomes == pytest.approx(mean, rel=0.15)


def test_an_incident_that_strikes_both_versions_pauses_instead_of_rolling_back():
    shares, _ = table_row(0.20, 0.20, 0.01, seed=7)
    low, _ = near(0.96)
    assert shares(Verdict.ENVIRONMENT) >= low
    assert shares(Verdict.BREACH) <= 1 - low


WHOLE = Plan(observe_ms=1_000, max_dwell_ms=LONG)
"""The default plan: 10 %, 50 %, 100 %, with its chance of an error split over the three."""


def whole_rollout(canary_rate: float, stable_rate: float, random: Random) -> Verdict:
    for step in WHOLE.steps:
        weight = step.weight_bp / 10_000
        verdict, _ = one_step(WHOLE, weight, canary_rate, stable_rate, stable_rate, random)
        if verdict is not Verdict.PASS:
            return verdict
    return Verdict.PASS


def test_a_healthy_version_is_promoted_in_at_least_99_of_100_rollouts():
    random = Random(11)
    verdicts = Counter(whole_rollout(0.02, 0.02, random) for _ in range(RUNS))
    assert verdicts[Verdict.PASS] >= 0.99 * RUNS


def test_a_version_that_fails_at_ten_percent_is_always_rolled_back():
    random = Random(12)
    verdicts = Counter(whole_rollout(0.10, 0.02, random) for _ in range(RUNS))
    assert verdicts == {Verdict.BREACH: RUNS}


@pytest.mark.parametrize(
    ("p0", "p1", "clean", "straight_errors"),
    [
        (0.01, 0.05, 73, 3),
        (0.02, 0.05, 97, 5),
        (0.02, 0.10, 36, 3),
        (0.05, 0.20, 18, 4),
        (0.10, 0.30, 12, 5),
    ],
)
def test_the_cheat_sheet_says_what_it_takes_to_pass_and_to_abort(p0, p1, clean, straight_errors):
    plan = Plan(steps=(Step(weight_bp=10_000),), analysis=Analysis(min_tasks=1), observe_ms=1_000)
    default = freeze(plan, Counts())
    frozen = Frozen(p0=p0, p1=p1, accept_at=default.accept_at, reject_at=default.reject_at)

    def verdict(total: int, failed: int) -> Verdict:
        return judge(
            plan,
            frozen,
            Counts(total=total, failed=failed),
            Counts(),
            observed_ms=1_000,
            elapsed_ms=1_000,
        )[0]

    assert verdict(clean - 1, 0) is Verdict.CONTINUE
    assert verdict(clean, 0) is Verdict.PASS
    assert verdict(straight_errors - 1, straight_errors - 1) is Verdict.CONTINUE
    assert verdict(straight_errors, straight_errors) is Verdict.BREACH
