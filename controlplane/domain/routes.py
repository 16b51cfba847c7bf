"""Routes: which version of an agent a session goes to.

A route gives the versions of one agent name their shares in basis points of new sessions. Versions
that it does not name get nothing; a name without a route is not restricted.
"""

from dataclasses import dataclass
from hashlib import sha256

WHOLE_BP = 10_000
"""Basis points of all sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The share of one version."""

    agent_id: str
    version: str
    weight_bp: int
    """0-10,000 basis points of new sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Shares of the versions of one agent name; they sum to 10,000.

    The order matters: sessions are dealt out in it, so that a first share that grows only adds
    sessions and moves none between the others' starts. A canary comes first, the stable version
    last.
    """

    name: str
    shares: tuple[Share, ...]
    salt: str
    """Of the session hash; another salt deals anew."""
    cohort: str = ""
    """Step of the rollout that owns the route, `<rollout_id>/<step token>`; attempts that start now
    count for it. Empty: no rollout owns it."""
    set_by: str = ""
    reason: str = ""
    revision: int = 0
    updated_at_ms: int = 0

    @property
    def rollout_id(self) -> str:
        """Return the rollout that owns it; empty: none."""
        return self.cohort.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPin:
    """A session stays with the version that accepted its first task, until that is retired."""

    name: str
    session_id: str
    agent_id: str
    used_at_ms: int
    """When it was last confirmed; refreshed rarely, see `services.session_pins`."""
    revision: int = 0


def pin_key(name: str, session_id: str) -> str:
    """Return the key of a session's pin; a name never holds a slash."""
    return f"{name}/{session_id}"


def bucket(salt: str, unit: str) -> int:
    """Return the bucket of a unit, 0-9,999: the same in every process and language.

    The first 8 bytes of SHA-256 over salt, 0x1F, unit (UTF-8), as a big-endian number, scaled.
    """
    digest = sha256(salt.encode() + b"\x1f" + unit.encode()).digest()
    return (int.from_bytes(digest[:8], "big") * WHOLE_BP) >> 64
