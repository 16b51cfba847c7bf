"""Who calls, and in which tenant."""

import re
from dataclasses import dataclass

from controlplane.domain.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"

_NAMESPACE = re.compile(r"[a-z0-9-]{1,63}")  # fits a DNS label, so it can appear in host names


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call, as far as the edge could prove it.

    Attributes:
        name: Identity, as written to history and audit. Never empty.
        address: Where the call came from, such as `ipv4:127.0.0.1:40112`; filled for calls that
            are audited, else empty.
        is_admin: May do everything in every namespace.
    """

    name: str
    address: str = ""
    is_admin: bool = False


LOCAL_ADMIN = Caller(name="local-admin", is_admin=True)
"""Everybody, while the daemon listens without authentication (on loopback, unless told to)."""


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
