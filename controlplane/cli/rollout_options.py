"""The plan of a rollout as options that stand beside a file."""

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.arguments import present
from controlplane.cli.call import Command

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import RolloutPlan

_DURATION: Final = "DURATION"

_OPTIONS: Final[Mapping[str, tuple[Any, Any]]] = {
    "steps": (
        str,
        typer.Option("--steps", metavar="PERCENT,...", help="Of new sessions; default 10,50,100."),
    ),
    "observe": (
        str,
        typer.Option("--observe", metavar=_DURATION, help="Least time in a step; default 60s."),
    ),
    "analysis.kind": (
        str,
        typer.Option("--analysis", metavar="RULE", help="sequential (default) or threshold."),
    ),
    "analysis.max_error_rate": (
        float,
        typer.Option("--max-error-rate", metavar="SHARE", help="Not to exceed; default 0.05."),
    ),
    "analysis.min_tasks": (
        int,
        typer.Option("--min-tasks", metavar="NUMBER", help="Least outcomes for a pass."),
    ),
    "max_dwell": (
        str,
        typer.Option("--max-dwell", metavar=_DURATION, help="Longest without a verdict: 6h."),
    ),
    "on_inconclusive": (
        str,
        typer.Option(
            "--on-inconclusive", metavar="ACTION", help="Then: pause (default), rollback, promote."
        ),
    ),
    "bake": (
        str,
        typer.Option("--bake", metavar=_DURATION, help="The old version stays warm; default 0."),
    ),
    "progress_deadline": (
        str,
        typer.Option(
            "--progress-deadline", metavar=_DURATION, help="Until the new one works; default 10m."
        ),
    ),
    "drain_deadline": (
        str,
        typer.Option(
            "--drain-deadline", metavar=_DURATION, help="For work of the retired one; default 15m."
        ),
    ),
    "evict_on_abort": (
        bool,
        typer.Option("--evict-on-abort", help="Move sessions off the new version on abort."),
    ),
    "file": (
        Path,
        typer.Option("--plan", metavar="FILE", help="YAML or JSON; options replace its fields."),
    ),
}
"""Fields of a plan by their place in it, with the type and the option that says them."""


def planned(function: Command) -> Command:
    """Give a command the options of a plan, in place of its parameter `plan`.

    The function gets the SDK's `RolloutPlan`.
    """
    signature = inspect.signature(function)
    options = {name.replace(".", "_"): name for name in _OPTIONS}
    added = [
        inspect.Parameter(
            parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_OPTIONS[name][0] | None, _OPTIONS[name][1]],
        )
        for parameter, name in options.items()
    ]
    first, *rest = (one for one in signature.parameters.values() if one.name != "plan")

    @functools.wraps(function)
    def run(call: Any, **values: Any) -> Any:
        given = {name: values.pop(parameter) for parameter, name in options.items()}
        return function(call, plan=_plan(given), **values)

    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by `command`
        parameters=[first, *rest, *added]
    )
    return run


def _plan(given: dict[str, Any]) -> "RolloutPlan":
    """Build the plan that a file and options say together.

    Raises:
        WrongInput: the file or an option cannot be used.
    """
    from controlplane.cli.rollout_plans import overlaid, plan_in, plan_of  # noqa: PLC0415  # SDK

    file = given.pop("file")
    return plan_of(overlaid(plan_in(file) if file else {}, present(given)))
