"""`fleetplane approvals`: what agents may do only after somebody has said so."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli import approval_moves, approval_votes, standing_grants
from controlplane.cli.arguments import member
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import approval_service_pb2 as pb

PAGE: Final = 1000
"""Approvals fetched in one call at most, by contract."""

app = typer.Typer(
    **PLAIN,
    help="Decide what policies leave to people. Each approval holds for exactly one action, once.",
)


@command(
    app,
    "list",
    examples=(
        "fleetplane approvals list",
        "fleetplane approvals list --mine",
        "fleetplane approvals list --state denied --state expired --agent writer",
        "fleetplane approvals list --all -o json | jq -r '.approvals[].approval_id'",
    ),
)
async def list_approvals(
    call: Globals,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Such as granted; repeatable."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="In any state.")] = False,
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="Of this agent.")] = "",
    mine: Annotated[bool, typer.Option("--mine", help="Only those that I may decide now.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=0, help="Shown at most; 0 shows all.")
    ] = 100,
) -> None:
    """List approvals, the newest first; by default those that wait for people."""
    from fleetplane import ApprovalState  # noqa: PLC0415  # not for help

    states = [member(ApprovalState, one, "--state") for one in state or ()]
    if not states and not everything:
        states = [ApprovalState.PENDING]
    approvals: list[pb.Approval] = []
    token = ""
    async with call.client() as client:
        while True:
            size = min(PAGE, limit - len(approvals)) if limit else PAGE
            page = await client.list_approvals_page(
                states=states, agent_name=agent, mine=mine, page_size=size, page_token=token
            )
            approvals += page.approvals
            token = page.next_page_token
            if not token or (limit and len(approvals) >= limit):
                break
    _write_list(call, approvals, page.total_size)


def _write_list(call: Globals, approvals: "list[pb.Approval]", total: int) -> None:
    if call.output is not Output.TABLE:
        found = [as_dict(one) for one in approvals]
        write_value(call.output, {"approvals": found, "total_size": total})
        return
    from controlplane.cli.approval_views import approvals_table  # noqa: PLC0415  # the SDK

    if not approvals:
        note("No approval matches.")
        return
    write(approvals_table(approvals))
    if len(approvals) < total:
        note(f"{len(approvals):,} of {total:,} approvals; --limit 0 shows all.")


@command(
    app,
    "show",
    examples=(
        "fleetplane approvals show apr-0192f3c2",
        "fleetplane approvals show apr-0192f3c2 -o json | jq .action",
    ),
)
async def show(
    call: Globals,
    *,
    approval_id: Annotated[str, typer.Argument(metavar="ID", help="Of the approval.")],
) -> None:
    """Show exactly what is to be approved, who may say so, and what was said."""
    async with call.client() as client:
        approval = await client.get_approval(approval_id)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(approval))
        return
    from controlplane.cli.approval_views import approval_details  # noqa: PLC0415  # the SDK

    write(approval_details(approval))


@command(
    app,
    "watch",
    examples=(
        "fleetplane approvals watch --mine",
        "fleetplane approvals watch -o json | jq -r .approval_id",
    ),
)
async def watch(
    call: Globals,
    *,
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="Of this agent.")] = "",
    mine: Annotated[bool, typer.Option("--mine", help="Only those that I may decide now.")] = False,
) -> None:
    """Show approvals as they come and change, until interrupted; JSON: one line per change."""
    from controlplane.cli.approval_watch import follow  # noqa: PLC0415  # imports the SDK

    wanted: dict[str, Any] = {"agent_name": agent, "mine": mine}
    async with call.client() as client:
        await follow(client, call.output, wanted)


app.add_typer(approval_votes.app)
app.add_typer(approval_moves.app)
app.add_typer(standing_grants.app, name="grants")
