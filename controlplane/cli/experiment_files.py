"""Experiments as operators write them: one per file.

    key: greeting-tone
    prompt: greeting
    hypothesis: A kinder greeting solves more.
    variants:
      - {name: brief, weight: 50, control: true, prompt_version: 3}
      - {name: kind, weight: 50, prompt_version: 4}
    primary: {name: solved}
    guardrails:
      - {name: cost, kind: numeric, min: 0, max: 2, direction: lower, margin: 0.05}
    coverage: 20

Shares are percent, with two decimals at most. What is varied is a `prompt`, or a `config_path`,
whose variants have a `value`.
"""

from pathlib import Path
from typing import Any

import msgspec

from controlplane.cli.arguments import member, read_document
from controlplane.cli.durations import duration
from controlplane.cli.outcomes import WrongInput
from fleetplane import (
    ExperimentSpec,
    ExperimentUnit,
    Metric,
    MetricDirection,
    MetricKind,
    Variant,
)

_WHOLE_BP = 10_000


class VariantDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant of a file."""

    name: str
    weight: float
    control: bool = False
    prompt_version: int = 0
    value: Any = msgspec.UNSET


class MetricDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metric of a file."""

    name: str
    kind: str = "binary"
    min: float = 0.0
    max: float = 0.0
    direction: str = "higher"
    margin: float = 0.0
    non_inferiority: bool = False


class AutomationDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the plane may do by itself."""

    promote: bool = False
    stop: bool = False


class ExperimentDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One experiment of a file."""

    key: str
    variants: tuple[VariantDocument, ...]
    primary: MetricDocument
    prompt: str = ""
    config_path: str = ""
    guardrails: tuple[MetricDocument, ...] = ()
    hypothesis: str = ""
    description: str = ""
    coverage: float = 100.0
    unit: str = "session"
    agents: tuple[str, ...] = ()
    alpha: float | None = None
    n_star: int = 0
    min_units_per_arm: int = 0
    max_units: int = 0
    max_duration: str = ""
    auto: AutomationDocument = AutomationDocument()


def experiment_in(path: Path) -> tuple[str, ExperimentSpec]:
    """Read a file; return the key and what is asked for.

    Raises:
        WrongInput: a field is unknown, missing or of the wrong type; the message has its path.
    """
    try:
        read = msgspec.convert(read_document(path), ExperimentDocument)
    except msgspec.ValidationError as error:
        raise WrongInput(f"{path}: {error}") from error
    if bool(read.prompt) == bool(read.config_path):
        raise WrongInput(f"{path}: needs a prompt, or a config_path")
    spec = ExperimentSpec(
        prompt=read.prompt,
        config_path=read.config_path,
        variants=[_variant(one, str(path)) for one in read.variants],
        primary=_metric(read.primary, f"{path}: primary"),
        guardrails=[_metric(one, f"{path}: {one.name}") for one in read.guardrails],
        hypothesis=read.hypothesis,
        description=read.description,
        coverage_bp=basis_points(read.coverage, f"{path}: coverage"),
        unit=member(ExperimentUnit, read.unit, f"{path}: unit"),
        agents=read.agents,
        alpha=read.alpha,
        n_star=read.n_star,
        min_units_per_arm=read.min_units_per_arm,
        max_units=read.max_units,
        max_duration=duration(read.max_duration) if read.max_duration else None,
        auto_promote=read.auto.promote,
        auto_stop=read.auto.stop,
    )
    return read.key, spec


def variants_in(path: Path) -> list[Variant]:
    """Read the variants of another phase: a list, or under `variants`.

    Raises:
        WrongInput: a field is unknown, missing or of the wrong type.
    """
    document = read_document(path)
    entries = document.get("variants") if isinstance(document, dict) else document
    try:
        read = msgspec.convert(entries, tuple[VariantDocument, ...])
    except msgspec.ValidationError as error:
        raise WrongInput(f"{path}: {error}") from error
    return [_variant(one, str(path)) for one in read]


def basis_points(percent: float, where: str) -> int:
    """Return a share in basis points.

    Raises:
        WrongInput: it is not 0-100 %, or finer than 0.01 %.
    """
    points = round(percent * 100)
    if not 0 <= points <= _WHOLE_BP or abs(points - percent * 100) > 1e-6:  # noqa: PLR2004 - float
        raise WrongInput(f"{where} must be 0-100 %, with two decimals at most")
    return points


def _variant(one: VariantDocument, where: str) -> Variant:
    if one.prompt_version and one.value is not msgspec.UNSET:
        raise WrongInput(f"{where}: {one.name}: has a prompt_version and a value")
    return Variant(
        name=one.name,
        weight_bp=basis_points(one.weight, f"{where}: {one.name}: weight"),
        control=one.control,
        prompt_version=one.prompt_version,
        config_value=None if one.value is msgspec.UNSET else one.value,
    )


def _metric(one: MetricDocument, where: str) -> Metric:
    return Metric(
        name=one.name,
        kind=member(MetricKind, one.kind, f"{where}.kind"),
        min=one.min,
        max=one.max,
        direction=member(MetricDirection, one.direction, f"{where}.direction"),
        margin=one.margin,
        non_inferiority=one.non_inferiority,
    )
