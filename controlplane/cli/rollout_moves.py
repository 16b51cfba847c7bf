"""`fleetplane rollout pause | resume | promote | abort | retry`: an operator's word."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.rollout_names import RolloutName, find
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient
    from fleetplane.v1 import rollout_service_pb2 as pb

app = typer.Typer(**PLAIN)
"""Part of the group `rollout`."""

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]


@command(
    app,
    "pause",
    examples=("fleetplane rollout pause writer --reason 'incident elsewhere'",),
)
async def pause(call: Globals, *, rollout: RolloutName, reason: Reason = "") -> None:
    """Hold a rollout where it is; weights stay."""
    await _move(call, rollout, lambda client, one: client.pause_rollout(one, reason=reason))


@command(
    app,
    "resume",
    examples=("fleetplane rollout resume writer --reason 'incident is over'",),
)
async def resume(call: Globals, *, rollout: RolloutName, reason: Reason = "") -> None:
    """Go on with a paused rollout: the step is entered anew, with fresh counters.

    After a pause that the plan asked for, the next step is entered.
    """
    await _move(call, rollout, lambda client, one: client.resume_rollout(one, reason=reason))


@command(
    app,
    "promote",
    examples=(
        "fleetplane rollout promote writer",
        "fleetplane rollout promote writer --full --reason 'hotfix, tested by hand'",
    ),
)
async def promote(
    call: Globals,
    *,
    rollout: RolloutName,
    full: Annotated[
        bool, typer.Option("--full", help="All the way, without further judgement.")
    ] = False,
    reason: Reason = "",
) -> None:
    """Go on to the next step without waiting for a verdict.

    Refused if the rollout has left the step that it was in when this command looked.
    """
    async with call.client() as client:
        found = await find(client, rollout)
        moved = await client.promote_rollout(
            found.rollout_id,
            full=full,
            expected_step_index=None if full else found.step_index,
            reason=reason,
        )
    _write(call, moved)


@command(
    app,
    "abort",
    examples=("fleetplane rollout abort writer --reason 'customers complain'",),
)
async def abort(call: Globals, *, rollout: RolloutName, reason: Reason = "") -> None:
    """Roll back: the old version gets everything, the new one is drained and deactivated."""
    await _move(call, rollout, lambda client, one: client.abort_rollout(one, reason=reason))


@command(
    app,
    "retry",
    examples=("fleetplane rollout retry writer --reason 'the cause is fixed'",),
)
async def retry(call: Globals, *, rollout: RolloutName, reason: Reason = "") -> None:
    """Start a rollout anew that was rolled back or failed, with the same plan."""
    await _move(call, rollout, lambda client, one: client.retry_rollout(one, reason=reason))


async def _move(
    call: Globals,
    name: str,
    move: "Callable[[FleetClient, str], Awaitable[pb.Rollout]]",
) -> None:
    """Find a rollout, move it, and show how it stands."""
    async with call.client() as client:
        moved = await move(client, (await find(client, name)).rollout_id)
    _write(call, moved)


def _write(call: Globals, rollout: "pb.Rollout") -> None:

    from controlplane.cli.rollout_views import change_line  # noqa: PLC0415  # imports the SDK

    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(rollout))
        return
    write(printable(change_line(rollout)))
    note(f"rollout {rollout.rollout_id}; `fleetplane rollout watch {rollout.agent_name}`")
