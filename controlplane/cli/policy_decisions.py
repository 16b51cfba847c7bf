"""`fleetplane policies decisions` and `why`: what was decided, and how that came about."""

from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.arguments import member, present
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.rendering import as_dict, note, write, write_event, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FleetClient
    from fleetplane.v1 import decision_service_pb2 as pb

FOLLOW_SECONDS: Final = 1.0
"""Pause between two looks with --follow."""

REMEMBERED: Final = 10_000
"""Entries that --follow remembers, so that none is shown twice."""

OVERLAP_SECONDS: Final = 30.0
"""How far back --follow looks each time: what other replicas write late is seen as well."""

app = typer.Typer(**PLAIN)


@command(
    app,
    "decisions",
    examples=(
        "fleetplane policies decisions",
        "fleetplane policies decisions --effect DENY --action 'db:*' --since 1h",
        "fleetplane policies decisions --policy no-writes --follow",
        "fleetplane policies decisions --agent-name researcher -o json",
    ),
)
async def decisions(
    call: Globals,
    *,
    agent: Annotated[str, typer.Option("--agent", metavar="ID", help="Of this agent.")] = "",
    agent_name: Annotated[
        str, typer.Option("--agent-name", metavar="NAME", help="Of agents of this name.")
    ] = "",
    action: Annotated[str, typer.Option("--action", metavar="GLOB", help="Such as 'db:*'.")] = "",
    tool: Annotated[str, typer.Option("--tool", metavar="NAME", help="With this tool.")] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Of this session.")] = "",
    effect: Annotated[
        list[str] | None,
        typer.Option("--effect", metavar="EFFECT", help="Such as DENY; repeatable."),
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", metavar="ID", help="In which this policy had a part.")
    ] = "",
    since: Annotated[
        float | None,
        typer.Option("--since", parser=duration, metavar="DURATION", help="Such as 2h."),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", metavar="NUMBER", min=1, help="Newest entries to show.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is decided from now on.")
    ] = False,
) -> None:
    """Show recorded decisions: the newest, oldest first.

    Where decisions were not recorded, a line says how many.
    """
    from fleetplane import PolicyAction  # noqa: PLC0415  # imports the SDK

    wanted = present(
        {
            "agent_id": agent,
            "agent_name": agent_name,
            "action": action,
            "tool": tool,
            "session_id": session,
            "effects": [member(PolicyAction, one, "--effect") for one in effect or ()],
            "policy_id": policy,
            "since": None if since is None else _moment(since),
        }
    )
    async with call.client() as client:
        found = await _newest(client, wanted, lines)
        if not follow and call.output is not Output.TABLE:
            write_value(call.output, {"entries": [as_dict(one) for one in found]})
            return
        for one in found:
            _write(call.output, one)
        if follow:
            await _follow(client, call.output, wanted, found)
        elif not found:
            note("No such decision is recorded.")


@command(
    app,
    "why",
    examples=(
        "fleetplane policies why dec-019b76da8800-0a1b2c3d-00000001",
        "fleetplane policies why dec-019b76da8800-0a1b2c3d-00000001 --not cost-limit",
    ),
)
async def why(
    call: Globals,
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the decision.")],
    *,
    why_not: Annotated[
        str, typer.Option("--not", metavar="POLICY", help="Why this policy did not decide it.")
    ] = "",
) -> None:
    """Explain a recorded decision: which policy decided, which lost, which almost matched."""
    from controlplane.cli.decision_views import explanation_text  # noqa: PLC0415  # the SDK

    async with call.client() as client:
        explained = await client.explain_decision(decision_id, why_not=why_not)
    if call.output is Output.TABLE:
        write(explanation_text(explained))
    else:
        write_value(call.output, as_dict(explained))


async def _newest(
    client: "FleetClient", wanted: dict[str, Any], lines: int
) -> "list[pb.DecisionEntry]":
    """Return the newest entries, oldest first."""
    found: list[pb.DecisionEntry] = []
    async for one in client.query_decisions(page_size=min(lines, 1_000), **wanted):
        found.append(one)
        if len(found) == lines:
            break
    return found[::-1]


async def _follow(
    client: "FleetClient",
    output: Output,
    wanted: dict[str, Any],
    shown: "list[pb.DecisionEntry]",
) -> None:
    """Show what is recorded from now on, each entry once."""
    import asyncio  # noqa: PLC0415  # not for help

    seen = deque((one.SerializeToString() for one in shown), maxlen=REMEMBERED)
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        recent = wanted | {"since": _moment(OVERLAP_SECONDS)}
        known = set(seen)
        for one in await _newest(client, recent, REMEMBERED):
            packed = one.SerializeToString()
            if packed not in known:
                seen.append(packed)
                _write(output, one)


def _moment(seconds_ago: float) -> Any:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # not for help

    return datetime.now(UTC) - timedelta(seconds=seconds_ago)


def _write(output: Output, entry: "pb.DecisionEntry") -> None:
    from controlplane.cli.decision_views import entry_line  # noqa: PLC0415  # imports the SDK

    if output is Output.TABLE:
        write(entry_line(entry))
    else:
        write_event(output, as_dict(entry))
