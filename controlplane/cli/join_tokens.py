"""`fleetplane tokens join`: what lets agents get an identity."""

from typing import Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import deadline
from controlplane.cli.places import Reason
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(
    **PLAIN,
    help="Join tokens: an agent exchanges one for a certificate of its own. The daemon keeps only "
    "a digest: a secret is printed once, when it is made.",
)

TokenId = Annotated[str, typer.Argument(metavar="ID", help="Id of the token, jt-...")]


@command(
    app,
    "create",
    examples=(
        "fleetplane tokens join create --for writer",
        "fleetplane tokens join create --for 'web-*' --uses 50 --ttl 1d --description 'autumn'",
        'FLEETPLANE_JOIN_TOKEN="$(fleetplane tokens join create --for writer)" python agent.py',
    ),
)
async def create(
    call: Globals,
    *,
    pattern: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="PATTERN",
            help="Agent names it may be used for; * stands for any characters.",
        ),
    ] = "*",
    uses: Annotated[
        int | None,
        typer.Option(
            "--uses",
            metavar="NUMBER",
            min=0,
            max=1_000_000,
            help="Enrolments it is good for; default 1; 0: any number.",
        ),
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(
            "--ttl", metavar="DURATION", parser=deadline, help="How long; default 1h, at most 365d."
        ),
    ] = None,
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", help="What it is for.")
    ] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Makes a repetition safe for 10 min.")
    ] = "",
) -> None:
    """Make a join token, and print its secret.

    The secret is alone on standard output, so that `$(...)` catches it, and is shown only here.
    """
    async with call.client() as client:
        made = await client.create_join_token(
            pattern, max_uses=uses, ttl=ttl, description=description, request_id=request_id
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(made))
        return
    from controlplane.cli.token_views import join_token_words  # noqa: PLC0415  # imports the SDK

    write(made.secret)
    note(f"{made.token.token_id}: for {join_token_words(made.token)}; its secret is shown once")


@command(
    app,
    "list",
    examples=("fleetplane tokens join list", "fleetplane tokens join list -n staging -o json"),
)
async def list_tokens(call: Globals) -> None:
    """List the join tokens of the namespace, oldest first, without their secrets."""
    async with call.client() as client:
        tokens = [one async for one in client.list_join_tokens()]
    if call.output is not Output.TABLE:
        write_value(call.output, {"tokens": [as_dict(one) for one in tokens]})
        return
    from controlplane.cli.token_views import join_tokens_table  # noqa: PLC0415  # imports the SDK

    if not tokens:
        note("No join token here: `fleetplane tokens join create` makes one.")
        return
    write(join_tokens_table(tokens))


@command(
    app,
    "revoke",
    examples=("fleetplane tokens join revoke jt-77a0 --reason 'the batch is enrolled'",),
)
async def revoke(call: Globals, *, token_id: TokenId, reason: Reason = "") -> None:
    """End a join token.

    Certificates that were got with it stay valid; `fleetplane auth ban` ends those of an agent.
    """
    async with call.client() as client:
        token = await client.revoke_join_token(token_id, reason=reason)
    if call.output is Output.TABLE:
        write(printable(f"{token.token_id} (for {token.agent_name_pattern}) is revoked"))
    else:
        write_value(call.output, as_dict(token))
