"""Who calls, and in which tenant."""

import re
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"

_NAMESPACE = re.compile(r"[a-z0-9-]{1,63}")  # fits a DNS label, so it can appear in host names


class CallerKind(StrEnum):
    """What a caller is, by the credential it has shown."""

    LOCAL_ADMIN = "local_admin"
    """Anybody, while nobody is authenticated."""
    AGENT = "agent"
    """An agent, by its certificate."""
    USER = "user"
    """A person or program, by an OIDC token."""
    API_TOKEN = "api_token"  # noqa: S105 - a kind, not a secret
    """A program, by an API token."""
    WORKLOAD = "workload"
    """By a certificate whose identity is not an agent's."""
    ANONYMOUS = "anonymous"
    """Nobody: what calls that need no credential are made by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """Which agent a certificate speaks for: all its versions and instances."""

    namespace: str
    agent_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call, as far as the edge could prove it.

    Attributes:
        name: Identity, as written to history and audit, such as `user:ann@example.com`,
            `token:at-...` or a SPIFFE id. Never empty.
        address: Where the call came from, such as `ipv4:127.0.0.1:40112`; filled for calls that
            are audited, else empty.
        is_admin: May do everything in every namespace, whatever the bindings say.
        kind: What it is.
        subjects: What bindings may know it by: `user:...`, `group:...`, `token:...`, a SPIFFE id.
        agent: The agent that it is; None for everybody else.
        credential: What it has shown, without secrets: equal for equal credentials, other for
            others. Verdicts are remembered by it.
        token_id: Of the API token, else empty.
        expires_at_ms: When the credential ends, in ms since 1970; 0: never.
        valid_from_ms: From when on the certificate of an agent is valid, if our own authority has
            signed it, in ms since 1970; 0: for everybody else.
    """

    name: str
    address: str = ""
    is_admin: bool = False
    kind: CallerKind = CallerKind.LOCAL_ADMIN
    subjects: tuple[str, ...] = ()
    agent: AgentIdentity | None = None
    credential: str = ""
    token_id: str = ""
    expires_at_ms: int = 0
    valid_from_ms: int = 0


LOCAL_ADMIN = Caller(name="local-admin", is_admin=True)
"""Everybody, while the daemon listens without authentication (on loopback, unless told to)."""

ANONYMOUS = Caller(name="anonymous", kind=CallerKind.ANONYMOUS)
"""Who calls what needs no credential, when credentials are needed elsewhere."""


def namespace_of(text: str) -> str:
    """Return the namespace that `text` names; empty means `default`.

    Raises:
        InvalidArgument: field `namespace`, if it is not 1-63 of `[a-z0-9-]`.
    """
    if not text:
        return DEFAULT_NAMESPACE
    if _NAMESPACE.fullmatch(text) is None:
        raise InvalidArgument.of("namespace", "must be 1-63 characters of [a-z0-9-]")
    return text
