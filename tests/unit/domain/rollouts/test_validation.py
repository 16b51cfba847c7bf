from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.rollouts.model import Analysis, Plan, Step
from controlplane.domain.rollouts.validation import validate_plan


def steps(*weights: int) -> tuple[Step, ...]:
    return tuple(Step(weight_bp=weight) for weight in weights)


def fields_of(plan: Plan) -> list[str]:
    with pytest.raises(InvalidArgument) as refusal:
        validate_plan(plan)
    return [violation.field for violation in refusal.value.violations]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(steps=steps(10_000)),
        Plan(steps=steps(1, 1, 10_000, 10_000)),
        Plan(observe_ms=1_000, max_dwell_ms=1_000, bake_ms=0, drain_deadline_ms=1_000),
        Plan(observe_ms=86_400_000, max_dwell_ms=7 * 86_400_000, bake_ms=86_400_000),
        Plan(analysis=Analysis(max_error_rate=0.5, alpha=0.2, beta=0.0001, min_tasks=1_000_000)),
    ],
)
def test_a_plan_within_the_bounds_is_accepted(plan):
    validate_plan(plan)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": ()}, "plan.steps"),
        ({"steps": steps(*range(1, 21), 10_000)}, "plan.steps"),
        ({"steps": steps(0, 10_000)}, "plan.steps[0].weight_bp"),
        ({"steps": steps(10_000, 10_001)}, "plan.steps[1].weight_bp"),
        ({"steps": steps(5_000, 1_000, 10_000)}, "plan.steps[1].weight_bp"),
        ({"steps": steps(1_000, 5_000)}, "plan.steps[1].weight_bp"),
        ({"observe_ms": 999}, "plan.observe"),
        ({"observe_ms": 86_400_001, "max_dwell_ms": 86_400_001}, "plan.observe"),
        ({"max_dwell_ms": 59_999}, "plan.max_dwell"),
        ({"max_dwell_ms": 7 * 86_400_000 + 1}, "plan.max_dwell"),
        ({"bake_ms": -1}, "plan.bake"),
        ({"bake_ms": 86_400_001}, "plan.bake"),
        ({"progress_deadline_ms": 999}, "plan.progress_deadline"),
        ({"progress_deadline_ms": 86_400_001}, "plan.progress_deadline"),
        ({"max_pause_ms": 999}, "plan.max_pause"),
        ({"max_pause_ms": 30 * 86_400_000 + 1}, "plan.max_pause"),
        ({"drain_deadline_ms": 999}, "plan.drain_deadline"),
        ({"drain_deadline_ms": 86_400_001}, "plan.drain_deadline"),
        ({"min_fresh_instances": 0}, "plan.min_fresh_instances"),
        ({"min_fresh_instances": 1_001}, "plan.min_fresh_instances"),
    ],
)
def test_a_plan_beyond_a_bound_is_refused_by_the_name_of_its_field(
    changes: dict[str, Any], field: str
):
    assert fields_of(replace(Plan(), **changes)) == [field]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"max_error_rate": 0.0009}, "max_error_rate"),
        ({"max_error_rate": 0.51}, "max_error_rate"),
        ({"max_error_rate": float("nan")}, "max_error_rate"),
        ({"alpha": 0.00009}, "alpha"),
        ({"alpha": 0.21}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"beta": 0.0}, "beta"),
        ({"beta": 0.3}, "beta"),
        ({"min_tasks": 0}, "min_tasks"),
        ({"min_tasks": 1_000_001}, "min_tasks"),
    ],
)
def test_an_analysis_beyond_a_bound_is_refused(changes: dict[str, Any], name: str):
    assert fields_of(Plan(analysis=Analysis(**changes))) == [f"plan.analysis.{name}"]


def test_all_violations_are_named_at_once_under_the_path_of_the_caller():
    with pytest.raises(InvalidArgument) as refusal:
        validate_plan(Plan(steps=steps(0), bake_ms=-1), field="order.plan")
    assert [violation.field for violation in refusal.value.violations] == [
        "order.plan.steps[0].weight_bp",
        "order.plan.bake",
    ]
