from dataclasses import replace
from math import comb

import pytest

from controlplane.domain.rollouts.analysis import freeze, judge
from controlplane.domain.rollouts.model import (
    Analysis,
    AnalysisKind,
    Counts,
    Plan,
    Verdict,
)
from controlplane.domain.rollouts.statistics import fisher_worse, wilson_upper

THRESHOLD = Plan(analysis=Analysis(kind=AnalysisKind.THRESHOLD, min_tasks=20))
SEQUENTIAL = Plan()
NOTHING = Counts()


def verdict_of(plan: Plan, canary: Counts, stable: Counts = NOTHING, **times: int) -> Verdict:
    frozen = freeze(plan, Counts())
    spent = {"observed_ms": plan.observe_ms, "elapsed_ms": plan.observe_ms} | times
    return judge(plan, frozen, canary, stable, **spent)[0]


def counts(failed: int, total: int) -> Counts:
    return Counts(total=total, failed=failed)


def test_the_bound_of_a_rate_is_that_of_the_textbook():
    assert wilson_upper(0, 0) == 1.0
    assert wilson_upper(1, 10) == pytest.approx(0.4042, abs=1e-4)
    assert wilson_upper(25, 500) == pytest.approx(0.0728, abs=1e-4)
    assert wilson_upper(500, 500) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("first", "other"), [((3, 10), (1, 20)), ((0, 5), (4, 9)), ((7, 7), (0, 3)), ((2, 9), (5, 6))]
)
def test_the_exact_test_counts_the_tables_that_are_at_least_as_bad(first, other):
    (failed, total), (other_failed, other_total) = first, other
    failures = failed + other_failed
    tables = [
        comb(total, k) * comb(other_total, failures - k)
        for k in range(failed, min(total, failures) + 1)
    ]
    expected = sum(tables) / comb(total + other_total, failures)
    assert fisher_worse(failed, total, other_failed, other_total) == pytest.approx(expected)


def test_the_exact_test_says_nothing_without_data():
    assert fisher_worse(5, 5, 0, 0) == 1.0
    assert fisher_worse(0, 0, 5, 5) == 1.0


def test_the_chance_of_an_error_is_split_over_the_steps_and_the_bake():
    three = freeze(Plan(), Counts()).reject_at
    four = freeze(Plan(bake_ms=1_000), Counts()).reject_at
    assert three == pytest.approx(5.65, abs=0.01)
    assert four > three


def test_a_few_outcomes_of_the_old_version_do_not_move_the_limit():
    frozen = freeze(Plan(), counts(50, 99))
    assert frozen.p1 == 0.05
    assert frozen.p0 == pytest.approx(0.03)


def test_an_old_version_that_fails_more_than_the_limit_moves_it():
    frozen = freeze(Plan(), counts(50, 500))
    assert frozen.p1 == pytest.approx(wilson_upper(50, 500) + 0.01)
    assert frozen.p0 == pytest.approx(0.6 * frozen.p1)
    assert freeze(Plan(), counts(500, 500)).p1 == 0.5


def test_the_fixed_threshold_is_not_moved_by_the_old_version():
    assert freeze(THRESHOLD, counts(50, 500)).p1 == 0.05


@pytest.mark.parametrize("plan", [SEQUENTIAL, THRESHOLD])
@pytest.mark.parametrize(
    "nonsense",
    [counts(-1, 10), counts(11, 10), counts(0, -1), Counts(total=float("nan"), failed=0)],  # type: ignore[arg-type]  # what a broken source may yield
)
def test_counts_that_make_no_sense_are_an_error_and_never_a_pass(plan, nonsense):
    assert verdict_of(plan, nonsense) is Verdict.ERROR
    assert verdict_of(plan, counts(0, 10_000), nonsense) is Verdict.ERROR


@pytest.mark.parametrize("plan", [SEQUENTIAL, THRESHOLD])
def test_no_data_goes_on_and_then_is_inconclusive(plan):
    assert verdict_of(plan, Counts()) is Verdict.CONTINUE
    ended = {"elapsed_ms": plan.max_dwell_ms}
    assert verdict_of(plan, Counts(), **ended) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("plan", [SEQUENTIAL, THRESHOLD])
def test_nothing_passes_before_the_observation_is_over(plan):
    clean = counts(0, 10_000)
    assert verdict_of(plan, clean, observed_ms=plan.observe_ms - 1) is Verdict.CONTINUE
    assert verdict_of(plan, clean) is Verdict.PASS


@pytest.mark.parametrize("plan", [SEQUENTIAL, THRESHOLD])
def test_nothing_passes_with_too_few_outcomes(plan):
    plan = replace(plan, analysis=replace(plan.analysis, min_tasks=500))
    assert verdict_of(plan, counts(0, 499)) is Verdict.CONTINUE
    assert verdict_of(plan, counts(0, 500)) is Verdict.PASS


def test_a_breach_does_not_wait_for_the_observation():
    assert verdict_of(SEQUENTIAL, counts(10, 12), counts(1, 100), observed_ms=0) is Verdict.BREACH


def test_a_breach_that_the_old_version_shares_is_the_environment():
    assert verdict_of(SEQUENTIAL, counts(10, 30), counts(60, 200)) is Verdict.ENVIRONMENT


def test_an_old_version_that_does_not_fail_excuses_nothing():
    assert verdict_of(SEQUENTIAL, counts(8, 40), counts(0, 2)) is Verdict.BREACH


def test_at_full_weight_the_baseline_stands_for_the_old_version():
    plan = SEQUENTIAL
    usual = freeze(plan, counts(5, 500))
    at = {"observed_ms": 0, "elapsed_ms": 0}
    assert judge(plan, usual, counts(10, 30), Counts(), **at)[0] is Verdict.BREACH


def test_without_any_reference_the_limit_alone_decides():
    assert verdict_of(SEQUENTIAL, counts(10, 30)) is Verdict.BREACH


def test_the_threshold_looks_once_when_the_observation_is_over():
    assert verdict_of(THRESHOLD, counts(20, 20), observed_ms=0) is Verdict.CONTINUE
    assert verdict_of(THRESHOLD, counts(1, 20)) is Verdict.PASS
    assert verdict_of(THRESHOLD, counts(2, 20), counts(0, 100)) is Verdict.BREACH


def test_the_threshold_calls_it_the_environment_only_if_the_old_version_is_over_it_too():
    assert verdict_of(THRESHOLD, counts(2, 20), counts(10, 100)) is Verdict.ENVIRONMENT
    assert verdict_of(THRESHOLD, counts(2, 20), counts(4, 100)) is Verdict.BREACH
    assert verdict_of(THRESHOLD, counts(20, 20), counts(10, 100)) is Verdict.BREACH
