"""`fleetplane approvals cancel|revoke|extend`: approvals taken back, or given more time."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.rendering import as_dict, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import approval_service_pb2 as pb

app = typer.Typer(**PLAIN)

ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="Of the approval.")]


@command(
    app, "cancel", examples=("fleetplane approvals cancel apr-0192f3c2 --reason 'done by hand'",)
)
async def cancel(
    call: Globals,
    *,
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "",
) -> None:
    """Take back what nobody wants any more, before it is decided."""
    async with call.client() as client:
        _write(call, await client.cancel_approval(approval_id, reason=reason))


@command(
    app, "revoke", examples=("fleetplane approvals revoke apr-0192f3c2 --reason 'wrong table'",)
)
async def revoke(
    call: Globals,
    *,
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")],
) -> None:
    """Take back a grant that was not used yet."""
    async with call.client() as client:
        _write(call, await client.revoke_approval(approval_id, reason=reason))


@command(
    app,
    "extend",
    examples=("fleetplane approvals extend apr-0192f3c2 --by 2h --reason 'on call asleep'",),
)
async def extend(
    call: Globals,
    *,
    approval_id: ApprovalId,
    by: Annotated[str, typer.Option("--by", metavar="TIME", help="How much more, from now.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")],
) -> None:
    """Give those who decide more time; never beyond 24 h after it was asked for."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # not for help

    end = datetime.now(UTC) + timedelta(seconds=duration(by))
    async with call.client() as client:
        _write(call, await client.extend_approval(approval_id, end, reason=reason))


def _write(call: Globals, approval: "pb.Approval") -> None:
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(approval))
        return
    from controlplane.cli.approval_views import approvals_table  # noqa: PLC0415  # the SDK

    write(approvals_table([approval]))
