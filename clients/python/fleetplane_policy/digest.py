r"""Digests: whether two policies, or two sets of them, say the same.

    policy: SHA-256 over its content as JSON: keys sorted, no spaces, UTF-8, enums by name
    set:    SHA-256 over one line per policy, `<id> <policy digest>\n`, ordered by id

Who wrote a policy, when, and under which revision is not part of its content. The same set has the
same digest on every replica, in every agent and under every revision.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Final

from fleetplane_policy.model import Policy

PREFIX: Final = "sha256:"
"""How digests of sets begin, so that another algorithm can be told apart."""

_STAMPS: Final = frozenset(("revision", "updated_at_ms", "updated_by"))


def content_of(policy: Policy) -> dict[str, Any]:
    """Return what a policy says, as JSON values, without what its last write left in it."""
    return {name: _plain(getattr(policy, name)) for name in _names(Policy) if name not in _STAMPS}


def same_content(one: Policy, other: Policy) -> bool:
    """Whether two policies say the same, whoever wrote them."""
    return one is other or content_of(one) == content_of(other)


def policy_digest(policy: Policy) -> str:
    """Return the digest of one policy, 64 hexadecimal digits."""
    text = _encoder.encode(content_of(policy))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def set_digest(digests: Mapping[str, str]) -> str:
    """Return the digest of a set, from the digests of its policies by id."""
    whole = hashlib.sha256()
    for policy_id in sorted(digests):
        whole.update(f"{policy_id} {digests[policy_id]}\n".encode())
    return PREFIX + whole.hexdigest()


def digest_of(policies: Iterable[Policy]) -> str:
    """Return the digest of a set of policies."""
    return set_digest({policy.policy_id: policy_digest(policy) for policy in policies})


_encoder: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def _names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass; every policy of a set asks."""
    return tuple(field.name for field in fields(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value  # most are
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0 and 1 are one number on the wire
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in _names(value.__class__)}
    return value
