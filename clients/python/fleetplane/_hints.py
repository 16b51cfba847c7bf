"""What helps against a refusal: the command or the argument that an error ends with."""

from collections.abc import Mapping
from typing import Final

BY_REASON: Final[Mapping[str, str]] = {
    "CREDENTIAL_MISSING": "pass token=..., set FLEETPLANE_TOKEN, or run `fleetplane login`",
    "CREDENTIAL_INVALID": "pass another token=... or cert=..., or run `fleetplane login`",
    "CREDENTIAL_EXPIRED": "get a new one with `fleetplane login` or `fleetplane tokens create`, "
    "and for agents with join_token=...",
    "CREDENTIAL_REVOKED": "make another one with `fleetplane tokens create`, or for agents with "
    "`fleetplane tokens join create`",
    "AGENT_BANNED": "an operator takes the ban back with `fleetplane auth unban`",
    "PERMISSION_DENIED": "see `fleetplane auth whoami`; roles are given with "
    "`fleetplane auth bindings create`",
    "FOREIGN_AGENT": "every agent needs an identity of its own: Agent(..., join_token=...)",
    "NO_CERTIFICATE_AUTHORITY": "start the daemon with `fleetplane serve --secure`",
    "NAMESPACE_NOT_FOUND": "pass another namespace=..., or make it: `fleetplane namespaces create`",
    "TOKEN_NOT_FOUND": "see `fleetplane tokens list` and `fleetplane tokens join list`",
    "NAMESPACE_EXISTS": "change it with `fleetplane namespaces update`",
    "NAMESPACE_NOT_EMPTY": "see what is in it with `fleetplane namespaces usage`",
    "NAMESPACE_TERMINATING": "pass another namespace=...",
    "RATE_LIMITED": "call less often, or raise the quota with `fleetplane namespaces update`",
    "QUOTA_EXCEEDED": "see `fleetplane namespaces usage`, and raise the quota with "
    "`fleetplane namespaces update`",
    "OVERLOADED": "give it longer with timeout=...",
}
"""By the name of the reason. The others are about the request and say all there is to say."""

_NOT_CONNECTED: Final = ("failed to connect", "connections to all backends failing")
"""How gRPC begins when no connection came about; what breaks later says neither."""

_BY_TRANSPORT: Final = (
    # The daemon hangs up in the middle of the handshake; nothing tells its two reasons apart.
    (
        "Socket closed",
        (
            "the port may speak TLS only: pass ca=...; or demand a client certificate: pass "
            "cert=... and key=..., or join_token=..."
        ),
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        (
            "the daemon's certificate is not signed by a known authority, or for another name: "
            "pass ca=..., or ChannelConfig(authority=...)"
        ),
    ),
    ("WRONG_VERSION_NUMBER", "the port does not speak TLS: leave out ca=... and cert=..."),
)


def transport_hint(text: str) -> str:
    """Return what helps when no connection came about, by the words of gRPC; may be empty."""
    if any(words in text for words in _NOT_CONNECTED):
        for mark, hint in _BY_TRANSPORT:
            if mark in text:
                return hint
    return ""
