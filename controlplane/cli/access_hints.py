"""What helps somebody whose call was refused for who it came from, or never arrived."""

from collections.abc import Mapping
from typing import Final

from controlplane.cli.call import Globals
from controlplane.cli.places import EVERYWHERE
from controlplane.cli.styles import printable
from fleetplane import FleetError, Reason

_TRUST: Final = (
    "--ca FILE names the authority that vouches for it, `fleetplane login --ca-fingerprint` fetches"
    " it (`fleetplane ca show` on its machine tells both);\n"
    "--address must be a name or address in the certificate, and the clocks must agree"
)

_NOT_TRUSTED: Final = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
"""What gRPC says of a certificate by an unknown authority, and of one for another name."""

_NOT_CONNECTED: Final = ("failed to connect", "connections to all backends failing")
"""How gRPC begins when no connection came about; what breaks later says neither."""

_ADMIN: Final = "an admin gives one with"

_PLAIN: Final[Mapping[str, str]] = {
    Reason.FOREIGN_AGENT: "the certificate of an agent speaks for that agent only; show a token of "
    "yours",
    Reason.SELF_APPROVAL: "somebody else decides: `fleetplane approvals show ID` says who may",
    Reason.NOT_ELIGIBLE: "`fleetplane approvals show ID` says who may decide now",
}
"""What helps whatever the call was."""


def refused_access(error: FleetError, call: Globals) -> str:
    """Return the command that helps against UNAUTHENTICATED or PERMISSION_DENIED.

    Args:
        error: the refusal.
        call: what held for the command, the credential that it showed included.
    """
    shown = call.credentials.source
    again = _login(call)
    match error.reason:
        case Reason.CREDENTIAL_MISSING if not shown:
            return f"{again} keeps a token for all commands; {_ADMIN} `fleetplane tokens create`"
        case Reason.CREDENTIAL_REVOKED | Reason.CREDENTIAL_EXPIRED | Reason.CREDENTIAL_INVALID:
            return f"it was {shown or 'what was shown'}; {again} replaces it"
        case Reason.AGENT_BANNED:
            name = printable(error.metadata.get("agent_name", "NAME"))
            return f"`fleetplane auth unban {name}` lets it in again, if you are an admin"
        case Reason.PERMISSION_DENIED:
            return _without_role(error, call)
        case _:
            return _PLAIN.get(error.reason, f"{again} proves who you are")


def _without_role(error: FleetError, call: Globals) -> str:
    """Return how to see what is missing, and who can give it."""
    permission = printable(error.metadata.get("permission", "ACTION"))
    namespace = printable(error.metadata.get("namespace", "") or call.namespace)
    everywhere = namespace == EVERYWHERE
    where = "--everywhere" if everywhere else f"-n {namespace}"
    whom = "an admin everywhere" if everywhere else f"an admin of namespace {namespace}"
    return (
        f"`fleetplane auth can-i {permission} {where}` says which roles would do\n"
        f"ask {whom}: `fleetplane auth bindings create {where}` gives one to a subject that\n"
        "`fleetplane auth whoami` shows"
    )


def unreachable(text: str, call: Globals) -> tuple[str, str]:
    """Return what to say, and what helps, when no connection came about.

    Args:
        text: what gRPC says about it.
        call: what held for the command.
    """
    address, trust = call.address, call.credentials
    if any(words in text for words in _NOT_TRUSTED):
        return (
            f"the certificate of the daemon at {address} is not trusted",
            _TRUST,
        )
    if "WRONG_VERSION_NUMBER" in text:
        return (
            f"the daemon at {address} does not speak TLS",
            "leave out --ca and --cert, or log in to it again",
        )
    if "Socket closed" in text and any(words in text for words in _NOT_CONNECTED):
        return (
            f"the daemon at {address} ends the connection",
            "its port may demand a client certificate: --cert and --key"
            if trust.tls
            else f"it may speak TLS only: --ca FILE, or {_login(call)} with --ca-fingerprint;"
            " `fleetplane ca show` on its machine tells both",
        )
    return (
        f"no daemon answers at {address}",
        "start one with `fleetplane serve`, or name another with --address",
    )


def _login(call: Globals) -> str:
    named = f" --profile {call.profile}" if call.profile else f" -a {call.address}"
    return f"`fleetplane login{printable(named)}`"
