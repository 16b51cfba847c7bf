"""Subjects: what a binding may know a caller by.

`user:<name>`, `group:<name>`, `token:<token_id>`, and SPIFFE ids. Only those last ones may be
patterns: `*` stands for any characters within one path segment, `**` at the end for the rest of the
path. The trust domain is always exact.
"""

import functools
import re
from typing import Final

from controlplane.domain.access.name_patterns import matches_name
from controlplane.domain.errors import InvalidArgument

MAX_SUBJECT_BYTES: Final = 512
"""Long enough for the distinguished names that some identity providers use as user names."""

USER: Final = "user:"
GROUP: Final = "group:"
TOKEN: Final = "token:"  # noqa: S105 - a prefix, not a secret
SPIFFE: Final = "spiffe://"

_SPIFFE_PATTERN: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._*-]+)+")


def check_subject(subject: str, field: str = "subject") -> str:
    """Return a subject that a binding may name.

    Raises:
        InvalidArgument: `field`; unknown kind, empty, too long, not printable, a wrong pattern.
    """
    if len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_SUBJECT_BYTES} bytes")
    if not subject.isprintable():
        raise InvalidArgument.of(field, "holds characters that do not print")
    if subject.startswith(SPIFFE):
        _check_spiffe(subject, field)
        return subject
    for prefix in (USER, GROUP, TOKEN):
        if subject.startswith(prefix) and len(subject) > len(prefix):
            return subject
    raise InvalidArgument.of(
        field, "must be user:<name>, group:<name>, token:<token_id> or spiffe://<domain>/<path>"
    )


def is_pattern(subject: str) -> bool:
    """Return whether a subject stands for several."""
    return subject.startswith(SPIFFE) and "*" in subject


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject of a caller is meant by the pattern of a binding.

    Takes a time that grows with the lengths of the two texts only: whoever may write patterns for
    his own tenant must not be able to slow down the judgement of everybody else's callers.
    """
    if not subject.startswith(SPIFFE):
        return False
    wanted, rest_is_free = _segments(pattern)
    segments = subject.split("/", len(wanted)) if rest_is_free else subject.split("/")
    if rest_is_free and (len(segments) == len(wanted) or not segments.pop()):
        return False
    return len(segments) == len(wanted) and all(map(matches_name, wanted, segments))


def _check_spiffe(subject: str, field: str) -> None:
    rest = subject.removesuffix("/**")
    if _SPIFFE_PATTERN.fullmatch(subject) is None or "**" in rest:
        raise InvalidArgument.of(
            field,
            "must be spiffe://<trust domain>/<path>, with * within a path segment and /** at the"
            " end as the only wildcards",
        )


@functools.lru_cache(maxsize=1024)  # patterns of bindings: a handful; the bound is for hygiene
def _segments(pattern: str) -> tuple[tuple[str, ...], bool]:
    """Return the segments of a pattern, and whether anything may follow them."""
    rest = pattern.removesuffix("/**")
    return tuple(rest.split("/")), rest != pattern
