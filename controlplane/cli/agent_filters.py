"""The conditions by which agents are selected, as options that several commands share."""

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.arguments import member, text_pairs
from controlplane.cli.call import Command
from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FilterFields

Several = list[str] | None

_OPTIONS: Final[Mapping[str, tuple[Any, Any]]] = {
    "capability": (
        Several,
        typer.Option(
            "--capability", "-c", metavar="NAME", help="Has this capability; repeat for several."
        ),
    ),
    "tag": (
        Several,
        typer.Option("--tag", "-t", metavar="KEY=VALUE", help="Carries this tag; repeatable."),
    ),
    "status": (
        Several,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help="Is in this status: registered, active, degraded, inactive, decommissioned; "
            "repeat for any of several.",
        ),
    ),
    "name": (str, typer.Option("--name", metavar="NAME", help="Has this name.")),
    "version_range": (
        str,
        typer.Option("--version-range", metavar="RANGE", help="Such as `>=1.2.0,<2.0.0`."),
    ),
    "owner": (str, typer.Option("--owner", metavar="NAME", help="Belongs to this owner.")),
    "model": (str, typer.Option("--model", metavar="NAME", help="Was built for this model.")),
    "tool": (str, typer.Option("--tool", metavar="NAME", help="May call this tool.")),
}


ACTIVE_ONLY: Final["FilterFields"] = {}
"""Default of `wanted` where only ACTIVE agents are considered anyway."""


def filtered(function: Command) -> Command:
    """Give a command the options of a filter, in place of its parameter `wanted`.

    The function gets them as the SDK's `FilterFields`. A parameter `wanted` with the default
    `ACTIVE_ONLY` has no `--status`.
    """
    signature = inspect.signature(function)
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default="" if kind is str else None,
            annotation=Annotated[kind, option],
        )
        for name, (kind, option) in _OPTIONS.items()
        if name != "status" or signature.parameters["wanted"].default is not ACTIVE_ONLY
    ]
    first, *rest = (one for one in signature.parameters.values() if one.name != "wanted")

    @functools.wraps(function)
    def run(call: Any, **values: Any) -> Any:
        given = {one.name: values.pop(one.name) for one in options}
        return function(call, wanted=_conditions(given), **values)

    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by `command`
        parameters=[first, *options, *rest]
    )
    return run


def _conditions(given: Mapping[str, Any]) -> "FilterFields":
    """Return what the options say in the words of the SDK.

    Raises:
        WrongInput: a tag or a status is malformed.
    """
    from fleetplane import AgentStatus  # noqa: PLC0415  # not for help

    if any(not one for one in given["capability"] or ()):
        raise WrongInput("--capability must not be empty")
    wanted: FilterFields = {
        "capabilities": given["capability"] or [],
        "tags": text_pairs(given["tag"] or (), "--tag"),
        "statuses": [member(AgentStatus, one, "--status") for one in given.get("status") or ()],
        "name": given["name"],
        "version_range": given["version_range"],
        "owner": given["owner"],
        "model": given["model"],
        "tool": given["tool"],
    }
    return wanted
