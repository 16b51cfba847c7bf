"""Outcomes that hardly ever differ: what a hundred successes in a row do not prove."""

import random

import pytest

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.experiments.analysis import analyse
from controlplane.domain.experiments.counters import Arm, PhaseCounts
from controlplane.domain.experiments.model import (
    FIXED_ONE,
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
from controlplane.domain.experiments.statistics import Sums, difference
from controlplane.domain.experiments.validation import validate

VARIANTS = (
    Variant(name="a", weight_bp=5_000, control=True, prompt_version=1),
    Variant(name="b", weight_bp=5_000, prompt_version=2),
)


def planned(**plan) -> Experiment:
    return Experiment(
        key="greeting",
        subject=Subject(kind=SubjectKind.PROMPT, name="greeting"),
        plan=Plan(**plan),
        variants=VARIANTS,
        state=ExperimentState.RUNNING,
        phases=(Phase(number=1, variants=VARIANTS, coverage_bp=10_000, started_at_ms=0),),
    )


def of_rate(count: int, good: int) -> Sums:
    return Sums(count=count, total=good * FIXED_ONE, squares=good * FIXED_ONE**2)


def counted(count: int, a: int, b: int, **counts: int) -> PhaseCounts:
    return PhaseCounts(
        phase=1,
        arms=tuple(
            Arm(variant=name, exposed=count, metrics={"solved": of_rate(count, good)})
            for name, good in (("a", a), ("b", b))
        ),
        clashes={Exclusion.OTHER_VARIANT: 0},
        **counts,
    )


@pytest.mark.parametrize(("rate", "margin"), [(0.9, 0.05), (0.99, 0.01), (0.999, 0.01)])
def test_worse_by_the_whole_margin_is_called_good_enough_in_five_percent_at_most(rate, margin):
    experiment = planned(primary=Metric(name="solved", margin=margin, non_inferiority=True))
    generator, runs, wrong = random.Random(7), 300, 0
    for _ in range(runs):
        a = b = 0
        for look in range(1, 41):
            a += sum(generator.random() < rate for _ in range(25))
            b += sum(generator.random() < rate - margin for _ in range(25))
            found = analyse(experiment, experiment.phases[0], counted(25 * look, a, b), 1)
            if found.verdict is Verdict.SHIP:
                wrong += 1
                break
    assert wrong <= 0.05 * runs


def test_two_arms_without_a_failure_still_have_an_interval():
    all_good = of_rate(100, 100)
    found = difference(all_good, all_good, alpha=0.05, n_star=1_000, binary=True)
    assert found.estimate == 0
    assert found.lower == pytest.approx(-found.upper)
    assert found.upper > 0.02


def test_numbers_that_differ_are_taken_as_they_are():
    low = Sums(count=100, total=100 * 50, squares=100 * 50 * 50 + 100)
    plain = difference(low, low, alpha=0.05, n_star=1_000, binary=False)
    assert plain.upper < 0.001


def test_a_phase_whose_units_are_all_recorded_ends_though_some_do_not_count():
    experiment = planned(primary=Metric(name="solved"), max_units=1_000)
    full = counted(400, 200, 200, earlier=200)
    found = analyse(experiment, experiment.phases[0], full, 1)
    assert found.progress == 1
    assert found.verdict is Verdict.KEEP_CONTROL
    assert "units" in found.why


def test_a_range_whose_width_is_no_number_is_refused():
    endless = Metric(name="solved", kind=MetricKind.NUMERIC, low=-1.7e308, high=1.7e308)
    with pytest.raises(InvalidArgument, match=r"primary\.max"):
        validate(planned(primary=endless))
