"""`fleetplane agents drain | drain-status | undrain`: stopping without losing work."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.agent_names import Instance, target_of
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import deadline as read_deadline
from controlplane.cli.outcomes import CommandFailed
from controlplane.cli.rendering import as_dict, write, write_value
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import lifecycle_service_pb2 as pb

WAIT_LIMIT: Final = 60.0
"""Seconds that `drain --wait` waits unless told otherwise."""

app = typer.Typer(**PLAIN)
"""Part of the group `agents`."""

Agent = Annotated[
    str, typer.Argument(metavar="AGENT", help="Its id, or name@version.", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]


@command(
    app,
    "drain",
    examples=(
        "fleetplane agents drain writer@2.0.0 --deadline 15m --reason 'host maintenance'",
        "fleetplane agents drain --instance writer-host-3-1 --wait --timeout 90s",
        "",
        "As a container's preStop hook:",
        '  fleetplane agents drain --instance "$HOSTNAME" --deadline 60s --wait --timeout 70s',
    ),
)
async def drain(
    call: Globals,
    *,
    agent: Agent = "",
    instance: Instance = "",
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline",
            metavar="DURATION",
            parser=read_deadline,
            help="How long work in flight may finish; default 15m.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is safe to stop; see --timeout.")
    ] = False,
    reason: Reason = "",
) -> None:
    """Give an agent, or one process of it, no new work and let it finish what it has.

    At the deadline each task's class decides: another takes it, it fails, or it may finish. With
    --wait the command ends when it is safe to stop (exit code 0), or after --timeout, 60 seconds
    unless given (exit code 1). Draining again is safe and replaces the deadline.
    """
    limit = call.timeout or WAIT_LIMIT
    async with call.client() as client:
        agent_id, instance_id = await target_of(client, agent, instance)
        begun = await client.drain(
            agent_id, instance_id=instance_id, deadline=deadline, reason=reason
        )
        if wait and not begun.safe_to_stop:
            from controlplane.cli.drain_following import wait_until_safe  # noqa: PLC0415  # SDK

            begun = await wait_until_safe(client, begun, agent_id, instance_id, limit)
    _write(call.output, begun)
    if wait and not begun.safe_to_stop:
        raise CommandFailed(f"not safe to stop after {limit:g} s")


@command(
    app,
    "drain-status",
    examples=(
        "fleetplane agents drain-status writer@2.0.0",
        "fleetplane agents drain-status --instance writer-host-3-1 -o json | jq .safe_to_stop",
    ),
)
async def drain_status(call: Globals, *, agent: Agent = "", instance: Instance = "") -> None:
    """Show how far a drain has come, and whether it is safe to stop."""
    async with call.client() as client:
        agent_id, instance_id = await target_of(client, agent, instance)
        found = await client.get_drain(agent_id, instance_id=instance_id)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(found))
        return
    from controlplane.cli.drain_views import drain_details  # noqa: PLC0415  # imports the SDK

    write(drain_details(found))


@command(
    app,
    "undrain",
    examples=(
        "fleetplane agents undrain writer@2.0.0",
        "fleetplane agents undrain --instance writer-host-3-1 --reason 'stays after all'",
    ),
)
async def undrain(
    call: Globals, *, agent: Agent = "", instance: Instance = "", reason: Reason = ""
) -> None:
    """Undo a drain: the agent or process takes work again."""
    async with call.client() as client:
        agent_id, instance_id = await target_of(client, agent, instance)
        undone = await client.cancel_drain(agent_id, instance_id=instance_id, reason=reason)
    _write(call.output, undone)


def _write(output: Output, drain: "pb.Drain") -> None:
    from controlplane.cli.drain_views import drain_sentence, target  # noqa: PLC0415  # the SDK

    if output is Output.TABLE:
        write(printable(f"{target(drain)}: {drain_sentence(drain)}"))
    else:
        write_value(output, as_dict(drain))
