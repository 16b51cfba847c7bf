"""Whose configuration: the options that name a layer."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import Scope

Agent = Annotated[
    str, typer.Option("--agent", metavar="ID", help="Exactly the agent with this id.")
]
Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="All versions of the agents of this name.")
]
Emergency = Annotated[
    bool,
    typer.Option("--emergency", help="The strongest layer of the namespace, for incidents."),
]


def scope_of(agent: str, name: str, *, emergency: bool = False) -> "Scope":
    """Return the layer that the options name; without any, that of the namespace.

    Raises:
        WrongInput: more than one is named.
    """
    from fleetplane import Scope  # noqa: PLC0415  # not for help

    if bool(agent) + bool(name) + emergency > 1:
        raise WrongInput("--agent, --name and --emergency exclude each other")
    return Scope(agent_id=agent, agent_name=name, emergency=emergency)


def scope_name(scope: "Scope") -> str:
    """Return a layer as people call it: `namespace`, `name:writer`, `id:agent-7`, `emergency`."""
    if scope.agent_id:
        return f"id:{scope.agent_id}"
    if scope.agent_name:
        return f"name:{scope.agent_name}"
    return "emergency" if scope.emergency else "namespace"
