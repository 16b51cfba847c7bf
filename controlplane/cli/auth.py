"""`fleetplane auth`: who you are, who may do what, who is shut out."""

from typing import Annotated

import typer

from controlplane.cli.auth_bindings import app as bindings
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import REFUSED
from controlplane.cli.places import Everywhere, Reason, chosen
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(
    **PLAIN,
    help="Who may do what: a role is a set of permissions, a binding gives it to somebody in a "
    "namespace or everywhere, and everything else is refused.",
)
app.add_typer(bindings, name="bindings")


def _actions(incomplete: str) -> list[str]:
    """Return the permissions that begin so, for the completion of the shell."""
    from controlplane.domain.access.permissions import Permission  # noqa: PLC0415  # not for help

    return [one.value for one in Permission if one.value.startswith(incomplete)]


AgentName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]


@command(app, "whoami", examples=("fleetplane auth whoami", "fleetplane auth whoami -o json"))
async def whoami(call: Globals) -> None:
    """Show who you are to the daemon, and which roles you have."""
    async with call.client() as client:
        who = await client.who_am_i()
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(who))
        return
    from controlplane.cli.auth_views import caller_details  # noqa: PLC0415  # imports the SDK

    write(caller_details(who))
    if call.credentials.source and who.authentication:
        note(f"shown: {call.credentials.source}")


@command(
    app,
    "can-i",
    examples=(
        "fleetplane auth can-i operate -n staging",
        "fleetplane auth can-i fleetplane.v1.RegistryService/UpdateAgent",
        "fleetplane auth can-i administer --everywhere && fleetplane namespaces create lab",
        "fleetplane auth can-i submit --as user:ann@example.com --as group:ops",
    ),
)
async def can_i(
    call: Globals,
    *,
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="A permission (read, report, submit, operate, approve, audit, administer,"
            " diagnose), or the full name of an RPC.",
            autocompletion=_actions,
            show_default=False,
        ),
    ],
    subjects: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="SUBJECT",
            help="Ask about this subject instead; repeatable, for one caller. Needs audit.",
        ),
    ] = None,
    agent: Annotated[
        str,
        typer.Option("--agent", metavar="NAME", help="The agent it is about; matters for agents."),
    ] = "",
    everywhere: Everywhere = False,
) -> None:
    """Ask whether you may do something, and why.

    The exit code is the answer: 0 yes, 1 no.
    """
    async with call.client() as client:
        answer = await client.check_access(
            action,
            subjects=subjects or (),
            agent_name=agent,
            namespace=chosen(everywhere=everywhere),
        )
    if call.output is Output.TABLE:
        from controlplane.cli.auth_views import verdict  # noqa: PLC0415  # imports the SDK

        write(verdict(answer))
    else:
        write_value(call.output, as_dict(answer))
    if not answer.allowed:
        raise typer.Exit(REFUSED)


@command(app, "roles", examples=("fleetplane auth roles", "fleetplane auth roles -o yaml"))
async def roles(call: Globals) -> None:
    """List the roles with their permissions; they are built in."""
    async with call.client() as client:
        found = await client.list_roles()
    if call.output is not Output.TABLE:
        write_value(call.output, {"roles": [as_dict(one) for one in found]})
        return
    from controlplane.cli.auth_views import roles_table  # noqa: PLC0415  # imports the SDK

    write(roles_table(found))


@command(
    app,
    "ban",
    examples=("fleetplane auth ban writer --reason 'its key was stolen'",),
)
async def ban(call: Globals, *, name: AgentName, reason: Reason = "") -> None:
    """Shut an agent name out, whatever certificate or join token it shows.

    Within 5 s its streams are over and its calls are refused; its instances then count as lost.
    """
    async with call.client() as client:
        made = await client.ban_agent(name, reason=reason)
    if call.output is Output.TABLE:
        write(printable(f"{made.agent_name} is banned in namespace {made.namespace}"))
    else:
        write_value(call.output, as_dict(made))


@command(app, "unban", examples=("fleetplane auth unban writer --reason 'it has a new key'",))
async def unban(call: Globals, *, name: AgentName, reason: Reason = "") -> None:
    """Take a ban back."""
    async with call.client() as client:
        removed = await client.unban_agent(name, reason=reason)
    if call.output is Output.TABLE:
        write(printable(f"{name} is {'not banned any more' if removed else 'not banned'}"))
    else:
        write_value(call.output, {"removed": removed})


@command(app, "bans", examples=("fleetplane auth bans", "fleetplane auth bans -o json"))
async def bans(call: Globals) -> None:
    """List the bans of the namespace, by agent name."""
    async with call.client() as client:
        found = [one async for one in client.list_bans()]
    if call.output is not Output.TABLE:
        write_value(call.output, {"bans": [as_dict(one) for one in found]})
        return
    from controlplane.cli.auth_views import bans_table  # noqa: PLC0415  # imports the SDK

    if not found:
        note("Nobody is banned here.")
        return
    write(bans_table(found))
