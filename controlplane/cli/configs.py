"""`fleetplane config`: what running agents are configured with."""

from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.arguments import json_pairs
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.config_schema import app as schema_commands
from controlplane.cli.config_scopes import Agent, Emergency, Name, scope_name, scope_of
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import Scope
    from fleetplane.v1 import config_service_pb2

WAIT_LIMIT = 60.0
"""Seconds that `config wait` waits unless told otherwise."""

PAGE = 1000
"""Revisions fetched in one call at most, by contract."""

app = typer.Typer(
    **PLAIN,
    help="What running agents are configured with. Layers, weakest first: defaults, namespace, "
    "agent name, agent id, emergency.",
)
app.add_typer(schema_commands, name="schema")

Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why, for history and audit.")
]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        "--expected-revision",
        metavar="NUMBER",
        min=0,
        help="Refuse if the layer is at another; 0: must not exist.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Validate and show the effect per agent; write nothing.")
]


@command(
    app,
    "get",
    examples=(
        "fleetplane config get",
        "fleetplane config get --name writer --explain",
        "fleetplane config get --agent agent-7f3a -o json",
    ),
)
async def get(
    call: Globals,
    *,
    agent: Agent = "",
    name: Name = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which layer decided each value.")
    ] = False,
) -> None:
    """Show the merged configuration of an agent, an agent name or the namespace."""
    from controlplane.cli.config_views import config_table, explained_table  # noqa: PLC0415  # SDK
    from fleetplane import EffectiveConfig  # noqa: PLC0415  # same

    scope = scope_of(agent, name)
    async with call.client() as client:
        response = await client.explain_config(scope)
    if call.output is not Output.TABLE:
        if not explain:
            response.ClearField("sources")
            response.ClearField("layers")
        write_value(call.output, as_dict(response))
        return
    config = EffectiveConfig.from_message(response.config)
    write(explained_table(response) if explain else config_table(config))
    note(f"{scope_name(scope)}, revision {config.revision}")


@command(
    app,
    "set",
    examples=(
        "fleetplane config set temperature=0.2 features.web_search=true --name writer",
        "fleetplane config set 'blocked_tools=[\"shell\"]' --emergency --reason 'incident 42'",
        "fleetplane config set max_tokens=2048 --agent agent-7f3a --dry-run",
    ),
)
async def set_values(
    call: Globals,
    *,
    assignments: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH=VALUE...", help="Values are JSON, else text.", show_default=False
        ),
    ],
    agent: Agent = "",
    name: Name = "",
    emergency: Emergency = False,
    may_widen: Annotated[
        list[str] | None,
        typer.Option(
            "--may-widen", metavar="PATH", help="Bound that layers below may exceed; repeatable."
        ),
    ] = None,
    reason: Reason = "",
    expected_revision: ExpectedRevision = None,
    dry_run: DryRun = False,
) -> None:
    """Set paths of one layer; running agents follow at once, without a restart."""
    values = json_pairs(assignments, "PATH=VALUE")
    scope = scope_of(agent, name, emergency=emergency)
    async with call.client() as client:
        response = await client.update_config(
            values,
            scope=scope,
            may_widen=may_widen or None,
            reason=reason,
            expected_revision=expected_revision,
            dry_run=dry_run,
        )
    _write_update(call.output, response, dry_run=dry_run)


@command(
    app,
    "unset",
    examples=(
        "fleetplane config unset temperature --name writer",
        "fleetplane config unset blocked_tools features.web_search --emergency",
    ),
)
async def unset_values(
    call: Globals,
    *,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Dotted paths.")],
    agent: Agent = "",
    name: Name = "",
    emergency: Emergency = False,
    reason: Reason = "",
    expected_revision: ExpectedRevision = None,
    dry_run: DryRun = False,
) -> None:
    """Remove paths from one layer, so that the layers below decide again."""
    if wrong := [path for path in paths if "=" in path]:
        raise WrongInput(f"{wrong[0]!r} is not a path", hint="values are set with `config set`")
    scope = scope_of(agent, name, emergency=emergency)
    async with call.client() as client:
        response = await client.update_config(
            scope=scope,
            unset=paths,
            reason=reason,
            expected_revision=expected_revision,
            dry_run=dry_run,
        )
    _write_update(call.output, response, dry_run=dry_run)


def _write_update(
    output: Output, response: "config_service_pb2.UpdateConfigResponse", *, dry_run: bool
) -> None:
    if output is not Output.TABLE:
        write_value(output, as_dict(response))
        return
    from controlplane.cli.config_views import effects_table, layer_details  # noqa: PLC0415  # SDK

    write(layer_details(response.layer))
    for remark in response.notes:
        note(remark)
    if dry_run:
        note(f"Nothing was written. {response.affected_agents} agents would change.")
        if response.agents:
            write("\n" + effects_table(response.agents))
    elif not response.changed:
        note("Nothing changed: the layer had these values already.")


@command(
    app,
    "watch",
    examples=(
        "fleetplane config watch --agent agent-7f3a --agent agent-81bc",
        "fleetplane config watch --name writer -o json",
    ),
)
async def watch(
    call: Globals,
    *,
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="ID", help="The agent with this id; repeatable."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="Agents of this name; repeatable."),
    ] = None,
) -> None:
    """Show the merged configuration, then every newer one as agents get it, until interrupted.

    Without options that of the namespace. JSON: one line per update.
    """
    from controlplane.cli.config_following import follow  # noqa: PLC0415  # imports the SDK
    from fleetplane import Scope  # noqa: PLC0415  # same

    scopes: list[Scope] = [Scope(agent_id=one) for one in agent or ()]
    scopes += [Scope(agent_name=one) for one in name or ()]
    scopes = scopes or [Scope()]
    async with call.client() as client:
        await client.get_config(scopes[0])
        await follow(client, call.output, scopes)


@command(
    app,
    "history",
    examples=(
        "fleetplane config history --name writer",
        "fleetplane config history --emergency --limit 5 -o yaml",
    ),
)
async def history(
    call: Globals,
    *,
    agent: Agent = "",
    name: Name = "",
    emergency: Emergency = False,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="NUMBER", min=1, max=PAGE, help="Revisions shown at most."),
    ] = 20,
) -> None:
    """Show how one layer became what it is, newest first."""
    from controlplane.cli.config_views import history_table  # noqa: PLC0415  # imports the SDK

    scope = scope_of(agent, name, emergency=emergency)
    async with call.client() as client:
        page = await client.list_config_revisions_page(scope, page_size=limit)
    if call.output is not Output.TABLE:
        write_value(call.output, {"revisions": [as_dict(one) for one in page.revisions]})
    elif page.revisions:
        write(history_table(page.revisions))
    else:
        note(f"Nothing was ever set in the layer {scope_name(scope)}.")


@command(
    app,
    "rollback",
    examples=(
        "fleetplane config rollback 17 --name writer --reason 'worse answers'",
        "fleetplane config rollback 17 --expected-revision 21",
    ),
)
async def rollback(
    call: Globals,
    *,
    revision: Annotated[
        int, typer.Argument(metavar="REVISION", min=1, help="Whose values come back.")
    ],
    agent: Agent = "",
    name: Name = "",
    emergency: Emergency = False,
    reason: Reason = "",
    expected_revision: ExpectedRevision = None,
) -> None:
    """Restore the values one layer had at an older revision, as a new revision."""
    from controlplane.cli.config_views import layer_details  # noqa: PLC0415  # imports the SDK

    scope = scope_of(agent, name, emergency=emergency)
    async with call.client() as client:
        layer = await client.rollback_config(
            revision, scope=scope, expected_revision=expected_revision, reason=reason
        )
    if call.output is Output.TABLE:
        write(layer_details(layer))
    else:
        write_value(call.output, as_dict(layer))


@command(
    app,
    "wait",
    examples=(
        "fleetplane config wait 21 --name writer",
        "fleetplane config wait 21 --timeout 300 -o json",
    ),
)
async def wait(
    call: Globals,
    *,
    revision: Annotated[
        int, typer.Argument(metavar="REVISION", min=1, help="What every live instance must run.")
    ],
    agent: Agent = "",
    name: Name = "",
) -> None:
    """Wait until every live instance runs a revision; name those that do not.

    `--timeout` says how long, 60 seconds unless given. Exit code 1 if time ran out.
    """
    from controlplane.cli.config_following import wait as follow_up  # noqa: PLC0415  # the SDK
    from controlplane.cli.config_views import laggards_table  # noqa: PLC0415  # same

    scope: Scope = scope_of(agent, name)
    limit = call.timeout or WAIT_LIMIT
    async with call.client() as client:
        answer = await follow_up(client, revision, scope, limit)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(answer))
    elif answer.converged:
        write(f"{answer.converged_instances} instances run revision {revision}")
    else:
        write(laggards_table(answer.laggards))
    if not answer.converged:
        raise CommandFailed(
            f"{len(answer.laggards)} instances do not run revision {revision} after {limit:g} s"
        )
