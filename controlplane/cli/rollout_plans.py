"""Plans of rollouts, from options and files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import typer

from controlplane.cli.arguments import member, read_document
from controlplane.cli.durations import duration
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.routes import basis_points
from fleetplane import (
    AnalysisKind,
    AnalysisSource,
    OnInconclusive,
    RolloutAnalysis,
    RolloutPlan,
    RolloutStep,
)


def plan_in(path: Path) -> dict[str, Any]:
    """Read a file with a plan, as it is written there.

    Raises:
        WrongInput: it cannot be read, or is not an object.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise WrongInput(f"{path}: must be an object with {', '.join(FIELDS)}")
    return document


def overlaid(document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan in which what was given by options replaces what a file says.

    Args:
        document: the plan of a file; may be empty.
        given: options that were used; those of the analysis begin with `analysis.`.
    """
    plan = dict(document)
    for name, value in given.items():
        group, dot, field = name.rpartition(".")
        if dot:
            below = plan.get(group)
            plan[group] = {**(below if isinstance(below, dict) else {}), field: value}
        else:
            plan[name] = value
    return plan


def plan_of(document: Mapping[str, Any]) -> RolloutPlan:
    """Build a plan; what it does not say is the daemon's to fill in.

    Steps are percent, or objects with `weight` and `pause_after`; time spans are texts such as
    `90s` or seconds; enums are their short names.

    Raises:
        WrongInput: a field is unknown or of another type.
    """
    _known(document, FIELDS, "plan")
    return RolloutPlan(**{name: _READERS[name](value, name) for name, value in document.items()})


def _steps(value: Any, what: str) -> list[RolloutStep]:
    return [_step(one, f"{what}[{index}]") for index, one in enumerate(_list(value, what))]


def _step(value: Any, where: str) -> RolloutStep:
    if not isinstance(value, Mapping):
        return RolloutStep(weight_bp=basis_points(str(value), where))
    _known(value, ("weight", "pause_after"), where)
    return RolloutStep(
        weight_bp=basis_points(str(value.get("weight", "")), f"{where}.weight"),
        pause_after=_yes_or_no(value.get("pause_after", False), f"{where}.pause_after"),
    )


def _analysis(value: Any, what: str) -> RolloutAnalysis:
    if not isinstance(value, Mapping):
        raise WrongInput(f"{what} must be an object with {', '.join(ANALYSIS_FIELDS)}")
    _known(value, ANALYSIS_FIELDS, what)
    return RolloutAnalysis(
        **{name: _ANALYSIS_READERS[name](one, f"{what}.{name}") for name, one in value.items()}
    )


def _known(document: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    unknown = [str(name) for name in document if name not in allowed]
    if unknown:
        raise WrongInput(
            f"{where}: there is no field {', '.join(unknown)}",
            hint=f"fields: {', '.join(allowed)}",
        )


def _list(value: Any, what: str) -> list[Any]:
    if isinstance(value, str):
        return [one.strip() for one in value.split(",") if one.strip()]
    if not isinstance(value, list):
        raise WrongInput(f"{what} must be a list such as [10, 50, 100]")
    return value


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongInput(f"{what} must be a duration such as 90s or 15m")
    try:
        return duration(str(value))
    except typer.BadParameter as error:
        raise WrongInput(f"{what}: {error.message}") from error


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongInput(f"{what} must be a number")
    return float(value)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WrongInput(f"{what} must be a whole number")
    return value


def _yes_or_no(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise WrongInput(f"{what} must be true or false")
    return value


_ANALYSIS_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "kind": lambda value, what: member(AnalysisKind, str(value), what),
    "max_error_rate": _number,
    "min_tasks": _whole,
    "alpha": _number,
    "beta": _number,
    "source": lambda value, what: member(AnalysisSource, str(value), what),
}

ANALYSIS_FIELDS: Final = tuple(_ANALYSIS_READERS)
"""What the `analysis` of a plan may say."""

_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "steps": _steps,
    "analysis": _analysis,
    "observe": _seconds,
    "max_dwell": _seconds,
    "bake": _seconds,
    "progress_deadline": _seconds,
    "max_pause": _seconds,
    "drain_deadline": _seconds,
    "on_inconclusive": lambda value, what: member(OnInconclusive, str(value), what),
    "evict_on_abort": _yes_or_no,
    "min_fresh_instances": _whole,
}

FIELDS: Final = tuple(_READERS)
"""What a plan may say; see `fleetplane.RolloutPlan`."""
