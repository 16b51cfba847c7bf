"""`fleetplane agents activate | deactivate | decommission`: an agent's life by hand."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.agent_names import AgentName, agent_id_of, title
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import deadline
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import agent_pb2

app = typer.Typer(**PLAIN)
"""Part of the group `agents`."""

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
ExpectedRevision = Annotated[
    int,
    typer.Option(
        "--expected-revision", metavar="NUMBER", min=0, help="Refuse at another revision."
    ),
]


@command(
    app,
    "activate",
    examples=(
        "fleetplane agents activate agent-7f3a",
        "fleetplane agents activate writer@2.1.0 --confirm --reason 'reviewed by ops'",
    ),
)
async def activate(
    call: Globals,
    *,
    agent: AgentName,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Vote for the approval of the parked activation, too.")
    ] = False,
    reason: Reason = "",
    expected_revision: ExpectedRevision = 0,
) -> None:
    """Make a REGISTERED or INACTIVE agent ACTIVE, if its configuration and the policies permit."""
    async with call.client() as client:
        found = await client.activate(
            await agent_id_of(client, agent),
            reason=reason,
            expected_revision=expected_revision,
            confirm_pending=confirm,
        )
    _write_state(call.output, found)


def _write_state(output: Output, agent: "agent_pb2.Agent") -> None:
    from controlplane.cli.agent_views import status_of  # noqa: PLC0415  # imports the SDK

    if output is Output.TABLE:
        write(printable(f"{title(agent)} is {status_of(agent)}"))
    else:
        write_value(output, as_dict(agent))


@command(
    app,
    "deactivate",
    examples=(
        "fleetplane agents deactivate agent-7f3a --reason 'answers nonsense'",
        "fleetplane agents deactivate writer@2.0.0 --reason 'replaced by 2.1.0' --drain 5m",
    ),
)
async def deactivate(
    call: Globals,
    *,
    agent: AgentName,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; shown with the agent.")
    ],
    drain: Annotated[
        float | None,
        typer.Option(
            "--drain",
            metavar="DURATION",
            parser=deadline,
            help="Let work in flight finish for so long first.",
        ),
    ] = None,
    expected_revision: ExpectedRevision = 0,
) -> None:
    """Make an agent INACTIVE: at once, or when its work in flight has ended.

    Its tasks go to other agents with the needed capabilities, or fail with the reason.
    """
    async with call.client() as client:
        response = await client.deactivate(
            await agent_id_of(client, agent),
            reason,
            drain_deadline=drain,
            expected_revision=expected_revision,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    from controlplane.cli.drain_views import drain_sentence  # noqa: PLC0415  # imports the SDK

    if response.HasField("drain"):
        write(printable(f"{title(response.agent)}: {drain_sentence(response.drain)}"))
        note("it becomes INACTIVE when the drain is done: `fleetplane agents drain-status`")
        return
    _write_state(call.output, response.agent)
    if response.tasks_requeued or response.tasks_failed:
        note(f"tasks: {response.tasks_requeued} go to others, {response.tasks_failed} failed")


@command(
    app,
    "decommission",
    examples=(
        "fleetplane agents decommission writer@1.0.0 --reason 'replaced'",
        "fleetplane agents decommission agent-7f3a --force --yes",
    ),
)
async def decommission(
    call: Globals,
    *,
    agent: AgentName,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that works: deactivated first, no drain.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Reason = "",
    expected_revision: ExpectedRevision = 0,
) -> None:
    """Retire an agent for good; its name@version is never free again.

    Asks on a terminal. Where nobody can be asked, --yes is required.
    """
    if not yes:
        _ask(f"Retire {printable(agent)} for good?")
    async with call.client() as client:
        response = await client.decommission(
            await agent_id_of(client, agent),
            reason=reason,
            force=force,
            expected_revision=expected_revision,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    _write_state(call.output, response.agent)
    if response.instances_removed:
        note(f"{response.instances_removed} instances were told that they are GONE")


def _ask(question: str) -> None:
    """Ask on the terminal.

    Raises:
        WrongInput: nobody can be asked.
        CommandFailed: the answer is no.
    """
    if not sys.stdin.isatty():
        raise WrongInput("this cannot be undone: say --yes", hint="nobody can be asked here")
    if not typer.confirm(question, err=True):
        raise CommandFailed("nothing was done")
