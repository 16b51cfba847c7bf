"""`fleetplane profiles`: the daemons that you are logged in to."""

from typing import Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import CommandFailed
from controlplane.cli.profiles import Profile, ProfileStore, as_value
from controlplane.cli.rendering import Column, fields, note, table, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(
    **PLAIN,
    help="The daemons that you are logged in to. Commands use the current profile, or the one that "
    "--profile or FLEETPLANE_PROFILE names; other options and the environment win over it.",
)

_COLUMNS = (
    Column(""),
    Column("PROFILE", flexible=True),
    Column("ADDRESS", flexible=True),
    Column("NAMESPACE", flexible=True),
    Column("USER", flexible=True),
    Column("SHOWS"),
    Column("TRUSTS", flexible=True),
)


def _complete(incomplete: str) -> list[str]:
    """Return the names that begin so, for the completion of the shell."""
    return [name for name in ProfileStore.of_user().names() if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the profile.", autocompletion=_complete),
]


@command(app, "list", examples=("fleetplane profiles list", "fleetplane profiles list -o json"))
def list_profiles(call: Globals) -> None:
    """List all profiles, by name; a star marks the current one."""
    store = ProfileStore.of_user()
    current = store.current()
    profiles = [store.get(name) for name in store.names()]
    if call.output is not Output.TABLE:
        found = [as_value(one) for one in profiles]
        write_value(call.output, {"current": current, "profiles": found})
        return
    if not profiles:
        note("No profile: `fleetplane login` makes one.")
        return
    rows = [
        (
            "*" if one.name == current else " ",
            one.name,
            one.address,
            one.namespace,
            one.user,
            _shows(one, store),
            _trusts(one),
        )
        for one in profiles
    ]
    write(table(_COLUMNS, rows))


@command(app, "use", examples=("fleetplane profiles use staging",))
def use(call: Globals, name: Name) -> None:
    """Make a profile the current one."""
    profile = ProfileStore.of_user().use(name)
    if call.output is Output.TABLE:
        write(printable(f"{profile.name}: {profile.address}, in namespace {profile.namespace}"))
    else:
        write_value(call.output, as_value(profile))


@command(
    app, "show", examples=("fleetplane profiles show", "fleetplane profiles show prod -o yaml")
)
def show(
    call: Globals,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name of the profile; default: the current one.",
            autocompletion=_complete,
            show_default=False,
        ),
    ] = "",
) -> None:
    """Show a profile, but never its token."""
    store = ProfileStore.of_user()
    wanted = name or call.profile or store.current()
    if not wanted:
        raise CommandFailed("there is no current profile", hint="`fleetplane login` makes one")
    profile = store.get(wanted)
    if call.output is not Output.TABLE:
        write_value(call.output, as_value(profile))
        return
    write(
        fields(
            {
                "profile": profile.name,
                "current": "yes" if profile.name == store.current() else "",
                "address": profile.address,
                "namespace": profile.namespace,
                "user": profile.user,
                "shows": _shows(profile, store),
                "trusts": _trusts(profile),
                "kept in": str(store.directory),
            }
        )
    )


def _shows(profile: Profile, store: ProfileStore) -> str:
    """Return what a profile proves its user with."""
    if store.token_file(profile.name) is not None:
        return f"token {profile.token_id}".rstrip()
    return f"certificate {profile.cert_file}" if profile.cert_file else ""


def _trusts(profile: Profile) -> str:
    """Return who may vouch for the daemon of a profile."""
    if not profile.tls:
        return "anybody (no TLS)"
    return profile.ca_file or ("the authority in the profile" if profile.ca_pem else "the system")
