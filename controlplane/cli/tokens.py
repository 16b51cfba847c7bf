"""`fleetplane tokens`: credentials of programs (API tokens) and tickets of agents (join tokens)."""

from typing import Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.join_tokens import app as join
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.places import Everywhere, Reason, Role, chosen
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(
    **PLAIN,
    help="API tokens: what programs, and people without single sign-on, show to the daemon. The "
    "daemon keeps only a digest: a secret is printed once, when it is made.",
)
app.add_typer(join, name="join")

TokenId = Annotated[str, typer.Argument(metavar="ID", help="Id of the token, at-...")]


@command(
    app,
    "create",
    examples=(
        "fleetplane tokens create ci --role operator --ttl 30d",
        'export FLEETPLANE_TOKEN="$(fleetplane tokens create laptop --role viewer)"',
        "fleetplane tokens create backup --role auditor --everywhere --ttl 0 -o json",
    ),
)
async def create(
    call: Globals,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    role: Role = "",
    ttl: Annotated[
        float | None,
        typer.Option(
            "--ttl",
            metavar="DURATION",
            parser=duration,
            help="How long it is good for; default 90d; 0: for ever.",
        ),
    ] = None,
    everywhere: Everywhere = False,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Makes a repetition safe for 10 min.")
    ] = "",
) -> None:
    """Make an API token with a role, and print its secret.

    The secret is alone on standard output, so that `$(...)` catches it, and is shown only here. It
    gets its role in the namespace, or everywhere; you can only give what you administer yourself.
    """
    if not role:
        raise WrongInput("say what it may do: --role", hint="`fleetplane auth roles` explains them")
    async with call.client() as client:
        made = await client.create_api_token(
            name, role, ttl=ttl, namespace=chosen(everywhere=everywhere), request_id=request_id
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(made))
        return
    from controlplane.cli.token_views import api_token_words  # noqa: PLC0415  # imports the SDK

    write(made.secret)
    note(f"{made.token.token_id}: {api_token_words(made.token, role)}; its secret is shown once")


@command(
    app,
    "list",
    examples=("fleetplane tokens list", "fleetplane tokens list --everywhere -o json"),
)
async def list_tokens(call: Globals, *, everywhere: Everywhere = False) -> None:
    """List the API tokens of a namespace, oldest first, without their secrets.

    Those that are good everywhere belong to no namespace: --everywhere lists them.
    """
    async with call.client() as client:
        found = client.list_api_tokens(namespace=chosen(everywhere=everywhere))
        tokens = [one async for one in found]
    if call.output is not Output.TABLE:
        write_value(call.output, {"tokens": [as_dict(one) for one in tokens]})
        return
    from controlplane.cli.token_views import api_tokens_table  # noqa: PLC0415  # imports the SDK

    if not tokens:
        note("No API token here: `fleetplane tokens create` makes one.")
        return
    write(api_tokens_table(tokens))


@command(
    app,
    "revoke",
    examples=(
        "fleetplane tokens revoke at-2f1c --reason 'was in a log'",
        "fleetplane tokens revoke at-bootstrap --everywhere",
    ),
)
async def revoke(
    call: Globals, *, token_id: TokenId, reason: Reason = "", everywhere: Everywhere = False
) -> None:
    """End an API token: within 5 s nothing accepts it, and its streams are over."""
    async with call.client() as client:
        token = await client.revoke_api_token(
            token_id, reason=reason, namespace=chosen(everywhere=everywhere)
        )
    if call.output is Output.TABLE:
        write(printable(f"{token.token_id} ({token.name}) is revoked"))
    else:
        write_value(call.output, as_dict(token))
