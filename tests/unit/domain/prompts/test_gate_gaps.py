"""The gate, where two evaluations agree to leave something out, or in everything."""

from dataclasses import replace

import pytest

from controlplane.domain.errors import LimitExceeded
from controlplane.domain.prompts.comparison import Side, Verdict, compare
from controlplane.domain.prompts.evaluations import Evaluation, ScoredItem
from controlplane.domain.prompts.labels import with_gate
from controlplane.domain.prompts.model import LabelGate, Prompt

DATASET = "sha256:" + "a" * 64
RULES = LabelGate(dataset_sha256=DATASET, scorer="exact")


def side(version: int, scores: list[float]) -> Side:
    run = Evaluation(
        evaluation_id=f"evl-{version}",
        prompt="greeting",
        version=version,
        content_sha256="",
        dataset_sha256=DATASET,
        scorer="exact",
    )
    items = tuple(ScoredItem(item_id=f"i{n}", scores=(one,)) for n, one in enumerate(scores))
    return Side(run=run, items=items)


def test_a_critical_item_that_both_sides_leave_out_is_missed():
    rules = replace(RULES, critical_items=("i3", "refuses-a-bomb"))
    found = compare(side(2, [0.9] * 60), side(1, [0.9] * 60), rules, seed=1)
    assert found.verdict is Verdict.INSUFFICIENT
    assert "'refuses-a-bomb'" in found.reasons[0]


def test_what_equals_the_baseline_is_no_regression_where_no_drop_is_accepted():
    rules = replace(RULES, max_drop=0.0)
    found = compare(side(2, [0.9] * 60), side(1, [0.9] * 60), rules, seed=1)
    assert found.verdict is Verdict.INSUFFICIENT


@pytest.mark.parametrize("drop", [0.02, 0.03])
def test_a_fall_by_all_that_is_accepted_is_a_regression(drop):
    found = compare(side(2, [0.9 - drop] * 60), side(1, [0.9] * 60), RULES, seed=1)
    assert found.verdict is Verdict.REGRESSION


def test_critical_items_of_all_gates_together_are_bounded():
    gate = replace(RULES, critical_items=tuple(f"{n:0200}" for n in range(1_000)))
    prompt = with_gate(Prompt(name="p", latest_version=1, latest_sha256=""), "one", gate)
    assert with_gate(prompt, "one", gate).gates["one"] == gate
    with pytest.raises(LimitExceeded, match="critical items"):
        with_gate(prompt, "two", gate)


@pytest.mark.parametrize(("new", "old", "dearer"), [(5, 1, 1.0), (1, 5, 1.0), (1, 5, 1.5)])
def test_costs_are_of_a_trial_however_often_each_side_tried(new, old, dearer):
    def tried(version: int, trials: int, cost: float) -> Side:
        items = tuple(
            ScoredItem(item_id=f"i{n}", scores=(0.9,) * trials, cost=cost * trials)
            for n in range(60)
        )
        return replace(side(version, []), items=items)

    found = compare(tried(2, new, 0.01 * dearer), tried(1, old, 0.01), RULES, seed=1)
    assert found.cost_growth == pytest.approx(dearer - 1)
    assert found.verdict is (Verdict.PASS if dearer == 1 else Verdict.REGRESSION)
