"""What a plan may ask for. Everything that is wrong is named at once, by its path."""

from collections.abc import Iterator
from math import isfinite
from typing import Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.rollouts.model import Analysis, Plan, Step
from controlplane.domain.routes import WHOLE_BP

MAX_STEPS: Final = 20
"""Steps of a plan: more weights cannot be told apart by their outcomes."""

MAX_MIN_TASKS: Final = 1_000_000
"""Largest `min_tasks`; beyond it is a mistake of units."""

MIN_ERROR_RATE: Final = 0.001
"""Smallest limit: below it a step needs thousands of outcomes."""

MAX_ERROR_RATE: Final = 0.5
"""Largest limit: a version that fails more often than not is no version."""

MIN_CHANCE: Final = 0.0001
"""Smallest `alpha` and `beta`."""

MAX_CHANCE: Final = 0.2
"""Largest `alpha` and `beta`."""

MAX_FRESH_INSTANCES: Final = 1_000
"""Largest `min_fresh_instances`."""

SECOND_MS: Final = 1_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000


def validate_plan(plan: Plan, field: str = "plan") -> None:
    """Check a plan with every default filled in.

    Raises:
        InvalidArgument: with every violation, such as `plan.steps[1].weight_bp`.
    """
    violations = tuple(_violations(plan, field))
    if violations:
        raise InvalidArgument(*violations)


def _violations(plan: Plan, field: str) -> Iterator[FieldViolation]:
    yield from _step_violations(plan.steps, f"{field}.steps")
    yield from _analysis_violations(plan.analysis, f"{field}.analysis")
    for name, value, low, high, words in (
        ("observe", plan.observe_ms, SECOND_MS, DAY_MS, "1 s - 24 h"),
        ("max_dwell", plan.max_dwell_ms, SECOND_MS, 7 * DAY_MS, "1 s - 7 days"),
        ("bake", plan.bake_ms, 0, DAY_MS, "0 - 24 h"),
        ("progress_deadline", plan.progress_deadline_ms, SECOND_MS, DAY_MS, "1 s - 24 h"),
        ("max_pause", plan.max_pause_ms, SECOND_MS, 30 * DAY_MS, "1 s - 30 days"),
        ("drain_deadline", plan.drain_deadline_ms, SECOND_MS, DAY_MS, "1 s - 24 h"),
    ):
        if not low <= value <= high:
            yield FieldViolation(f"{field}.{name}", f"must be {words}")
    if plan.max_dwell_ms < plan.observe_ms:
        yield FieldViolation(f"{field}.max_dwell", "must not be shorter than observe")
    if not 1 <= plan.min_fresh_instances <= MAX_FRESH_INSTANCES:
        yield FieldViolation(f"{field}.min_fresh_instances", f"must be 1 - {MAX_FRESH_INSTANCES}")


def _step_violations(steps: tuple[Step, ...], path: str) -> Iterator[FieldViolation]:
    if not 1 <= len(steps) <= MAX_STEPS:
        yield FieldViolation(path, f"must have 1 - {MAX_STEPS} entries")
        return
    before = 0
    for index, step in enumerate(steps):
        where = f"{path}[{index}].weight_bp"
        if not 1 <= step.weight_bp <= WHOLE_BP:
            yield FieldViolation(where, f"must be 1 - {WHOLE_BP}")
        elif step.weight_bp < before:
            yield FieldViolation(where, f"must not be below the step before, {before}")
        before = max(before, step.weight_bp)
    if 1 <= steps[-1].weight_bp < WHOLE_BP:
        yield FieldViolation(f"{path}[{len(steps) - 1}].weight_bp", f"the last must be {WHOLE_BP}")


def _analysis_violations(analysis: Analysis, path: str) -> Iterator[FieldViolation]:
    for name, value, low, high in (
        ("max_error_rate", analysis.max_error_rate, MIN_ERROR_RATE, MAX_ERROR_RATE),
        ("alpha", analysis.alpha, MIN_CHANCE, MAX_CHANCE),
        ("beta", analysis.beta, MIN_CHANCE, MAX_CHANCE),
    ):
        if not (isfinite(value) and low <= value <= high):
            yield FieldViolation(f"{path}.{name}", f"must be {low} - {high}")
    if not 1 <= analysis.min_tasks <= MAX_MIN_TASKS:
        yield FieldViolation(f"{path}.min_tasks", f"must be 1 - {MAX_MIN_TASKS}")
