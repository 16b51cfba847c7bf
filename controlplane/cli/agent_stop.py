"""`fleetplane agents stop`: the emergency stop."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.arguments import text_pairs
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import lifecycle_service_pb2 as pb

NAMED: Final = 3
"""Instances that an error names."""

app = typer.Typer(**PLAIN)
"""Part of the group `agents`."""


@command(
    app,
    "stop",
    examples=(
        "fleetplane agents stop --tag team=content --reason 'incident 42'",
        "fleetplane agents stop --name writer --name researcher --reason 'cost runaway'",
        "fleetplane agents stop --all --reason 'incident 42' --wait 30s -o json",
    ),
)
async def stop(
    call: Globals,
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; shown with the agents.")
    ],
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", metavar="KEY=VALUE", help="With all these tags; repeatable."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="With one of these names; repeatable."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The whole namespace; only by itself.")
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="DURATION",
            parser=duration,
            help="How long to wait for acknowledgements, at most 60s; default 10s.",
        ),
    ] = None,
) -> None:
    """Stop all agents that match, now, and say who has acknowledged and how fast.

    They become INACTIVE, their tasks are handed over or failed, their processes are told to stop.
    Exit code 1 if nobody matches, or if a process did not acknowledge in time.
    """
    tags = text_pairs(tag or (), "--tag")
    if everything == bool(tags or name):
        raise WrongInput("say whom: --tag, --name or both, or --all by itself")
    async with call.client() as client:
        stopped = await client.emergency_stop(
            reason, tags=tags, names=name or (), all=everything, wait=wait
        )
    _write(call.output, stopped)


@command(
    app,
    "stop-status",
    examples=(
        "fleetplane agents stop-status stop-3fa9",
        "fleetplane agents stop-status ID -o json",
    ),
)
async def stop_status(
    call: Globals,
    *,
    stop_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the emergency stop.")],
) -> None:
    """Show an emergency stop as it stands; exit code 1 while a process has not acknowledged."""
    async with call.client() as client:
        found = await client.get_emergency_stop(stop_id)
    _write(call.output, found)


def _write(output: Output, stopped: "pb.EmergencyStop") -> None:
    """Write a stop.

    Raises:
        CommandFailed: nobody matched, or somebody has not acknowledged.
    """
    from controlplane.cli.stop_views import (  # noqa: PLC0415  # imports the SDK
        answers_table,
        silent,
        stop_sentence,
    )

    if output is not Output.TABLE:
        write_value(output, as_dict(stopped))
    else:
        if stopped.answers:
            write(answers_table(stopped.answers))
        write(printable(f"{stop_sentence(stopped)}  [{stopped.stop_id}]"))
    if not stopped.agent_ids:
        raise CommandFailed("no agent matches: nothing was stopped")
    if waiting := silent(stopped):
        more = f" and {len(waiting) - NAMED} more" if len(waiting) > NAMED else ""
        raise CommandFailed(
            f"{', '.join(waiting[:NAMED])}{more} did not acknowledge",
            hint=f"`fleetplane agents stop-status {stopped.stop_id}` asks again",
        )
    note("everybody has stopped")
