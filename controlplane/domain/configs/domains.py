"""The language of `allowed_domains`.

An entry is a host name (`api.example.com`, that host only) or a wildcard (`*.example.com`, every
host below it, not `example.com` itself). Entries are lower-case ASCII without a trailing dot.
Intersection follows the meaning, not the spelling: `*.example.com` with `api.example.com` leaves
`api.example.com`.
"""

import re
from collections.abc import Collection, Iterator

_MAX_HOST_CHARS = 253
"""RFC 1035: 255 octets on the wire, less the two that the text form does not show."""

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def normalise(entry: str) -> str:
    """Return the entry as it is stored; ValueError says what is wrong with it."""
    text = entry.lower().removesuffix(".")
    if text == "*":
        raise ValueError("leave allowed_domains unset to allow every domain")
    host = text.removeprefix("*.")
    if not host.isascii():
        raise ValueError("write international names in their ASCII form (xn--...)")
    if len(host) > _MAX_HOST_CHARS:
        raise ValueError(f"is longer than {_MAX_HOST_CHARS} characters")
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError("is not a host name or *.<host name> (no scheme, port or path)")
    return text


def _covering(entry: str) -> Iterator[str]:
    """Yield every entry that allows at least what `entry` allows, itself first."""
    yield entry
    rest = entry.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"


def covers(allowed: Collection[str], entry: str) -> bool:
    """Return whether everything that `entry` allows is allowed by the list `allowed`.

    With a host name as `entry` this is the question an agent asks before it connects.
    """
    return any(candidate in allowed for candidate in _covering(entry))


def intersection(left: Collection[str], right: Collection[str]) -> list[str]:
    """Return, sorted, the entries that allow exactly what both lists allow."""
    a, b = frozenset(left), frozenset(right)
    both = {entry for entry in b if covers(a, entry)}
    both.update(entry for entry in a if covers(b, entry))
    return sorted(both)
