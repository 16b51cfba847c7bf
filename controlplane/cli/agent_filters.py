"""The conditions by which agents are selected, as options that several commands share."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.arguments import member, text_pairs
from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FilterFields

Capabilities = Annotated[
    list[str] | None,
    typer.Option(
        "--capability", "-c", metavar="NAME", help="Has this capability; repeat for several."
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", "-t", metavar="KEY=VALUE", help="Carries this tag; repeatable."),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        "-s",
        metavar="STATUS",
        help="Is in this status: registered, active, degraded, inactive, decommissioned; "
        "repeat for any of several.",
    ),
]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Has this name.")]
VersionRange = Annotated[
    str, typer.Option("--version-range", metavar="RANGE", help="Such as `>=1.2.0,<2.0.0`.")
]
Owner = Annotated[str, typer.Option("--owner", metavar="NAME", help="Belongs to this owner.")]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Was built for this model.")]
Tool = Annotated[str, typer.Option("--tool", metavar="NAME", help="May call this tool.")]


def conditions(
    *,
    capability: list[str] | None,
    tag: list[str] | None,
    status: list[str] | None,
    name: str,
    version_range: str,
    owner: str,
    model: str,
    tool: str,
) -> "FilterFields":
    """Return what the options say in the words of the SDK.

    Raises:
        WrongInput: a tag or a status is malformed.
    """
    from fleetplane import AgentStatus  # noqa: PLC0415  # not for help

    if any(not one for one in capability or ()):
        raise WrongInput("--capability must not be empty")
    return {
        "capabilities": capability or [],
        "tags": text_pairs(tag or (), "--tag"),
        "statuses": [member(AgentStatus, one, "--status") for one in status or ()],
        "name": name,
        "version_range": version_range,
        "owner": owner,
        "model": model,
        "tool": tool,
    }
