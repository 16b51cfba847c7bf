"""Secrets of API tokens and join tokens: how they look, and how they are recognised.

A secret is `<token_id>.<43 characters of base64url>`: the identity of its token, which may be shown
to anybody, and 256 random bits. What is kept is the SHA-256 of the whole. Text that is not a secret
of ours is never repeated, because it may be somebody's secret nevertheless.
"""

import base64
import hashlib
import hmac
import re
from enum import StrEnum
from typing import Final

from controlplane.domain.errors import InvalidArgument

RANDOM_BYTES: Final = 32
"""Random bytes of a secret: 256 bits, beyond guessing."""

_TOKEN_ID: Final = r"[a-z0-9][a-z0-9-]{0,63}"  # noqa: S105 - a pattern, not a secret
_RANDOM_PART: Final = r"[A-Za-z0-9_-]{43}"  # 32 bytes in base64url, without padding


class SecretKind(StrEnum):
    """What a secret is good for; the value is how its token's identity begins."""

    API_TOKEN = "at"  # noqa: S105 - a prefix, not a secret
    JOIN_TOKEN = "jt"  # noqa: S105 - a prefix, not a secret


_SHAPES: Final = {
    kind: re.compile(rf"({kind.value}-{_TOKEN_ID})\.{_RANDOM_PART}") for kind in SecretKind
}
_IDENTITIES: Final = re.compile(rf"(?:at|jt)-{_TOKEN_ID}")

_NO_DIGEST: Final = "0" * hashlib.sha256().digest_size * 2


def new_secret(token_id: str, random: bytes) -> str:
    """Return the secret of a token.

    Args:
        token_id: Identity of the token, `at-...` or `jt-...`.
        random: `RANDOM_BYTES` bytes that nobody can foresee.

    Raises:
        ValueError: too few random bytes, or no identity of a token.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a secret needs {RANDOM_BYTES} random bytes")
    if _IDENTITIES.fullmatch(token_id) is None:
        raise ValueError(f"{token_id!r} is no identity of a token")
    tail = base64.urlsafe_b64encode(random).rstrip(b"=").decode("ascii")
    return f"{token_id}.{tail}"


def digest_of(secret: str) -> str:
    """Return what is kept of a secret: SHA-256 in hexadecimal. Any text has one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same_digest(kept: str | None, shown: str) -> bool:
    """Return whether two digests are equal, in a time that says nothing about where they differ.

    `kept` is None if there is no such token; that takes as long.
    """
    return hmac.compare_digest(kept or _NO_DIGEST, shown) and kept is not None


def is_addressed_to(kind: SecretKind, text: str) -> bool:
    """Return whether a text begins like a secret of this kind, well-formed or not."""
    return text.startswith(f"{kind.value}-")


def token_id_in(kind: SecretKind, secret: str) -> str:
    """Return the identity that a secret names, its visible part; empty if it is malformed."""
    shape = _SHAPES[kind].fullmatch(secret)
    return "" if shape is None else shape[1]


def check_token_id(token_id: str, field: str = "token_id") -> str:
    """Return the identity of a token that a request names.

    Raises:
        InvalidArgument: `field`; it cannot be one. The text is not repeated: who pastes a whole
            secret here must not find it in logs.
    """
    if _IDENTITIES.fullmatch(token_id) is None:
        raise InvalidArgument.of(
            field, "must be the identity of a token, such as at-0192f0c1: what is before the dot"
        )
    return token_id
