"""Rollouts as operators name them: by id, or by the name of the agent."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.outcomes import CommandFailed

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient
    from fleetplane.v1 import rollout_service_pb2 as pb

RolloutName = Annotated[
    str,
    typer.Argument(
        metavar="NAME|ID",
        help="Name of the agent (its active, else newest rollout), or id of the rollout.",
        show_default=False,
    ),
]
"""The rollout that a command is about."""


async def find(client: "FleetClient", text: str) -> "pb.Rollout":
    """Return the rollout of that id, or else the active or newest one of that agent name.

    Raises:
        CommandFailed: there is neither.
    """
    from fleetplane import InvalidArgument, NotFound  # noqa: PLC0415  # not for help

    try:
        return await client.get_rollout(text)
    except (NotFound, InvalidArgument):  # an agent name need not look like an id
        pass
    try:
        return await client.get_rollout(agent_name=text)
    except NotFound as error:
        raise CommandFailed(
            f"{text} is neither a rollout nor an agent that had one",
            hint="`fleetplane rollout list` shows what there is",
        ) from error
