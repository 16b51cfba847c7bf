"""What is kept about rights and credentials. All of it lives in `SYSTEM_NAMESPACE`."""

import hashlib
from dataclasses import dataclass
from typing import Final

SYSTEM_NAMESPACE: Final = "@system"
"""Where the ledger keeps namespaces, rights and credentials. No caller can name it: `@` is not
allowed in names of namespaces."""

_BINDING_ID_DIGITS: Final = 32  # 128 bits: nobody finds two bindings that share an identity


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleBinding:
    """A role given to a subject.

    Attributes:
        binding_id: Identity, `rb-...`.
        subject: Whom: `user:...`, `group:...`, `token:...` or a SPIFFE id or pattern.
        role: Which role, one of `RoleName`.
        namespace: Where; `*`: everywhere.
        description: Why.
        created_by: Who made it.
        created_at_ms: When, on the store's clock; filled in by the ledger.
        expires_at_ms: From when on it no longer holds; 0: never.
        revision: Of its last change; filled in by the ledger.
    """

    binding_id: str
    subject: str
    role: str
    namespace: str
    description: str = ""
    created_by: str = ""
    created_at_ms: int = 0
    expires_at_ms: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """An API token. Only a digest of its secret is kept.

    Attributes:
        token_id: Identity, `at-...`; the visible part of the secret.
        namespace: Tenant it belongs to; `*`: all.
        name: What it is called.
        digest: SHA-256 of the whole secret, in hexadecimal. The secret has 256 random bits, so
            neither salt nor a slow hash adds anything.
        created_by: Who made it.
        created_at_ms: When; filled in by the ledger.
        expires_at_ms: From when on it is useless; 0: never.
        revoked: Whether it was revoked. Revoked ones are kept, so that who shows one is told so.
        revision: Of its last change; filled in by the ledger.
    """

    token_id: str
    namespace: str
    name: str
    digest: str
    created_by: str = ""
    created_at_ms: int = 0
    expires_at_ms: int = 0
    revoked: bool = False
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUse:
    """When an API token was last used, written at most once an hour."""

    token_id: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A join token. Only a digest of its secret is kept; its uses are a counter of the ledger.

    Attributes:
        token_id: Identity, `jt-...`; the visible part of the secret.
        namespace: Tenant of the agents.
        agent_name_pattern: Names it is for; `*` stands for any characters.
        max_uses: Enrolments it is good for; 0: any number.
        digest: As in `ApiToken`.
        description: What it is for.
        created_by: Who made it.
        created_at_ms: When; filled in by the ledger.
        expires_at_ms: From when on it is useless.
        revoked: Whether it was revoked.
        revision: Of its last change; filled in by the ledger.
    """

    token_id: str
    namespace: str
    agent_name_pattern: str
    max_uses: int
    digest: str
    description: str = ""
    created_by: str = ""
    created_at_ms: int = 0
    expires_at_ms: int = 0
    revoked: bool = False
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """The exclusion of an agent name.

    Attributes:
        namespace: Tenant.
        agent_name: Whom.
        reason: Why.
        banned_by: Who did it.
        created_at_ms: When; filled in by the ledger.
        revision: Filled in by the ledger.
    """

    namespace: str
    agent_name: str
    reason: str = ""
    banned_by: str = ""
    created_at_ms: int = 0
    revision: int = 0


def binding_id_of(subject: str, role: str, namespace: str) -> str:
    """Return the identity of the binding of a subject to a role in a namespace (`*`: everywhere).

    Made of what it says, so that saying it twice is one binding, whoever says it.
    """
    # None of the three may hold a NUL, so nothing else joins to the same text.
    said = f"{subject}\0{role}\0{namespace}"
    return f"rb-{hashlib.sha256(said.encode()).hexdigest()[:_BINDING_ID_DIGITS]}"


def uses_counter(token_id: str) -> str:
    """Return the counter of the enrolments with a join token."""
    return f"uses/{token_id}"


def ban_key(namespace: str, agent_name: str) -> str:
    """Return the key of a ban. A name of a namespace holds no `/`."""
    return f"{namespace}/{agent_name}"
