"""`fleetplane auth bindings`: who has which role where."""

from typing import Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import deadline
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.places import Everywhere, Reason, Role, chosen
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(
    **PLAIN,
    help="Who has which role where. Subjects are user:NAME and group:NAME (claims of an OIDC "
    "token), token:ID (an API token) and spiffe://DOMAIN/PATH (a certificate; * within a segment "
    "and ** at the end are wildcards).",
)

SUBJECT_HELP = "Who: user:NAME, group:NAME, token:ID or spiffe://DOMAIN/PATH."

_KINDS = ("user:", "group:", "token:", "spiffe://")


def _subjects(incomplete: str) -> list[str]:
    """Return the beginnings of subjects that begin so, for the completion of the shell."""
    return [one for one in _KINDS if one.startswith(incomplete)]


@command(
    app,
    "list",
    examples=(
        "fleetplane auth bindings list",
        "fleetplane auth bindings list --everywhere",
        "fleetplane auth bindings list --subject group:ops -o json",
    ),
)
async def list_bindings(
    call: Globals,
    *,
    subject: Annotated[
        str,
        typer.Option(
            "--subject", metavar="SUBJECT", help="Only those of this one.", autocompletion=_subjects
        ),
    ] = "",
    everywhere: Everywhere = False,
) -> None:
    """List the bindings of a namespace, by subject.

    Those that hold everywhere belong to no namespace: --everywhere lists them.
    """
    async with call.client() as client:
        found = client.list_role_bindings(subject=subject, namespace=chosen(everywhere=everywhere))
        bindings = [one async for one in found]
    if call.output is not Output.TABLE:
        write_value(call.output, {"bindings": [as_dict(one) for one in bindings]})
        return
    from controlplane.cli.auth_views import bindings_table  # noqa: PLC0415  # imports the SDK

    if not bindings:
        note("No binding here: `fleetplane auth bindings create` makes one.")
        return
    write(bindings_table(bindings))


@command(
    app,
    "create",
    examples=(
        "fleetplane auth bindings create --subject group:ops --role operator -n staging",
        "fleetplane auth bindings create --subject user:ann --role admin --ttl 8h",
        "fleetplane auth bindings create --subject token:at-2f1c --role viewer --everywhere",
    ),
)
async def create(
    call: Globals,
    *,
    subject: Annotated[
        str,
        typer.Option("--subject", metavar="SUBJECT", help=SUBJECT_HELP, autocompletion=_subjects),
    ] = "",
    role: Role = "",
    ttl: Annotated[
        float | None,
        typer.Option(
            "--ttl",
            metavar="DURATION",
            parser=deadline,
            help="How long it holds; default: for ever.",
        ),
    ] = None,
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="Why.")] = "",
    everywhere: Everywhere = False,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Makes a repetition safe for 10 min.")
    ] = "",
) -> None:
    """Give somebody a role; the same binding twice is one binding.

    It holds on every replica within 5 s. You can only give what you administer yourself.
    """
    if not subject or not role:
        raise WrongInput(
            "say who gets what: --subject and --role",
            hint="`fleetplane auth roles` explains the roles; " + SUBJECT_HELP,
        )
    async with call.client() as client:
        binding = await client.create_role_binding(
            subject,
            role,
            ttl=ttl,
            description=description,
            namespace=chosen(everywhere=everywhere),
            request_id=request_id,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(binding))
        return
    from controlplane.cli.auth_views import binding_words  # noqa: PLC0415  # imports the SDK

    write(binding_words(binding))


@command(
    app,
    "delete",
    examples=(
        "fleetplane auth bindings delete rb-41d0 --reason 'left the team'",
        "fleetplane auth bindings delete rb-41d0 --everywhere",
    ),
)
async def delete(
    call: Globals,
    *,
    binding_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the binding, rb-...")],
    reason: Reason = "",
    everywhere: Everywhere = False,
) -> None:
    """Take a role away; streams that need it end within 5 s."""
    async with call.client() as client:
        removed = await client.delete_role_binding(
            binding_id, reason=reason, namespace=chosen(everywhere=everywhere)
        )
    if call.output is not Output.TABLE:
        write_value(call.output, {"removed": removed})
    else:
        write(printable(f"{binding_id} {'is deleted' if removed else 'was not there'}"))
