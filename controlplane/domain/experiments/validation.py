"""What an experiment may ask for. Everything that is wrong is named at once, by its path."""

import re
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Final

from controlplane.domain.access.name_patterns import check_name_pattern
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.experiments.model import (
    WHOLE_BP,
    Experiment,
    Metric,
    MetricKind,
    Plan,
    Subject,
    SubjectKind,
    Variant,
)

MAX_VARIANTS: Final = 10
"""Variants of an experiment, the control included: more need more units than anybody has."""

MAX_GUARDRAILS: Final = 10
"""Guardrails of an experiment; each takes its share of the chance of error."""

MAX_AGENT_PATTERNS: Final = 64
"""Entries of `agents`."""

MAX_UNITS: Final = 1_000_000
"""Largest `max_units`: 200 bytes each in the store."""

MAX_DAYS_MS: Final = 365 * 86_400_000
"""Longest phase."""

MIN_PHASE_MS: Final = 60_000
"""Shortest phase that is worth beginning."""

MAX_TEXT_BYTES: Final = 4_096
"""Longest hypothesis and description."""

MAX_UNIT_BYTES: Final = 256
"""Longest unit, such as a session id."""

MAX_DIGEST_BYTES: Final = 128
"""Longest digest: SHA-512 in hexadecimal."""

MIN_ALPHA: Final = 0.0001
MAX_ALPHA: Final = 0.2
"""Bounds of `alpha`."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Keys, variants, metrics: no colon, slash or separator byte, which salts and keys are cut by."""

_NAME_SAID: Final = "must be 1-63 of [a-z0-9._-], starting with a letter or digit"


def validate(experiment: Experiment) -> None:
    """Check an experiment with every default filled in.

    Raises:
        InvalidArgument: with every violation, such as `variants[1].weight_bp`.
    """
    _refuse(tuple(_violations(experiment)))


def validate_phase(
    variants: Sequence[Variant], coverage_bp: int, subject: Subject, *, field: str = "variants"
) -> None:
    """Check what a new phase asks for.

    Raises:
        InvalidArgument: with every violation.
    """
    _refuse((*_variant_violations(variants, subject, field), *_coverage_violations(coverage_bp)))


def check_unit(unit: str, field: str = "unit") -> str:
    """Return the name of a unit.

    Raises:
        InvalidArgument: it is empty, too long, or does not print.
    """
    if not unit:
        raise InvalidArgument.of(field, "is required")
    if len(unit.encode(errors="replace")) > MAX_UNIT_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_UNIT_BYTES} bytes")
    if not unit.isprintable():
        raise InvalidArgument.of(field, "holds characters that do not print")
    return unit


def check_digest(digest: str, field: str = "digest") -> str:
    """Return the digest of what was served.

    Raises:
        InvalidArgument: it is empty or too long, or does not print.
    """
    if not digest:
        raise InvalidArgument.of(field, "is required: of what was served")
    if len(digest) > MAX_DIGEST_BYTES or not digest.isprintable():
        raise InvalidArgument.of(field, f"must be at most {MAX_DIGEST_BYTES} printable characters")
    return digest


def _refuse(violations: tuple[FieldViolation, ...]) -> None:
    if violations:
        raise InvalidArgument(*violations)


def _violations(experiment: Experiment) -> Iterator[FieldViolation]:
    if _NAME.fullmatch(experiment.key) is None:
        yield FieldViolation("key", _NAME_SAID)
    for name in ("hypothesis", "description"):
        if len(getattr(experiment, name).encode(errors="replace")) > MAX_TEXT_BYTES:
            yield FieldViolation(name, f"is longer than {MAX_TEXT_BYTES:,} bytes")
    yield from _variant_violations(experiment.variants, experiment.subject, "variants")
    yield from _coverage_violations(experiment.coverage_bp)
    yield from _agent_violations(experiment)
    yield from _plan_violations(experiment.plan)


def _variant_violations(
    variants: Sequence[Variant], subject: Subject, field: str
) -> Iterator[FieldViolation]:
    if not 2 <= len(variants) <= MAX_VARIANTS:  # noqa: PLR2004 - there is something to compare
        yield FieldViolation(field, f"must have 2 - {MAX_VARIANTS} entries")
        return
    seen: set[str] = set()
    for index, variant in enumerate(variants):
        where = f"{field}[{index}]"
        if _NAME.fullmatch(variant.name) is None:
            yield FieldViolation(f"{where}.name", _NAME_SAID)
        elif variant.name in seen:
            yield FieldViolation(f"{where}.name", f"{variant.name!r} is there already")
        seen.add(variant.name)
        if not 1 <= variant.weight_bp <= WHOLE_BP:
            yield FieldViolation(f"{where}.weight_bp", f"must be 1 - {WHOLE_BP}")
        if subject.kind is SubjectKind.PROMPT and variant.prompt_version < 1:
            yield FieldViolation(f"{where}.prompt_version", "is required: at least 1")
    total = sum(variant.weight_bp for variant in variants)
    if total != WHOLE_BP:
        yield FieldViolation(field, f"weights must sum to {WHOLE_BP}, not {total}")
    if sum(variant.control for variant in variants) != 1:
        yield FieldViolation(field, "exactly one must be the control")


def _coverage_violations(coverage_bp: int) -> Iterator[FieldViolation]:
    if not 0 <= coverage_bp <= WHOLE_BP:
        yield FieldViolation("coverage_bp", f"must be 0 - {WHOLE_BP}")


def _agent_violations(experiment: Experiment) -> Iterator[FieldViolation]:
    if len(experiment.agents) > MAX_AGENT_PATTERNS:
        yield FieldViolation("agents", f"must have at most {MAX_AGENT_PATTERNS} entries")
    for index, pattern in enumerate(experiment.agents):
        try:
            check_name_pattern(pattern, f"agents[{index}]")
        except InvalidArgument as refusal:
            yield from refusal.violations
        if not pattern:
            yield FieldViolation(f"agents[{index}]", "is empty")


def _plan_violations(plan: Plan) -> Iterator[FieldViolation]:
    yield from _metric_violations(plan.primary, "primary")
    if len(plan.guardrails) > MAX_GUARDRAILS:
        yield FieldViolation("guardrails", f"must have at most {MAX_GUARDRAILS} entries")
    names = {plan.primary.name}
    for index, metric in enumerate(plan.guardrails):
        where = f"guardrails[{index}]"
        yield from _metric_violations(metric, where)
        if metric.name in names:
            yield FieldViolation(f"{where}.name", f"{metric.name!r} is there already")
        if metric.non_inferiority:
            yield FieldViolation(f"{where}.non_inferiority", "is for the primary metric")
        names.add(metric.name)
    if not (isfinite(plan.alpha) and MIN_ALPHA <= plan.alpha <= MAX_ALPHA):
        yield FieldViolation("alpha", f"must be {MIN_ALPHA} - {MAX_ALPHA}")
    for name, value, low, high in (
        ("n_star", plan.n_star, 10, MAX_UNITS),
        ("min_units_per_arm", plan.min_units_per_arm, 2, MAX_UNITS),
        ("max_units", plan.max_units, 10, MAX_UNITS),
    ):
        if not low <= value <= high:
            yield FieldViolation(name, f"must be {low} - {high:,}")
    if not MIN_PHASE_MS <= plan.max_ms <= MAX_DAYS_MS:
        yield FieldViolation("max_duration", "must be 1 min - 365 days")


def _metric_violations(metric: Metric, where: str) -> Iterator[FieldViolation]:
    if _NAME.fullmatch(metric.name) is None:
        yield FieldViolation(f"{where}.name", _NAME_SAID)
    bounds = metric.low, metric.high
    # The width of two bounds that are finite need not be.
    if not all(map(isfinite, (*bounds, metric.span))) or not metric.low < metric.high:
        yield FieldViolation(f"{where}.max", "must be a number above min")
        return
    if metric.kind is MetricKind.BINARY and bounds != (0.0, 1.0):
        yield FieldViolation(f"{where}.max", "a BINARY metric has no range but 0 - 1")
    if not (isfinite(metric.margin) and 0 <= metric.margin <= metric.span):
        yield FieldViolation(f"{where}.margin", "must be 0 - (max - min)")
    if metric.non_inferiority and not metric.margin:
        yield FieldViolation(f"{where}.margin", "non-inferiority needs a margin above 0")
