"""Agents as operators name them: by id, or as `name@version`."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.outcomes import CommandFailed, WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient
    from fleetplane.v1 import agent_pb2

AgentName = Annotated[
    str, typer.Argument(metavar="AGENT", help="Its id, or name@version.", show_default=False)
]
"""The agent that a command is about."""

Instance = Annotated[
    str,
    typer.Option("--instance", metavar="ID", help="One process instead of the whole agent."),
]
"""One process of an agent."""


async def agent_id_of(client: "FleetClient", text: str) -> str:
    """Return the id of an agent that is named by its id or as `name@version`.

    Raises:
        CommandFailed: no agent is called so; the hint names the versions there are.
        WrongInput: a name or a version is missing beside the `@`.
    """
    name, at, version = text.partition("@")
    if not at:
        return text
    if not name or not version:
        raise WrongInput(f"{text!r} is neither an id nor name@version")
    versions: list[str] = []
    async for agent in client.list_agents(name=name, page_size=1000):
        if agent.spec.version == version:
            return agent.agent_id
        versions.append(agent.spec.version)
    hint = f"{name} has {', '.join(versions)}" if versions else f"nobody is called {name}"
    raise CommandFailed(f"{text} is not registered", hint=hint)


async def target_of(client: "FleetClient", agent: str, instance: str) -> tuple[str, str]:
    """Return the agent's id and the instance that options name; one of both is enough.

    Raises:
        WrongInput: neither is named.
        CommandFailed: no agent is called so.
    """
    if not agent and not instance:
        raise WrongInput("name an agent, or a process with --instance")
    return (await agent_id_of(client, agent) if agent else ""), instance


def title(agent: "agent_pb2.Agent") -> str:
    """Return how an agent is called in a sentence: `name@version (id)`."""
    return f"{agent.spec.name}@{agent.spec.version} ({agent.agent_id})"
