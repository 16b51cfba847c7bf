"""The gate: what passes, what is worse, and what nobody can tell."""

import random
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.prompts.comparison import Side, Verdict, compare, judge_alone
from controlplane.domain.prompts.evaluations import (
    Evaluation,
    ScoredItem,
    check_gate,
    check_items,
    p95,
)
from controlplane.domain.prompts.model import LabelGate
from controlplane.domain.prompts.refusals import NotComparable

DATASET = "sha256:" + "a" * 64
RULES = LabelGate(dataset_sha256=DATASET, scorer="exact")


def side(version: int, items: list[ScoredItem], **fields: Any) -> Side:
    run = Evaluation(
        evaluation_id=f"evl-{version}",
        prompt="greeting",
        version=version,
        content_sha256="",
        dataset_sha256=DATASET,
        scorer="exact",
    )
    return Side(run=replace(run, **fields), items=tuple(items))


def scored(scores: list[float], **fields: Any) -> list[ScoredItem]:
    return [
        ScoredItem(item_id=f"i{n}", scores=(score,), **fields) for n, score in enumerate(scores)
    ]


def verdict(new: list[ScoredItem], old: list[ScoredItem], rules: LabelGate = RULES) -> Verdict:
    return compare(side(2, new), side(1, old), rules, seed=1).verdict


def noisy(count: int, shift: float, seed: int = 3) -> tuple[list[float], list[float]]:
    draw = random.Random(seed)
    old = [draw.uniform(0.6, 0.9) for _ in range(count)]
    return [min(1.0, score + shift + draw.gauss(0, 0.02)) for score in old], old


def test_eight_items_with_three_hundredths_more_say_nothing():
    found = compare(side(2, scored([0.83] * 8)), side(1, scored([0.8] * 8)), RULES, seed=1)
    assert found.mean_difference == pytest.approx(0.03)
    assert found.verdict is Verdict.INSUFFICIENT
    assert "8 items" in found.reasons[0]


@pytest.mark.parametrize(
    ("count", "shift", "expected"),
    [
        (60, 0.05, Verdict.PASS),
        (60, 0.0, Verdict.PASS),
        (200, -0.01, Verdict.PASS),
        (60, -0.1, Verdict.REGRESSION),
        (49, 0.05, Verdict.INSUFFICIENT),
        (49, -0.3, Verdict.INSUFFICIENT),
    ],
)
def test_the_interval_decides_not_the_means(count, shift, expected):
    new, old = noisy(count, shift)
    assert verdict(scored(new), scored(old)) is expected


def test_a_wide_interval_is_not_enough():
    draw = random.Random(5)
    old = [float(draw.random() < 0.5) for _ in range(60)]
    new = [float(draw.random() < 0.5) for _ in range(60)]
    new[:4] = [1.0] * 4
    found = compare(side(2, scored(new)), side(1, scored(old)), RULES, seed=1)
    assert found.low < -0.02 < found.mean_difference
    assert found.verdict is Verdict.INSUFFICIENT


def test_the_same_seed_gives_the_same_interval():
    new, old = noisy(80, 0.01)
    one, other = (compare(side(2, scored(new)), side(1, scored(old)), RULES, seed=9) for _ in "ab")
    assert one == other
    assert one.resamples == 10_000


def test_a_critical_item_that_fails_now_is_a_regression_however_good_the_mean():
    old = scored([0.6] * 60)
    new = [*scored([0.95] * 59), ScoredItem(item_id="i59", scores=(0.1,), critical=True)]
    found = compare(side(2, new), side(1, old), RULES, seed=1)
    assert found.verdict is Verdict.REGRESSION
    assert found.regressed[0].item_id == "i59"
    assert found.low > 0
    harmless = [*new[:59], replace(new[59], critical=False)]
    assert verdict(harmless, old) is Verdict.PASS
    assert verdict(harmless, old, replace(RULES, critical_items=("i59",))) is Verdict.REGRESSION


def test_the_candidate_cannot_drop_the_mark_of_a_critical_item():
    old = scored([0.9] * 60, critical=True)
    new = scored([0.9] * 59 + [0.0])
    assert verdict(new, old) is Verdict.REGRESSION


def test_a_critical_item_regresses_in_most_of_its_trials_not_in_one():
    old = [ScoredItem(item_id=f"i{n}", scores=(1.0, 1.0, 1.0), critical=True) for n in range(120)]
    once = [*old[:119], replace(old[119], scores=(1.0, 0.0, 1.0))]
    twice = [*old[:119], replace(old[119], scores=(0.0, 0.0, 1.0))]
    assert verdict(once, old) is Verdict.PASS
    assert verdict(twice, old) is Verdict.REGRESSION


@pytest.mark.parametrize("field", ["cost", "latency_ms"])
@pytest.mark.parametrize(
    ("new", "expected"),
    [(1.2, Verdict.PASS), (1.21, Verdict.REGRESSION), (0.0, Verdict.INSUFFICIENT)],
)
def test_cost_and_latency_may_grow_by_a_fifth(field, new, expected):
    old = scored([0.9] * 60, **{field: 1.0})
    assert verdict(scored([0.9] * 60, **{field: new}), old) is expected


def test_what_the_baseline_did_not_record_is_not_judged():
    found = compare(
        side(2, scored([0.9] * 60, cost=5.0)), side(1, scored([0.9] * 60)), RULES, seed=1
    )
    assert found.verdict is Verdict.PASS
    assert found.cost_growth is None


def test_binary_outcomes_are_counted_by_mcnemar():
    old = scored([1.0] * 40 + [0.0] * 20)
    new = scored([1.0] * 39 + [0.0] + [1.0] * 7 + [0.0] * 13)
    found = compare(side(2, new), side(1, old), RULES, seed=1)
    assert (found.worse, found.better) == (1, 7)
    assert found.mcnemar_p == pytest.approx(0.0703125)


@pytest.mark.parametrize(
    "other",
    [
        {"dataset_sha256": "sha256:" + "b" * 64},
        {"scorer": "judge"},
        {"scorer_version": "2"},
    ],
)
def test_evaluations_of_other_things_are_not_compared(other):
    items = scored([0.9] * 60)
    with pytest.raises(NotComparable):
        compare(side(2, items, **other), side(1, items), RULES, seed=1)


def test_a_run_that_leaves_items_out_is_not_compared():
    with pytest.raises(NotComparable, match="i59"):
        verdict(scored([0.9] * 59), scored([0.9] * 60))


def test_the_first_version_of_a_label_needs_items_and_its_critical_ones():
    rules = replace(RULES, critical_items=("i3",))
    assert judge_alone(side(1, scored([0.9] * 60)), rules).verdict is Verdict.PASS
    assert judge_alone(side(1, scored([0.9] * 8)), rules).verdict is Verdict.INSUFFICIENT
    assert judge_alone(side(1, scored([0.9] * 3)), rules).verdict is Verdict.INSUFFICIENT
    failing = side(1, scored([0.9, 0.9, 0.9, 0.1] * 15))
    assert judge_alone(failing, rules).verdict is Verdict.REGRESSION


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ([], "items"),
        ([ScoredItem(item_id="", scores=(1.0,))], "items[0].item_id"),
        ([ScoredItem(item_id="a", scores=())], "items[0].scores"),
        ([ScoredItem(item_id="a", scores=(1.5,))], "items[0].scores"),
        ([ScoredItem(item_id="a", scores=(float("nan"),))], "items[0].scores"),
        ([ScoredItem(item_id="a", scores=(1.0,), passed=(True, True))], "items[0].passed"),
        ([ScoredItem(item_id="a", scores=(1.0,), cost=-1.0)], "items[0].cost"),
        ([ScoredItem(item_id="a", scores=(1.0,), latency_ms=float("inf"))], "items[0].latency_ms"),
        ([*scored([1.0, 1.0]), ScoredItem(item_id="i0", scores=(1.0,))], "items[2].item_id"),
        ([*scored([1.0]), ScoredItem(item_id="b", scores=(1.0, 0.0))], "items[1].scores"),
    ],
)
def test_malformed_items_are_named(items, named):
    with pytest.raises(InvalidArgument) as caught:
        check_items(items)
    assert caught.value.violations[0].field == named


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"min_items": 9}, "gate.min_items"),
        ({"max_drop": 0.6}, "gate.max_drop"),
        ({"max_drop": float("nan")}, "gate.max_drop"),
        ({"pass_score": -0.1}, "gate.pass_score"),
        ({"max_cost_growth": 11.0}, "gate.max_cost_growth"),
        ({"dataset_sha256": "md5:1"}, "gate.dataset_sha256"),
        ({"scorer": ""}, "gate.scorer"),
        ({"critical_items": ("",)}, "gate.critical_items"),
    ],
)
def test_malformed_gates_are_named(change, named):
    check_gate(RULES)
    with pytest.raises(InvalidArgument) as caught:
        check_gate(replace(RULES, **change))
    assert caught.value.violations[0].field == named


def test_the_95th_percentile_is_that_of_the_nearest_rank():
    assert p95([]) == 0
    assert p95([5.0]) == 5
    assert p95([float(n) for n in range(1, 101)]) == 95
