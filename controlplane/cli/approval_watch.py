"""`fleetplane approvals watch`: approvals as they change."""

from typing import Any

from controlplane.cli.approval_views import state_of
from controlplane.cli.call import Output
from controlplane.cli.moments import clock, until
from controlplane.cli.rendering import as_dict, note, write, write_event
from controlplane.cli.styles import STATUS_COLOURS, coloured, printable
from fleetplane import ApprovalsSnapshot, FleetClient
from fleetplane.v1 import approval_service_pb2 as pb

_STATE_WIDTH = len("SUPERSEDED")


async def follow(client: FleetClient, output: Output, wanted: dict[str, Any]) -> None:
    """Print approvals until cancelled or refused: those that are open first, then every change."""
    known: dict[str, int] = {}
    async for event in client.watch_approvals(**wanted):
        first = isinstance(event, ApprovalsSnapshot)
        for approval in event.approvals:
            if known.get(approval.approval_id) == approval.revision:
                continue
            known[approval.approval_id] = approval.revision
            if first and approval.ended_at.seconds:
                continue
            if output is Output.TABLE:
                write(_line(approval))
            else:
                write_event(output, as_dict(approval))
        if first and not known and output is Output.TABLE:
            note("No approval is open.")


def _line(approval: pb.Approval) -> str:
    state = state_of(approval)
    action = approval.action
    left = f", {until(approval.expires_at)}" if state == "PENDING" else ""
    why = f": {approval.state_reason}" if approval.state_reason else ""
    text = f"{action.agent_name}@{action.agent_version} {action.action} {action.tool}".rstrip()
    shown = coloured(state.ljust(_STATE_WIDTH), STATUS_COLOURS.get(state))
    return f"{clock()}  {shown}  {approval.approval_id}  {printable(text + left + why)}"
