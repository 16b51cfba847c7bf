"""`fleetplane agents`: who is in the fleet, who is alive, who is best for a job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli import agent_drain, agent_lifecycle, agent_stop
from controlplane.cli.agent_filters import ACTIVE_ONLY, filtered
from controlplane.cli.agent_names import AgentName, agent_id_of
from controlplane.cli.arguments import present, text_pairs
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import FilterFields, FleetClient, Registration
    from fleetplane.v1 import agent_pb2

PAGE = 1000
"""Agents fetched in one call at most, by contract."""

app = typer.Typer(**PLAIN, help="Who is in the fleet, who is alive, who is best for a job.")

Limit = Annotated[
    int, typer.Option("--limit", metavar="NUMBER", min=0, help="Agents shown at most; 0 shows all.")
]
AgentId = Annotated[str, typer.Argument(metavar="ID", help="Id of the agent.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]


@command(
    app,
    "list",
    examples=(
        "fleetplane agents list",
        "fleetplane agents list --status degraded --status inactive",
        "fleetplane agents list --capability translate --tag tier=gold -o json",
        "fleetplane agents list --instances --limit 0",
    ),
)
@filtered
async def list_agents(
    call: Globals,
    *,
    wanted: "FilterFields",
    instances: Annotated[
        bool, typer.Option("--instances", help="Show instances, their load and configuration.")
    ] = False,
    limit: Limit = 100,
) -> None:
    """List agents of any status, ordered by id."""
    async with call.client() as client:
        agents, total = await _collect(client, wanted, limit, instances=instances, active=False)
    _write_agents(call.output, agents, total, instances=instances)


@command(
    app,
    "discover",
    examples=(
        "fleetplane agents discover --capability translate",
        "fleetplane agents discover -c translate -c summarize --tag region=eu -o json",
    ),
)
@filtered
async def discover(
    call: Globals,
    *,
    wanted: "FilterFields",
    limit: Limit = 100,
) -> None:
    """Find agents for a job: those that satisfy all conditions, ACTIVE unless told otherwise."""
    async with call.client() as client:
        agents, total = await _collect(client, wanted, limit, instances=False, active=True)
    _write_agents(call.output, agents, total, instances=False)


async def _collect(
    client: "FleetClient", wanted: "FilterFields", limit: int, *, instances: bool, active: bool
) -> "tuple[list[agent_pb2.Agent], int]":
    """Fetch pages until there are `limit` agents (0: all); return them and how many match."""
    agents: list[agent_pb2.Agent] = []
    token = ""
    while True:
        size = min(PAGE, limit - len(agents)) if limit else PAGE
        page: Any
        if active:
            page = await client.discover_page(page_size=size, page_token=token, **wanted)
        else:
            page = await client.list_agents_page(
                page_size=size, page_token=token, include_instances=instances, **wanted
            )
        agents += page.agents
        token = page.next_page_token
        if not token or (limit and len(agents) >= limit):
            return agents, page.total_size


def _write_agents(
    output: Output, agents: "list[agent_pb2.Agent]", total: int, *, instances: bool
) -> None:
    if output is not Output.TABLE:
        write_value(output, {"agents": [as_dict(one) for one in agents], "total_size": total})
        return
    from controlplane.cli.agent_views import (  # noqa: PLC0415  # imports the SDK
        agents_table,
        instances_table,
    )

    if not agents:
        note("No agent matches.")
        return
    write(instances_table(agents) if instances else agents_table(agents))
    if len(agents) < total:
        note(f"{len(agents):,} of {total:,} agents; --limit 0 shows all.")


@command(
    app,
    "get",
    examples=("fleetplane agents get agent-7f3a", "fleetplane agents get writer@2.1.0 -o yaml"),
)
async def get(call: Globals, agent: AgentName) -> None:
    """Show everything about one agent, with its instances."""
    async with call.client() as client:
        found = await client.get_agent(await agent_id_of(client, agent))
    _write_agent(call.output, found)


def _write_agent(output: Output, agent: "agent_pb2.Agent") -> None:
    from controlplane.cli.agent_views import agent_details  # noqa: PLC0415  # imports the SDK

    if output is Output.TABLE:
        write(agent_details(agent))
    else:
        write_value(output, as_dict(agent))


@command(
    app,
    "register",
    examples=(
        "fleetplane agents register --name writer --version 2.1.0 -c summarize --owner content",
        "fleetplane agents register -f agents.yaml",
        "",
        "A file holds one declaration, a list, or a list under `agents`:",
        "  agents:",
        "    - name: writer",
        "      version: 2.1.0",
        "      capabilities: [summarize]",
        "      tags: {team: content}",
    ),
)
async def register(
    call: Globals,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="YAML or JSON file; `-` is standard input."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name, shared by all versions.")
    ] = "",
    version: Annotated[
        str, typer.Option("--version", metavar="SEMVER", help="Semantic version.")
    ] = "",
    agent_id: Annotated[
        str, typer.Option("--agent-id", metavar="ID", help="Identity; by default one is made.")
    ] = "",
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", help="What it is for.")
    ] = "",
    owner: Annotated[str, typer.Option("--owner", metavar="NAME", help="Who answers for it.")] = "",
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", "-c", metavar="NAME", help="What it can do; repeatable."),
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", metavar="NAME", help="Tool it may call; repeatable."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Model it was built for.")
    ] = "",
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="URL", help="A2A URL.")] = "",
    max_concurrency: Annotated[
        int | None,
        typer.Option("--max-concurrency", metavar="NUMBER", min=1, help="Tasks at the same time."),
    ] = None,
    timeout_seconds: Annotated[
        int | None,
        typer.Option(
            "--timeout-seconds", metavar="SECONDS", min=1, help="How long a task may take."
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="KEY=VALUE", help="Repeatable.")
    ] = None,
    activation: Annotated[
        str,
        typer.Option("--activation", metavar="MODE", help="auto (at its first beat) or manual."),
    ] = "",
) -> None:
    """Register one agent from options, or any number from a file; identical ones are found.

    Agents register themselves when they start; this is for those that are known beforehand.
    """
    from controlplane.cli.agent_specs import registration, registrations_in  # noqa: PLC0415  # SDK

    given = present(
        {
            "name": name,
            "version": version,
            "agent_id": agent_id,
            "description": description,
            "owner": owner,
            "capabilities": capability,
            "tools": tool,
            "model": model,
            "endpoint": endpoint,
            "max_concurrency": max_concurrency,
            "timeout_seconds": timeout_seconds,
            "tags": text_pairs(tag or (), "--tag"),
            "activation": activation,
        }
    )
    if file is not None and given:
        raise WrongInput("--file stands alone: the file says everything about its agents")
    if file is None and not given:
        raise WrongInput("name an agent with --name and --version, or a file with --file")
    entries = registrations_in(file) if file else [registration(given, "register")]
    await _register(call, entries)


async def _register(call: Globals, entries: "list[Registration]") -> None:
    from controlplane.cli.agent_batches import register_all, registered_table  # noqa: PLC0415  # SDK
    from fleetplane import FleetError  # noqa: PLC0415  # same

    async with call.client() as client:
        answers = await register_all(client, entries)
    if len(entries) == 1 and isinstance(answers[0], FleetError):
        raise answers[0]
    if call.output is Output.TABLE:
        write(registered_table(entries, answers))
    else:
        write_value(
            call.output,
            {
                "results": [
                    {"error": one.message} if isinstance(one, FleetError) else as_dict(one)
                    for one in answers
                ]
            },
        )
    refused = sum(isinstance(one, FleetError) for one in answers)
    if refused:
        raise CommandFailed(f"{refused} of {len(answers)} agents were refused")


@command(
    app,
    "update",
    examples=(
        "fleetplane agents update agent-7f3a --set description='Writes summaries'",
        "fleetplane agents update agent-7f3a --set capabilities=summarize,translate",
        'fleetplane agents update agent-7f3a --set \'tags={"tier": "gold"}\' --reason promoted',
    ),
)
async def update(
    call: Globals,
    *,
    agent_id: AgentId,
    assignments: Annotated[
        list[str],
        typer.Option("--set", metavar="FIELD=VALUE", help="New value of a field; repeatable."),
    ],
    expected_revision: Annotated[
        int,
        typer.Option(
            "--expected-revision", metavar="NUMBER", min=0, help="Refuse at another revision."
        ),
    ] = 0,
    reason: Reason = "",
) -> None:
    """Change what is declared about an agent; other fields stay. Status cannot be written."""
    from controlplane.cli.agent_specs import spec_changes  # noqa: PLC0415  # imports the SDK

    changes = spec_changes(assignments)
    async with call.client() as client:
        agent = await client.update_agent(
            agent_id, expected_revision=expected_revision, reason=reason, **changes
        )
    _write_agent(call.output, agent)


@command(
    app,
    "deregister",
    examples=("fleetplane agents deregister writer-host-3-1 --reason 'host is gone'",),
)
async def deregister(
    call: Globals,
    *,
    instance_id: Annotated[str, typer.Argument(metavar="INSTANCE", help="Id of the instance.")],
    reason: Reason = "",
) -> None:
    """Remove one instance; the agent stays, INACTIVE if no fresh instance is left."""
    async with call.client() as client:
        removed = await client.deregister(instance_id, reason=reason)
    if call.output is not Output.TABLE:
        write_value(call.output, {"removed": removed})
    elif removed:
        write(f"removed {instance_id}")
    else:
        write(f"{instance_id} was not there any more")


@command(
    app,
    "best",
    examples=(
        "fleetplane agents best --capability translate",
        "fleetplane agents best --task 'translate a contract into German' --prefer-low-latency",
    ),
)
@filtered
async def best(
    call: Globals,
    *,
    wanted: "FilterFields" = ACTIVE_ONLY,
    task: Annotated[
        str, typer.Option("--task", metavar="TEXT", help="What is to be done, in words.")
    ] = "",
    prefer_low_latency: Annotated[
        bool, typer.Option("--prefer-low-latency", help="Weigh measured latency more.")
    ] = False,
    session: Annotated[
        str,
        typer.Option(
            "--session", metavar="ID", help="Ties break the same way for the same session."
        ),
    ] = "",
) -> None:
    """Show the best agent for a job, the parts of every score, and why others are not considered.

    Score = 0.5 x match + (0.5 - w) x free capacity + w x speed; w is 0.3 with low latency
    preferred, else 0.1.
    """
    from controlplane.cli.agent_views import choice, misses  # noqa: PLC0415  # imports the SDK
    from fleetplane import NotFound  # noqa: PLC0415  # same

    async with call.client() as client:
        try:
            response = await client.find_best_agent(
                task_description=task,
                prefer_low_latency=prefer_low_latency,
                session_id=session,
                **wanted,
            )
        except NotFound as error:
            near = misses(dict(error.metadata))
            raise CommandFailed(error.message, hint=f"nearest:\n{near}" if near else "") from error
    if call.output is Output.TABLE:
        write(choice(response))
    else:
        write_value(call.output, as_dict(response))


@command(
    app,
    "watch",
    examples=(
        "fleetplane agents watch",
        "fleetplane agents watch --tag team=content -o json | jq -r .event",
    ),
)
@filtered
async def watch(
    call: Globals,
    *,
    wanted: "FilterFields",
) -> None:
    """Show who is there, then every change as it happens, until interrupted.

    Survives restarts of the daemon. JSON: one line per event, with `event` snapshot or changed.
    """
    from controlplane.cli.agent_watch import follow  # noqa: PLC0415  # imports the SDK

    async with call.client() as client:
        await client.list_agents_page(page_size=1, **wanted)
        await follow(client, call.output, wanted)


for part in (agent_lifecycle.app, agent_drain.app, agent_stop.app):
    app.add_typer(part)
