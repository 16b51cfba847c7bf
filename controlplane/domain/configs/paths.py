"""Which dotted paths exist, and what to say to somebody who wrote another one."""

import difflib
import re
from collections.abc import Mapping
from itertools import islice

from controlplane.domain.configs.document import Json
from controlplane.domain.configs.schema import EXTRA, FEATURES, ConfigSchema

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""One key: nothing that needs quoting in a shell, a URL or a storage key, and no dot."""

_SHOWN_CHARS = 64
"""Of a path that is too long to repeat in an error."""

_NEAREST = 3
"""Suggestions for an unknown path."""

_HELD_CANDIDATES = 64
"""Features of the layer that are compared with an unknown path: comparing costs microseconds each,
and a layer can hold thousands."""

_SIMILARITY = 0.6
"""difflib's own default: `max_token` and `maxTokens` find `max_tokens`, `colour` finds nothing."""


def shown(path: str) -> str:
    """Return `path` as it may appear in an error: whole or its beginning, always valid Unicode."""
    short = path if len(path) <= _SHOWN_CHARS else path[:_SHOWN_CHARS] + "..."
    return short.encode(errors="backslashreplace").decode()


def path_problem(path: str, schema: ConfigSchema, held: Mapping[str, Json]) -> str | None:
    """Return why `path` cannot be set or unset, None if it can.

    `held` are the values the layer has now; features among them are suggested too.
    """
    if not path:
        return "the path is empty"
    if len(path.encode(errors="replace")) > schema.limits.key_bytes:
        return f"the path is longer than {schema.limits.key_bytes} bytes"
    head, *rest = path.split(".")
    if head in schema.fields and not rest:
        return None
    if head not in {FEATURES, EXTRA}:
        return _unknown(path, schema, held)
    return _problem_below(head, rest, schema)


def _problem_below(head: str, rest: list[str], schema: ConfigSchema) -> str | None:
    for segment in rest:
        if not _SEGMENT.fullmatch(segment):
            return f"the key {segment!r} must be letters, digits, '_' and '-', not '-' first"
    if head == FEATURES and len(rest) > 1:
        return "a feature has no settings below it; its name holds no dot"
    if len(rest) > schema.limits.depth:
        return f"is nested deeper than {schema.limits.depth} levels"
    return None


def _unknown(path: str, schema: ConfigSchema, held: Mapping[str, Json]) -> str:
    head, dot, _ = path.partition(".")
    if dot and head in schema.fields:
        return f"unknown path; {head} has nothing below it, set {head} itself"
    features = (name for name in held if name.startswith(FEATURES + "."))
    by_folded = {}
    for feature in islice(features, _HELD_CANDIDATES):
        by_folded[feature.lower()] = feature
        by_folded[feature.partition(".")[2].lower()] = feature
    by_folded |= {candidate.lower(): candidate for candidate in (*schema.fields, FEATURES, EXTRA)}
    near = difflib.get_close_matches(path.lower(), by_folded, n=_NEAREST, cutoff=_SIMILARITY)
    names = list(dict.fromkeys(by_folded[match] for match in near))
    if names:
        return f"unknown path; nearest: {', '.join(names)}"
    return (
        f"unknown path; there are {', '.join(schema.fields)}, "
        f"{FEATURES}.<name> and {EXTRA}.<key> for your own"
    )
