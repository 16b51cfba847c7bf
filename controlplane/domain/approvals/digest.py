"""What an approval is bound to: the canonical text of an action, and its SHA-256.

The server computes it, from what is about to happen; nobody hands it in. Canonical JSON (RFC 8785)
makes equal actions equal texts, whoever wrote them down.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import rfc8785

from controlplane.domain.approvals.model import BoundAction, Entry
from controlplane.domain.errors import InvalidArgument

VERSION: Final = 1
"""Of the text that is hashed."""

_EXACT: Final = 2**53
"""Whole numbers below it are exact in canonical JSON."""

_dumps: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def bind(
    context: Mapping[str, Any], ceilings: Iterable[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return a context without its ceilings, and those by path.

    Args:
        context: What the requester says.
        ceilings: Dotted paths of upper bounds. What is there and is no number is bound exactly.
    """
    bound: dict[str, Any] = dict(context)
    found: dict[str, float] = {}
    for path in ceilings:
        *parents, last = path.split(".")
        place = _opened(bound, parents)
        value = None if place is None else place.get(last)
        if isinstance(value, int | float) and not isinstance(value, bool):
            place = _copied(bound, parents)
            del place[last]
            found[path] = value
    return bound, found


def _opened(root: dict[str, Any], parents: Iterable[str]) -> dict[str, Any] | None:
    place: Any = root
    for name in parents:
        place = place.get(name) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None


def _copied(root: dict[str, Any], parents: Iterable[str]) -> dict[str, Any]:
    """Return the object at a path, copied on the way down: the caller's own stays as it is."""
    place = root
    for name in parents:
        place[name] = dict(place[name])
        place = place[name]
    return place


def canonical(namespace: str, action: BoundAction) -> bytes:
    """Return the text that is hashed.

    Raises:
        InvalidArgument: `context` holds what JSON cannot say exactly.
    """
    said: dict[str, Any] = {
        "v": VERSION,
        "namespace": namespace,
        "agent_id": action.agent_id,
        "agent_name": action.agent_name,
        "agent_version": action.agent_version,
        "session_id": action.session_id,
        "action": action.action,
        "tool": action.tool,
        "context": action.context,
    }
    if _is_plain(action.context):
        return _plain_text(said)
    try:
        return rfc8785.dumps(said | {"context": _doubles(action.context)})
    except (rfc8785.CanonicalizationError, RecursionError) as refused:
        raise InvalidArgument.of("context", f"has no canonical form: {refused}") from None


def _doubles(value: Any) -> Any:
    """Return a value whose whole numbers are doubles where canonical JSON takes them only so.

    They came as doubles: 2^53 is the one that is told to be whole and no longer known to be exact.
    """
    if isinstance(value, Mapping):
        return {key: _doubles(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_doubles(item) for item in value]
    return float(value) if type(value) is int and abs(value) == _EXACT else value


def _is_plain(context: Mapping[str, Any]) -> bool:
    """Whether a context is flat and without what canonical JSON spells in its own way.

    Keys in ASCII sort alike in UTF-16 and in Unicode; numbers are spelled alike if they are whole.
    """
    for key, value in context.items():
        if not key.isascii():
            return False
        kind = type(value)
        if kind is str:
            if not value.isascii():
                return False
        elif kind is int:
            if not -_EXACT < value < _EXACT:
                return False
        elif value is not None and kind is not bool:
            return False
    return True


def _plain_text(said: Mapping[str, Any]) -> bytes:
    """Return the canonical text of what is plain, ten times as fast as the general way."""
    return _dumps(said).encode()


def digest_of(namespace: str, action: BoundAction) -> str:
    """Return `sha256:` and the digest of an action.

    Raises:
        InvalidArgument: as `canonical`.
    """
    return "sha256:" + hashlib.sha256(canonical(namespace, action)).hexdigest()


def within_ceilings(asked: Mapping[str, float], approved: Mapping[str, float]) -> bool:
    """Return whether an action names the same upper bounds, each no higher than approved.

    One that is left out is not "less": who does not say what it costs has not said less.
    """
    return asked.keys() == approved.keys() and all(
        value <= approved[path] for path, value in asked.items()
    )


def chained(entry: Entry, before: str) -> str:
    """Return the digest of a line of the record after a line with the digest `before`."""
    said: dict[str, Any] = {
        "before": before,
        "sequence": entry.sequence,
        "kind": str(entry.kind),
        "by": entry.by,
        "at_ms": entry.at_ms,
        "stage": entry.stage,
        "comment": entry.comment,
        "id": entry.id,
        "delegate": entry.delegate,
        "until_ms": entry.until_ms,
        "subjects": list(entry.subjects),
    }
    if entry.person:
        said["person"] = entry.person
    return hashlib.sha256(_plain_text(said)).hexdigest()


def is_unbroken(digest: str, entries: Iterable[Entry]) -> bool:
    """Return whether a record is as it was written; it begins with the digest of the action."""
    before = digest
    for place, entry in enumerate(entries, start=1):
        if entry.sequence != place or entry.digest != chained(entry, before):
            return False
        before = entry.digest
    return True
