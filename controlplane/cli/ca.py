"""`fleetplane ca`: the built-in certificate authority, in files here; no daemon is asked."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import Column, note, table, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # cryptography is imported when a command runs
    from cryptography.x509 import Certificate

    from controlplane.credentials.roots import Roots
    from controlplane.settings import Settings

app = typer.Typer(
    **PLAIN,
    help="The built-in certificate authority: a directory on this host, which all replicas of a "
    "daemon share. Daemons take up what is changed here within seconds.",
)

CaDir = Annotated[
    Path | None,
    typer.Option(
        "--ca-dir",
        metavar="DIRECTORY",
        help="Directory of the authority. Default: that of the daemon, FLEETPLANE_CA_DIR or `ca` "
        "in its data directory.",
    ),
]
TrustDomain = Annotated[
    str | None,
    typer.Option(
        "--trust-domain",
        metavar="NAME",
        help="SPIFFE trust domain of its identities. Default: that of the daemon.",
    ),
]

_Result = TypeVar("_Result")


@command(
    app,
    "init",
    examples=(
        "fleetplane ca init",
        "fleetplane ca init --ca-dir /etc/fleetplane/ca --trust-domain prod.example",
    ),
)
def init(call: Globals, ca_dir: CaDir = None, trust_domain: TrustDomain = None) -> None:
    """Make an authority; refuses where there is one.

    `fleetplane serve --secure` does the same by itself. Back up ca.key: it is the whole authority.
    """
    settings = _settings(ca_dir=ca_dir, trust_domain=trust_domain)
    directory = settings.authority_dir
    from controlplane.credentials import authority  # noqa: PLC0415  # not for help

    if not _done(lambda: authority.init(directory, settings.trust_domain)):
        raise CommandFailed(
            f"there already is a certificate authority in {directory}",
            hint="`fleetplane ca show` describes it, `fleetplane ca rotate` replaces its root",
        )
    _show(call, directory)


@command(app, "show", examples=("fleetplane ca show", "fleetplane ca show --output json"))
def show(call: Globals, ca_dir: CaDir = None) -> None:
    """Show each root that is trusted, the current one first."""
    _show(call, _settings(ca_dir=ca_dir).authority_dir)


@command(app, "rotate", examples=("fleetplane ca rotate",))
def rotate(call: Globals, ca_dir: CaDir = None) -> None:
    """Make a new root and sign with it from now on.

    Nothing else has to be done at that time: the old root stays trusted, and has signed the new
    one, so whoever knows only the old root accepts the new one's certificates. Once all agents have
    renewed theirs, `fleetplane ca retire` ends the trust in the old root.
    """
    directory = _settings(ca_dir=ca_dir).authority_dir
    from controlplane.credentials import authority  # noqa: PLC0415  # not for help

    _done(lambda: authority.rotate(directory))
    note("a new root signs from now on; the earlier one stays trusted until `fleetplane ca retire`")
    _show(call, directory)


@command(app, "retire", examples=("fleetplane ca retire",))
def retire(call: Globals, ca_dir: CaDir = None) -> None:
    """Trust the current root only; certificates by earlier ones are refused from now on.

    After a rotation, when all agents have renewed their certificates; or at once, if the key of an
    earlier root is in wrong hands. Connections that are open stay until their certificates end.
    """
    directory = _settings(ca_dir=ca_dir).authority_dir
    from controlplane.credentials import authority  # noqa: PLC0415  # not for help

    _done(lambda: authority.retire(directory))
    _show(call, directory)


def _settings(**chosen: Any) -> "Settings":
    """Return the settings of a daemon on this host, as far as an authority goes."""
    from pydantic import ValidationError  # noqa: PLC0415  # not for help

    from controlplane.settings import Settings  # noqa: PLC0415  # same

    try:
        return Settings(**{key: value for key, value in chosen.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        field = "".join(f"{part}: " for part in problem["loc"])
        raise WrongInput(f"{field}{problem['msg'].removeprefix('Value error, ')}") from None


def _done(action: Callable[[], _Result]) -> _Result:
    """Return what an action on the files returns, and report what is wrong with them."""
    from controlplane.credentials.files import CredentialFileError  # noqa: PLC0415  # not for help

    try:
        return action()
    except CredentialFileError as error:
        raise CommandFailed(str(error)) from None


def _show(call: Globals, directory: Path) -> None:
    from controlplane.credentials import authority  # noqa: PLC0415  # not for help

    roots = _done(lambda: authority.read_roots(directory))
    described = [_described(root) for root in roots.trusted]
    if call.output is not Output.TABLE:
        write_value(call.output, _as_value(directory, roots, described))
        return
    columns = [Column("SUBJECT", flexible=True), Column("SHA-256", flexible=True)]
    columns += [Column("VALID FROM"), Column("VALID UNTIL"), Column("TRUST DOMAIN")]
    write(table(columns, [tuple(one.values()) for one in described]))
    note(f"trust {directory / authority.BUNDLE_FILE}; back up {directory / authority.KEY_FILE}")
    note(
        "without that file, on another machine: fleetplane login -a HOST:PORT"
        f" --ca-fingerprint sha256:{described[0]['fingerprint']}"
    )


def _as_value(directory: Path, roots: "Roots", described: list[dict[str, str]]) -> dict[str, Any]:
    from controlplane.credentials import authority  # noqa: PLC0415  # not for help

    return {
        "ca_dir": str(directory),
        "bundle": str(directory / authority.BUNDLE_FILE),
        "trust_domain": roots.trust_domain,
        "roots": described,
    }


def _described(root: "Certificate") -> dict[str, str]:
    from controlplane.credentials.roots import fingerprint_of, trust_domain_in  # noqa: PLC0415

    return {
        "subject": root.subject.rfc4514_string(),
        "fingerprint": fingerprint_of(root),
        "not_before": f"{root.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{root.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "trust_domain": trust_domain_in(root),
    }
