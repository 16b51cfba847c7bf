"""`fleetplane rollout`: one version of an agent replaced by another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli import rollout_moves
from controlplane.cli.arguments import member
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.rollout_names import RolloutName, find
from controlplane.cli.rollout_options import planned
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import AgentSpec, FleetClient, RolloutPlan
    from fleetplane.v1 import rollout_service_pb2 as pb

PAGE = 1000
"""Rollouts fetched in one call at most, by contract."""

app = typer.Typer(
    **PLAIN,
    help="Replace one version of an agent by another, step by step, judged by its failures; a bad "
    "one is rolled back by itself.",
)


@command(
    app,
    "start",
    examples=(
        "fleetplane rollout start writer --to 2.1.0 --watch",
        "fleetplane rollout start writer --to 2.1.0 --steps 10,50,100 --observe 5m --bake 10m",
        "fleetplane rollout start writer --to 2.1.0 --analysis threshold --max-error-rate 0.02",
        "fleetplane rollout start writer --to 2.1.0 --plan plan.yaml --observe 2m --supersede",
        "",
        "A plan file says what options say, and more:",
        "  steps: [5, {weight: 50, pause_after: true}, 100]",
        "  analysis: {kind: sequential, max_error_rate: 0.05, min_tasks: 50, source: tasks}",
        "  observe: 2m",
        "  on_inconclusive: rollback",
    ),
)
@planned
async def start(
    call: Globals,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")],
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="The version that comes.")],
    plan: "RolloutPlan",
    from_version: Annotated[
        str,
        typer.Option("--from", metavar="VERSION", help="That goes; default: the one that works."),
    ] = "",
    canary: Annotated[
        Path | None,
        typer.Option(
            "--canary", metavar="FILE", help="Declaration of the new version; default: a copy."
        ),
    ] = None,
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Take the place of a rollout under way.")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it has ended.")] = False,
) -> None:
    """Start to replace a version; processes of the new one are yours to start.

    Each step gives the new version a share of new sessions and judges its failures. Too many, and
    more than the old version has: it is rolled back. With --watch the exit code is that of
    `rollout watch`.
    """
    declared = _declared(canary, name, to) if canary else None
    async with call.client() as client:
        begun = await client.start_rollout(
            name,
            to,
            from_version=from_version,
            canary=declared,
            plan=plan,
            reason=reason,
            supersede=supersede,
        )
        if watch:
            await _watch(call, client, begun.rollout_id)
            return
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(begun))
        return
    _show(begun)
    note(f"`fleetplane rollout watch {name}` follows it")


def _declared(path: Path, name: str, version: str) -> "AgentSpec":
    """Read the declaration of the new version.

    Raises:
        WrongInput: the file holds another agent, or not exactly one.
    """
    from controlplane.cli.agent_specs import registrations_in  # noqa: PLC0415  # imports the SDK

    entries = registrations_in(path)
    if len(entries) != 1:
        raise WrongInput(f"{path}: must hold exactly one agent")
    spec = entries[0].spec
    if (spec.name, spec.version) != (name, version):
        raise WrongInput(f"{path}: declares {spec.name}@{spec.version}, not {name}@{version}")
    return spec


def _show(rollout: "pb.Rollout") -> None:
    from controlplane.cli.rollout_views import rollout_details  # noqa: PLC0415  # imports the SDK

    write(rollout_details(rollout))


@command(
    app,
    "status",
    examples=(
        "fleetplane rollout status",
        "fleetplane rollout status writer",
        "fleetplane rollout status writer -o json | jq -r .phase",
    ),
)
async def status(
    call: Globals,
    *,
    rollout: Annotated[
        str,
        typer.Argument(metavar="NAME|ID", help="Of an agent, or by its id.", show_default=False),
    ] = "",
) -> None:
    """Show how a rollout stands; without a name, all that are under way."""
    async with call.client() as client:
        if not rollout:
            await _list(call, client, {"active_only": True}, 0)
            return
        found = await find(client, rollout)
    if call.output is Output.TABLE:
        _show(found)
    else:
        write_value(call.output, as_dict(found))


@command(
    app,
    "list",
    examples=(
        "fleetplane rollout list",
        "fleetplane rollout list --active",
        "fleetplane rollout list --agent writer --phase rolled-back -o json",
    ),
)
async def list_rollouts(
    call: Globals,
    *,
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="Of this agent.")] = "",
    phase: Annotated[
        list[str] | None,
        typer.Option("--phase", metavar="PHASE", help="Such as paused; repeatable."),
    ] = None,
    active: Annotated[bool, typer.Option("--active", help="Only those under way.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=0, help="Shown at most; 0 shows all.")
    ] = 100,
) -> None:
    """List rollouts, newest first. The newest 20 that have ended are kept for each agent."""
    from fleetplane import RolloutPhase  # noqa: PLC0415  # not for help

    conditions = {
        "agent_name": agent,
        "phases": [member(RolloutPhase, one, "--phase") for one in phase or ()],
        "active_only": active,
    }
    async with call.client() as client:
        await _list(call, client, conditions, limit)


async def _list(
    call: Globals, client: "FleetClient", conditions: dict[str, Any], limit: int
) -> None:
    """Fetch pages until there are `limit` rollouts (0: all), and write them."""
    rollouts: list[pb.Rollout] = []
    token = ""
    while True:
        size = min(PAGE, limit - len(rollouts)) if limit else PAGE
        page = await client.list_rollouts_page(page_size=size, page_token=token, **conditions)
        rollouts += page.rollouts
        token = page.next_page_token
        if not token or (limit and len(rollouts) >= limit):
            break
    if call.output is not Output.TABLE:
        found = [as_dict(one) for one in rollouts]
        write_value(call.output, {"rollouts": found, "total_size": page.total_size})
        return
    from controlplane.cli.rollout_views import rollouts_table  # noqa: PLC0415  # imports the SDK

    if not rollouts:
        note("No rollout matches.")
        return
    write(rollouts_table(rollouts))
    if len(rollouts) < page.total_size:
        note(f"{len(rollouts):,} of {page.total_size:,} rollouts; --limit 0 shows all.")


@command(
    app,
    "watch",
    examples=(
        "fleetplane rollout watch writer",
        "fleetplane rollout watch writer -o json | jq -r .phase",
    ),
)
async def watch(call: Globals, *, rollout: RolloutName) -> None:
    """Show a rollout until it has ended: steps, weight, failures, evidence, time left, drain.

    Exit code 0 if it succeeded, 1 if it was rolled back, failed or was superseded. JSON: one line
    per change, with the newest measurement only.
    """
    async with call.client() as client:
        await _watch(call, client, (await find(client, rollout)).rollout_id)


async def _watch(call: Globals, client: "FleetClient", rollout_id: str) -> None:
    """Show a rollout until it has ended.

    Raises:
        CommandFailed: it did not succeed.
    """
    from controlplane.cli.rollout_views import phase_of, succeeded  # noqa: PLC0415  # the SDK
    from controlplane.cli.rollout_watch import follow  # noqa: PLC0415  # same

    last = await follow(client, call.output, rollout_id)
    if not succeeded(last):
        why = f": {last.message}" if last.message else ""
        raise CommandFailed(f"{last.agent_name} {last.to_version} {phase_of(last)}{why}")


app.add_typer(rollout_moves.app)
