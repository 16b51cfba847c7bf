"""`fleetplane login` and `logout`: prove who calls once, and be known from then on."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.call import DEFAULT_NAMESPACE, Globals, Output, epilog, with_globals
from controlplane.cli.credentials import MAX_TOKEN_BYTES, check_token, is_local
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.profiles import Profile, ProfileStore, as_value
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.resolving import resolve_login
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import identity_service_pb2 as pb

EVERYWHERE: Final = "*"
"""In place of a namespace: all of them."""

STDIN: Final = "-"
"""In place of a token: the first line of standard input."""


def _login(
    call: Globals,
    *,
    token: Annotated[
        str,
        typer.Option(
            "--token",
            metavar="TOKEN|-",
            help="The token; -: from standard input. Others on this machine may see what is typed"
            " here: better leave it out and be asked.",
        ),
    ] = "",
    ca_fingerprint: Annotated[
        str,
        typer.Option(
            "--ca-fingerprint",
            metavar="sha256:HEX",
            help="In place of --ca: keep the certificate that the daemon shows, if this is its.",
        ),
    ] = "",
) -> None:
    """Prove to a daemon who you are, and keep it as a profile.

    The token is asked for without an echo, or read from standard input if that is no terminal;
    FLEETPLANE_TOKEN and --token-file work too. Once the daemon has accepted it, address, namespace
    and trust are kept as a profile, the token beside it in a file that only you can read, and every
    further command uses them. A token is accepted from anybody who has it: `fleetplane logout`
    forgets it here, `fleetplane tokens revoke` ends it.
    """
    attempt = _trusting(_with_token(call, token), ca_fingerprint)
    who = _ask_who(attempt)
    profile = _profile(attempt, who)
    store = ProfileStore.of_user()
    old = store.find(profile.name)
    store.save(profile, attempt.credentials.token)
    if old is not None and old.address != profile.address:
        note(f"profile {profile.name} was at {old.address} before")
    if not who.authentication:
        note("this daemon authenticates nobody: no credential was checked")
    if attempt.output is not Output.TABLE:
        write_value(attempt.output, {**as_value(profile), "caller": as_dict(who)})
        return
    write(
        printable(
            f"{profile.name}: {who.name} at {profile.address}, in namespace {profile.namespace}"
        )
    )


def _ask_who(call: Globals) -> "pb.WhoAmIResponse":
    """Return who the caller is to the daemon; this is what verifies the login.

    The command itself is no coroutine, so that Ctrl-C ends the question for the token.
    """
    import asyncio  # noqa: PLC0415  # 40 ms that help does not need

    async def ask() -> "pb.WhoAmIResponse":
        async with call.client() as client:
            return await client.who_am_i()

    return asyncio.run(ask())


def _with_token(call: Globals, typed: str) -> Globals:
    """Return the call with the token that is to be kept, wherever it comes from.

    Raises:
        WrongInput: what was given is no token.
    """
    shown = call.credentials
    if typed and shown.token_file is not None:
        raise WrongInput("--token and --token-file exclude each other")
    if typed and typed != STDIN:
        token = check_token(typed, "--token")
    elif typed == STDIN or not (shown.token or shown.token_file or shown.cert_file):
        token = _ask(must=typed == STDIN)
    else:
        token = shown.read_token()
    tls = shown.tls or (bool(token) and not is_local(call.address))
    return replace(call, credentials=replace(shown, token=token, token_file=None, tls=tls))


def _ask(*, must: bool) -> str:
    if sys.stdin.isatty():
        typed: str = typer.prompt(
            "Token (empty for none)", default="", show_default=False, hide_input=True, err=True
        )
    else:
        typed = sys.stdin.readline(MAX_TOKEN_BYTES + 2)
    return check_token(typed, "standard input") if typed.strip() or must else ""


def _trusting(call: Globals, fingerprint: str) -> Globals:
    """Return the call with the authority that a fingerprint names, if one does.

    Raises:
        WrongInput: the fingerprint is none.
        CommandFailed: the daemon does not show it.
    """
    if not fingerprint:
        return call
    from controlplane.cli.trust import fetch_authority, read_fingerprint  # noqa: PLC0415  # ssl

    pem = fetch_authority(call.address, read_fingerprint(fingerprint))
    trust = replace(call.credentials, ca_file=None, ca_pem=pem, tls=True)
    return replace(call, credentials=trust)


def _profile(call: Globals, who: "pb.WhoAmIResponse") -> Profile:
    shown = call.credentials
    return Profile(
        name=call.profile,
        address=call.address,
        namespace=_namespace(call.namespace, who),
        tls=shown.tls,
        ca_file=_absolute(shown.ca_file),
        ca_pem=shown.ca_pem,
        cert_file=_absolute(shown.cert_file),
        key_file=_absolute(shown.key_file),
        user=who.name,
        token_id=_visible(shown.token),
    )


def _namespace(wanted: str, who: "pb.WhoAmIResponse") -> str:
    """Return where the caller will work: in the only place where it may, if nobody chose."""
    places = {held.namespace for held in who.roles}
    if wanted != DEFAULT_NAMESPACE or len(places) != 1 or EVERYWHERE in places:
        return wanted
    return places.pop()


def _absolute(path: Path | None) -> str:
    return str(path.absolute()) if path else ""


def _visible(token: str) -> str:
    """Return the id that an API token begins with; empty for a token of another kind."""
    token_id, dot, _ = token.partition(".")
    return token_id if dot and token_id.startswith("at-") else ""


def _logout(
    call: Globals,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every profile there is.")] = False,
) -> None:
    """Forget a profile and its token on this machine.

    Without --profile it is the current one. The token stays valid for whoever else has it:
    `fleetplane tokens revoke` ends it.
    """
    store = ProfileStore.of_user()
    names = store.names() if everything else [call.profile] if call.profile else []
    forgotten = [name for name in names if store.remove(name)]
    if call.output is not Output.TABLE:
        write_value(call.output, {"removed": forgotten})
    elif forgotten:
        write(f"forgotten: {', '.join(forgotten)}")
    else:
        note("there is no profile to forget")


login = typer.Typer(**{**PLAIN, "no_args_is_help": False})
"""A single command."""

login.command(
    "login",
    epilog=epilog(
        (
            "fleetplane login --address fleet.example.com:50051 --ca ca.pem",
            "fleetplane login --profile prod -a fleet.example.com:50051 -n staging < token",
            "fleetplane login -a 127.0.0.1:50051 --ca-fingerprint sha256:9f86d08... < token",
            "fleetplane login -a fleet.example.com:50052 --ca ca.pem --cert me.pem --key me.key",
        )
    ),
)(
    with_globals(
        _login,
        prepare=resolve_login,
        shown=frozenset(
            {
                "address",
                "namespace",
                "profile",
                "token_file",
                "ca_file",
                "cert_file",
                "key_file",
            }
        ),
    )
)

logout = typer.Typer(**{**PLAIN, "no_args_is_help": False})
"""A single command."""

logout.command(
    "logout",
    epilog=epilog(("fleetplane logout", "fleetplane logout --profile prod")),
)(with_globals(_logout, shown=frozenset({"profile"})))
