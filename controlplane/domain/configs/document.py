"""Configuration values as JSON, and the two shapes they take: nested objects and dotted leaves.

A *leaf* is everything that is not a non-empty object: text, numbers, booleans, lists (lists are
replaced whole, never merged by position) and the empty object. Keys hold no dots, so a document
and its leaves say the same.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
else:
    # msgspec resolves annotations at run time and cannot follow a recursive alias.
    Json = Any

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

_DIGEST_HEX_CHARS = 16
"""64 bits: tells apart the few documents one agent ever runs; not a defence against forgery."""


def leaves(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Yield every leaf under `path` as (dotted path, value)."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    else:
        yield path, value


def lay(document: dict[str, Any], path: str, value: Json) -> None:
    """Put one leaf into `document`, over what is there, at a dotted path relative to it.

    Objects merge, so an empty one adds nothing to a present one. Anything else replaces: an object
    by a value, a value by an object.
    """
    *parents, last = path.split(".")
    node = document
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    if value != {}:
        node[last] = value
    elif not isinstance(node.get(last), dict):
        node[last] = {}  # a fresh one: it may be filled, the layer's own must not


def nested(flat: Mapping[str, Json]) -> dict[str, Json]:
    """Return the document whose leaves are `flat` (paths relative to the document)."""
    document: dict[str, Any] = {}
    for path, value in flat.items():
        lay(document, path, value)
    return document


def encoded(value: Json) -> bytes:
    """Return the canonical UTF-8 JSON of `value`: sorted keys, no spaces."""
    return _encode(value).encode()


def digest(value: Json) -> str:
    """Return a short fingerprint of `value`, the same in every process and release."""
    return hashlib.sha256(encoded(value)).hexdigest()[:_DIGEST_HEX_CHARS]
