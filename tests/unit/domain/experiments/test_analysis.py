"""What verdicts are worth: seeded simulations, and each rule by itself."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.experiments.analysis import Analysis, Standing, analyse
from controlplane.domain.experiments.counters import Arm, PhaseCounts
from controlplane.domain.experiments.model import (
    FIXED_ONE,
    Direction,
    Exclusion,
    Experiment,
    ExperimentState,
    Metric,
    MetricKind,
    Phase,
    Plan,
    Subject,
    SubjectKind,
    Variant,
    Verdict,
)
from controlplane.domain.experiments.statistics import (
    Sums,
    chi_square_tail,
    difference,
    ratio_p_value,
)

SOLVED = Metric(name="solved")
COST = Metric(
    name="cost",
    kind=MetricKind.NUMERIC,
    low=0.0,
    high=10.0,
    direction=Direction.LOWER,
    margin=0.5,
)
DAY_MS = 86_400_000


def planned(*weights: int, **plan) -> Experiment:
    weights = weights or (5_000, 5_000)
    names = "abcdefghij"
    variants = tuple(
        Variant(name=names[i], weight_bp=w, control=not i) for i, w in enumerate(weights)
    )
    return Experiment(
        key="greeting",
        subject=Subject(kind=SubjectKind.PROMPT, name="greeting"),
        plan=Plan(**({"primary": SOLVED} | plan)),
        variants=variants,
        state=ExperimentState.RUNNING,
        phases=(Phase(number=1, variants=variants, coverage_bp=10_000, started_at_ms=0),),
    )


def of_rate(count: int, good: int) -> Sums:
    """Return what `good` successes out of `count` are counted as."""
    return Sums(count=count, total=good * FIXED_ONE, squares=good * FIXED_ONE**2)


def of_values(values: list[float], metric: Metric) -> Sums:
    fixed = [round((value - metric.low) / metric.span * FIXED_ONE) for value in values]
    return Sums(count=len(fixed), total=sum(fixed), squares=sum(one * one for one in fixed))


def judged(experiment: Experiment, *arms: tuple[int, dict[str, Sums]], **counts) -> Analysis:
    """Analyse arms, given as units and sums, one day after the beginning."""
    phase = experiment.phases[-1]
    nothing = {metric.name: Sums() for metric in experiment.metrics}
    counted = PhaseCounts(
        phase=1,
        arms=tuple(
            Arm(variant=variant.name, exposed=units, metrics=nothing | sums)
            for variant, (units, sums) in zip(phase.variants, arms, strict=True)
        ),
        **({"clashes": {}} | counts),
    )
    return analyse(experiment, phase, counted, DAY_MS)


def rates(experiment: Experiment, *pairs: tuple[int, int]) -> Analysis:
    return judged(experiment, *((n, {"solved": of_rate(n, good)}) for n, good in pairs))


def played(generator: random.Random, experiment: Experiment, *chances: float, looks: int = 40):
    """Play units of 50 per arm and look after each; return the first verdict that is one."""
    good = [0] * len(chances)
    for look in range(1, looks + 1):
        for arm, chance in enumerate(chances):
            good[arm] += sum(generator.random() < chance for _ in range(50))
        analysis = rates(experiment, *((50 * look, one) for one in good))
        if analysis.verdict is not Verdict.CONTINUE:
            return analysis, 50 * look
    return analysis, 50 * looks


def test_looking_forty_times_at_no_difference_concludes_in_five_percent_at_most():
    generator, experiment = random.Random(1), planned()
    runs = 300
    wrong = sum(
        played(generator, experiment, 0.8, 0.8)[0].verdict is not Verdict.CONTINUE
        for _ in range(runs)
    )
    assert wrong <= 0.05 * runs


def test_five_points_more_are_found_in_most_runs_and_before_the_end():
    generator, experiment = random.Random(2), planned()
    runs = 200
    ends = [played(generator, experiment, 0.80, 0.85) for _ in range(runs)]
    found = [units for analysis, units in ends if analysis.verdict is Verdict.SHIP]
    assert len(found) >= 0.85 * runs
    assert sum(units for _, units in ends) / runs < 1_400
    assert not [one for one, _ in ends if one.verdict is Verdict.ROLLBACK]


def test_ten_points_less_are_rolled_back_early():
    generator, experiment = random.Random(3), planned()
    ends = [played(generator, experiment, 0.8, 0.7) for _ in range(50)]
    assert all(analysis.verdict is Verdict.ROLLBACK for analysis, _ in ends)
    assert sum(units for _, units in ends) / 50 < 600


def test_three_arms_without_difference_conclude_in_five_percent_at_most():
    generator, experiment = random.Random(4), planned(3_334, 3_333, 3_333)
    runs = 150
    wrong = sum(
        played(generator, experiment, 0.5, 0.5, 0.5)[0].verdict is not Verdict.CONTINUE
        for _ in range(runs)
    )
    assert wrong <= 0.05 * runs


def test_the_interval_covers_the_truth_at_every_look():
    generator, missed, runs = random.Random(5), 0, 150
    for _ in range(runs):
        good = [0, 0]
        for look in range(2, 40):
            good = [one + sum(generator.random() < 0.3 for _ in range(25)) for one in good]
            n = 25 * (look - 1)
            found = difference(
                of_rate(n, good[1]), of_rate(n, good[0]), alpha=0.05, n_star=1_000, binary=True
            )
            if n >= 100 and not found.lower <= 0 <= found.upper:
                missed += 1
                break
    assert missed <= 0.05 * runs


def test_nothing_is_concluded_from_few_units():
    analysis = rates(planned(), (99, 10), (99, 99))
    assert analysis.verdict is Verdict.CONTINUE
    assert "99 of 100" in analysis.why


def test_a_mismatched_ratio_holds_whatever_the_outcomes_say():
    experiment = planned()
    sums = {"solved": of_rate(1_000, 500)}, {"solved": of_rate(1_200, 1_100)}
    analysis = judged(experiment, (1_000, sums[0]), (1_200, sums[1]))
    assert analysis.ratio_p < 0.001
    assert (analysis.verdict, analysis.winner) == (Verdict.HOLD, "")
    even = judged(experiment, (1_100, sums[0]), (1_100, sums[1]))
    assert (even.verdict, even.winner) == (Verdict.SHIP, "b")


def test_too_many_conflicting_units_hold():
    experiment = planned()
    sums = {"solved": of_rate(1_000, 500)}, {"solved": of_rate(1_000, 900)}
    arms = (1_000, sums[0]), (1_000, sums[1])
    clashes = {Exclusion.OTHER_VARIANT: 30}
    held = judged(experiment, *arms, conflicting=30, clashes=clashes)
    assert held.verdict is Verdict.HOLD
    assert held.conflict_share == pytest.approx(30 / 2_030)
    assert judged(experiment, *arms, conflicting=20).verdict is Verdict.SHIP


def test_units_of_earlier_phases_raise_no_alarm():
    arms = (1_000, {"solved": of_rate(1_000, 500)}), (1_000, {"solved": of_rate(1_000, 900)})
    assert judged(planned(), *arms, earlier=500).verdict is Verdict.SHIP


def costs(mean: float, count: int = 2_000, spread: float = 1.0) -> Sums:
    generator = random.Random(round(mean * 100))
    return of_values(
        [min(10.0, max(0.0, generator.gauss(mean, spread))) for _ in range(count)], COST
    )


@pytest.mark.parametrize(
    ("mean", "standing", "verdict"),
    [
        (2.0, Standing.SAFE, Verdict.SHIP),
        (2.25, Standing.LOSING, Verdict.CONTINUE),
        (3.0, Standing.HARMED, Verdict.ROLLBACK),
    ],
)
def test_a_guardrail_decides_whether_a_better_variant_ships(mean, standing, verdict):
    experiment = planned(guardrails=(COST,))
    analysis = judged(
        experiment,
        (2_000, {"solved": of_rate(2_000, 1_000), "cost": costs(2.0)}),
        (2_000, {"solved": of_rate(2_000, 1_400), "cost": costs(mean)}),
    )
    (guardrail,) = [one for one in analysis.comparisons if one.metric == "cost"]
    assert (guardrail.standing, analysis.verdict) == (standing, verdict)


def test_trivial_harm_is_none_however_sure_it_is():
    experiment = planned(guardrails=(replace(COST, margin=0.5),))
    many = 80_000
    analysis = judged(
        experiment,
        (many, {"solved": of_rate(many, 40_000), "cost": of_rate(many, 20_000)}),
        (many, {"solved": of_rate(many, 40_000), "cost": of_rate(many, 20_800)}),
    )
    (guardrail,) = [one for one in analysis.comparisons if one.metric == "cost"]
    assert guardrail.interval.lower > 0
    assert guardrail.standing is not Standing.HARMED


def test_differences_are_in_the_unit_of_the_metric():
    analysis = judged(
        planned(primary=COST), (2_000, {"cost": costs(2.0)}), (2_000, {"cost": costs(3.0)})
    )
    (only,) = analysis.comparisons
    assert only.interval.estimate == pytest.approx(1.0, abs=0.1)
    assert (only.standing, analysis.verdict) == (Standing.WORSE, Verdict.ROLLBACK)


def test_a_variant_that_is_worse_by_less_than_the_margin_is_not_rolled_back():
    strict, lenient = planned(), planned(primary=replace(SOLVED, margin=0.1))
    pairs = (4_000, 3_200), (4_000, 3_000)
    assert rates(strict, *pairs).verdict is Verdict.ROLLBACK
    assert rates(lenient, *pairs).verdict is Verdict.CONTINUE


def test_non_inferiority_ships_what_is_not_much_worse():
    pairs = (20_000, 16_000), (20_000, 15_990)
    experiment = planned(primary=replace(SOLVED, margin=0.05, non_inferiority=True))
    assert rates(experiment, *pairs).verdict is Verdict.SHIP
    assert rates(planned(), *pairs).verdict is Verdict.CONTINUE


def test_the_best_of_several_better_variants_wins():
    pairs = (2_000, 1_000), (2_000, 1_400), (2_000, 1_600)
    analysis = rates(planned(3_334, 3_333, 3_333), *pairs)
    assert (analysis.verdict, analysis.winner) == (Verdict.SHIP, "c")


def test_one_bad_arm_among_several_does_not_end_it():
    pairs = (2_000, 1_000), (2_000, 500), (2_000, 1_010)
    assert rates(planned(3_334, 3_333, 3_333), *pairs).verdict is Verdict.CONTINUE


def test_used_up_units_or_time_keep_the_control():
    by_units = planned(max_units=1_000)
    assert rates(by_units, (500, 250), (500, 251)).verdict is Verdict.KEEP_CONTROL
    by_time = planned(max_ms=DAY_MS)
    spent = rates(by_time, (10, 5), (10, 5))
    assert (spent.verdict, spent.progress) == (Verdict.KEEP_CONTROL, 1.0)
    assert "time" in spent.why


def test_a_winner_is_a_winner_at_the_last_unit():
    assert rates(planned(max_units=1_000), (500, 200), (500, 400)).verdict is Verdict.SHIP


@given(
    counts=st.lists(st.integers(0, 400), min_size=2, max_size=6),
    chance=st.floats(0.05, 0.95),
)
def test_any_counts_have_a_verdict_and_ordered_intervals(counts, chance):
    weights = [10_000 // len(counts)] * len(counts)
    weights[0] += 10_000 - sum(weights)
    experiment = planned(*weights)
    analysis = rates(experiment, *((n, round(n * chance)) for n in counts))
    assert 0 <= analysis.ratio_p <= 1
    assert 0 <= analysis.progress <= 1
    for one in analysis.comparisons:
        assert one.interval.lower <= one.interval.estimate <= one.interval.upper


@given(values=st.lists(st.integers(0, FIXED_ONE), min_size=2, max_size=200))
def test_sums_give_the_mean_and_variance_of_the_values(values):
    sums = Sums(count=len(values), total=sum(values), squares=sum(v * v for v in values))
    exact = [value / FIXED_ONE for value in values]
    mean = sum(exact) / len(exact)
    assert sums.mean == pytest.approx(mean)
    expected = sum((v - mean) ** 2 for v in exact) / (len(exact) - 1)
    assert sums.variance == pytest.approx(expected, abs=1e-9)


def test_the_tail_of_chi_square_is_that_of_the_tables():
    for statistic, degrees, expected in (
        (3.841458820694124, 1, 0.05),
        (10.827566170662733, 1, 0.001),
        (5.991464547107979, 2, 0.05),
        (7.814727903251179, 3, 0.05),
        (9.487729036781154, 4, 0.05),
        (27.877164871256568, 9, 0.001),
    ):
        assert chi_square_tail(statistic, degrees) == pytest.approx(expected, rel=1e-9)
    assert chi_square_tail(0.0, 1) == chi_square_tail(0.0, 2) == 1.0


def test_a_ratio_of_few_units_is_not_tested():
    assert ratio_p_value((15, 0), (5_000, 5_000)) == 1.0
    assert ratio_p_value((16, 0), (5_000, 5_000)) < 0.001
