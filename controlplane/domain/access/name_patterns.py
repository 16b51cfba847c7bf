"""Names of agents in credentials, and the patterns that a join token is for."""

import re
from typing import Final

from controlplane.domain.agents import AgentSpec
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.registration import MAX_NAME_BYTES, validate_spec

ANY_NAME: Final = "*"
"""The pattern of every name."""

_ANY_VERSION: Final = "1.0.0"  # a declaration needs one to be judged; names do not depend on it
_PATTERN: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._*-]*")


def check_agent_name(name: str, field: str = "agent_name") -> str:
    """Return a name that an agent may register with; the rule is that of registration.

    Raises:
        InvalidArgument: `field`; it is none.
    """
    problems = validate_spec(AgentSpec(name=name, version=_ANY_VERSION))
    if problems:
        raise InvalidArgument(*(FieldViolation(field, p.description) for p in problems))
    return name


def check_name_pattern(pattern: str, field: str = "agent_name_pattern") -> str:
    """Return a pattern that some name can match: a name, with `*` for any characters.

    Empty means every name.

    Raises:
        InvalidArgument: `field`; it is none.
    """
    if not pattern:
        return ANY_NAME
    if len(pattern) > MAX_NAME_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_NAME_BYTES} bytes")
    if _PATTERN.fullmatch(pattern) is None:
        raise InvalidArgument.of(
            field,
            "must be [A-Za-z0-9._-] with * for any characters, starting with a letter, digit or *",
        )
    return pattern


def matches_name(pattern: str, name: str) -> bool:
    """Return whether a name is meant by a pattern; case matters.

    Takes one pass over the name, whatever the pattern: no text makes it slow.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    place, end = len(first), len(name) - len(last)
    if place > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True
