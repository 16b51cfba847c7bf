"""`fleetplane approvals grants`: what is granted in advance."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.arguments import json_object
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import approval_service_pb2 as pb

app = typer.Typer(**PLAIN, help="Grant in advance what matches, a few times and not for long.")


@command(
    app,
    "create",
    examples=(
        (
            "fleetplane approvals grants create --agent writer --action database_write --uses 5 "
            "--for 2h --reason 'migration tonight'"
        ),
        (
            "fleetplane approvals grants create --agent writer --action 'database_*' --uses 1 "
            '--for 1h --reason test --when \'{"environment": "staging"}\''
        ),
    ),
)
async def create(
    call: Globals,
    *,
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="For this agent.")] = "",
    agent_id: Annotated[
        str, typer.Option("--agent-id", metavar="ID", help="For one version of it.")
    ] = "",
    action: Annotated[str, typer.Option("--action", metavar="GLOB", help="For these actions.")],
    tool: Annotated[str, typer.Option("--tool", metavar="GLOB", help="With these tools.")] = "",
    when: Annotated[
        str,
        typer.Option(
            "--when", metavar="JSON", help="For these contexts, as a policy's conditions."
        ),
    ] = "",
    uses: Annotated[int, typer.Option("--uses", metavar="NUMBER", help="How often, 1-50.")],
    within: Annotated[str, typer.Option("--for", metavar="TIME", help="How long, at most 8h.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")],
) -> None:
    """Grant in advance. Never holds for what a policy calls irreversible; every use is recorded."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # not for help

    if bool(agent) == bool(agent_id):
        raise WrongInput("one of --agent and --agent-id is needed")
    async with call.client() as client:
        grant = await client.create_standing_grant(
            action,
            max_uses=uses,
            expires_at=datetime.now(UTC) + timedelta(seconds=duration(within)),
            reason=reason,
            agent_name=agent,
            agent_id=agent_id,
            tool=tool,
            conditions=json_object(when, "--when") if when else None,
        )
    _write(call, grant)


@command(
    app,
    "list",
    examples=(
        "fleetplane approvals grants list",
        "fleetplane approvals grants list --all -o json",
    ),
)
async def list_grants(
    call: Globals,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that ended as well.")] = False,
) -> None:
    """List standing grants, the newest first."""
    async with call.client() as client:
        grants = [one async for one in client.list_standing_grants(active_only=not everything)]
    if call.output is not Output.TABLE:
        write_value(call.output, {"grants": [as_dict(one) for one in grants]})
        return
    from controlplane.cli.approval_views import grants_table  # noqa: PLC0415  # the SDK

    if grants:
        write(grants_table(grants))
    else:
        note("Nothing is granted in advance.")


@command(
    app, "revoke", examples=("fleetplane approvals grants revoke grt-0192f3c2 --reason 'done'",)
)
async def revoke(
    call: Globals,
    *,
    grant_id: Annotated[str, typer.Argument(metavar="ID", help="Of the standing grant.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "",
) -> None:
    """End a standing grant; what it granted already stays."""
    async with call.client() as client:
        _write(call, await client.revoke_standing_grant(grant_id, reason=reason))


def _write(call: Globals, grant: "pb.StandingGrant") -> None:
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(grant))
        return
    from controlplane.cli.approval_views import grants_table  # noqa: PLC0415  # the SDK

    write(grants_table([grant]))
