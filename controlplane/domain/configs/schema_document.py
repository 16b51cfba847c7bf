"""Which JSON Schemas are accepted: draft 2020-12, checkable in bounded time, nothing fetched.

A document has to pass the metaschema. Beyond that, what would make checking unbounded or would
depend on anything outside the document is refused when it is registered, not when it is used:
references to elsewhere or in circles, patterns that RE2 does not know, the `unevaluated` keywords
and dynamic references. Keywords that draft 2020-12 does not know, and `format`, are annotations.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final
from urllib.parse import unquote

import re2  # type: ignore[import-untyped]  # google-re2 ships no types
from jsonschema import Draft202012Validator

from controlplane.domain.configs.document import Json, encoded
from controlplane.domain.configs.paths import shown
from controlplane.domain.errors import FieldViolation, InvalidArgument, LimitExceeded

DOCUMENT_BYTES: Final = 64 * 1024
"""Bytes of a schema as compact JSON: far more than settings need."""

DOCUMENT_DEPTH: Final = 32
"""Levels of objects and lists in a schema, the same as of any JSON on the wire."""

DOCUMENT_NODES: Final = 2_000
"""Objects, lists and booleans in a schema: the metaschema takes about 0.3 ms for each."""

PATTERN_CHARS: Final = 512
"""Characters of one regular expression, as in policies."""

PATTERN_COUNT: Final = 100
"""Regular expressions of one schema: each may take `_PATTERN_MEMORY` once compiled."""

_PATTERN_MEMORY: Final = 1 << 20  # bytes of one compiled program; RE2's own default is 8 MiB

_MAX_VIOLATIONS: Final = 20
"""Problems reported of one schema: the first ones usually explain the others."""

_SAID_CHARS: Final = 200
"""Of a message of the metaschema, which repeats what it complains about."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The only value of `$schema`; it may be left out."""

ONE_INSIDE: Final = frozenset({"items", "contains", "additionalProperties", "propertyNames"})
"""Keywords whose value is a schema for something within the value."""

ONE_IN_PLACE: Final = frozenset({"not", "if", "then", "else"})
"""Keywords whose value is a schema for the value itself."""

SEVERAL: Final = {"allOf": True, "anyOf": True, "oneOf": True, "prefixItems": False}
"""Keywords with a list of schemas, and whether those are for the value itself."""

NAMED: Final = {
    "properties": False,
    "patternProperties": False,
    "$defs": False,
    "definitions": False,
    "dependentSchemas": True,
}
"""Keywords with schemas by name, and whether those are for the value itself."""

_REFUSED: Final = {
    "$dynamicAnchor": "dynamic references are not supported; use $ref",
    "$dynamicRef": "dynamic references are not supported; use $ref",
    "$recursiveRef": "is of an older draft; use $ref",
    "$vocabulary": "own vocabularies are not supported",
    "unevaluatedItems": "is not supported; use items",
    "unevaluatedProperties": "is not supported; use additionalProperties",
}

_META: Final = Draft202012Validator(Draft202012Validator.META_SCHEMA)

Regex = Any
"""A compiled expression of google-re2, which ships no types."""


@dataclass(frozen=True, slots=True)
class Subschema:
    """A schema within the document."""

    pointer: str
    """JSON Pointer; empty for the document itself."""
    schema: Any
    """An object or a boolean."""
    inside: str = ""
    """Pointer of the schema around it."""
    in_place: bool = False
    """It applies to the very value the schema around it applies to."""


def subschemas(document: Any) -> Iterator[Subschema]:
    """Yield a document that fits the metaschema and every schema within it, outer ones first.

    Recursion is bounded by the depth of the document.
    """
    return _below(Subschema("", document))


def _below(one: Subschema) -> Iterator[Subschema]:
    yield one
    if not isinstance(one.schema, Mapping):
        return
    for keyword, value in one.schema.items():
        for steps, child, in_place in _children(keyword, value):
            pointer = "/".join((one.pointer, *map(_escaped, (keyword, *steps))))
            yield from _below(Subschema(pointer, child, one.pointer, in_place))


def _children(keyword: str, value: Any) -> Iterable[tuple[tuple[str, ...], Any, bool]]:
    if keyword in ONE_INSIDE or keyword in ONE_IN_PLACE:
        return (((), value, keyword in ONE_IN_PLACE),)
    if keyword in SEVERAL:
        return (((str(i),), child, SEVERAL[keyword]) for i, child in enumerate(value))
    if keyword in NAMED:
        return (((name,), child, NAMED[keyword]) for name, child in value.items())
    return ()


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def check_document(document: Mapping[str, Json]) -> None:
    """Refuse a document that cannot be the schema of a namespace.

    May take half a second of CPU for the largest document: not for an event loop.

    Raises:
        LimitExceeded: more than 64 KiB, 2,000 objects, lists and booleans, or 100 patterns.
        InvalidArgument: everything else; violations name `schema.<path>`.
    """
    _refuse_shape(document)
    if len(encoded(document)) > DOCUMENT_BYTES:
        raise LimitExceeded("the size in bytes of a schema of extra", limit=DOCUMENT_BYTES)
    dialect = document.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.removesuffix("#") != DIALECT:
        raise InvalidArgument.of("schema.$schema", f"must be {DIALECT}, or absent")
    wrong = [
        FieldViolation(_field(error.absolute_path), error.message[:_SAID_CHARS])
        for error, _ in zip(_META.iter_errors(document), range(_MAX_VIOLATIONS), strict=False)
    ]
    if not wrong:
        known = list(subschemas(document))
        wrong = [*_wrong_keywords(known), *_wrong_references(known), *_wrong_patterns(known)]
    if wrong:
        raise InvalidArgument(*wrong[:_MAX_VIOLATIONS])


def _refuse_shape(document: Mapping[str, Json]) -> None:
    """Refuse what is too deep or has too many parts to be looked at closely."""
    nodes, levels = 0, 0
    layer: list[Any] = [document]
    while layer:
        levels += 1
        nodes += len(layer)
        if levels > DOCUMENT_DEPTH:
            raise InvalidArgument.of("schema", f"is nested deeper than {DOCUMENT_DEPTH} levels")
        if nodes > DOCUMENT_NODES:
            raise LimitExceeded(
                "the number of objects, lists and booleans in a schema of extra",
                limit=DOCUMENT_NODES,
            )
        values = (v for one in layer for v in _values(one))
        layer = [value for value in values if isinstance(value, Mapping | list | bool)]


def _values(node: Any) -> Iterable[Any]:
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list) else ()


def _field(path: Iterable[str | int]) -> str:
    return shown(".".join(("schema", *map(str, path))))


def _at(one: Subschema, keyword: str) -> str:
    return _field((*(step for step in one.pointer.split("/")[1:]), keyword))


def _wrong_keywords(known: Iterable[Subschema]) -> Iterator[FieldViolation]:
    for one in known:
        if not isinstance(one.schema, Mapping):
            continue
        for keyword in one.schema:
            if keyword in _REFUSED:
                yield FieldViolation(_at(one, keyword), _REFUSED[keyword])
            elif keyword in {"$id", "$schema"} and one.pointer:
                yield FieldViolation(_at(one, keyword), "only the document itself may have one")


def targets(known: Iterable[Subschema]) -> dict[str, Subschema]:
    """Return what a `$ref` may point at, by fragment: JSON Pointers and anchors."""
    found = {}
    for one in known:
        found[one.pointer] = one
        if isinstance(one.schema, Mapping) and isinstance(one.schema.get("$anchor"), str):
            found[one.schema["$anchor"]] = one
    return found


def fragment(reference: str) -> str:
    """Return the decoded part after `#` of a reference within the document."""
    return unquote(reference.removeprefix("#"))


def _wrong_references(known: list[Subschema]) -> Iterator[FieldViolation]:
    """Report references that lead elsewhere, nowhere, or back to where they started.

    A circle is fine as long as it takes a step into the value, as a tree's schema does.
    """
    named = targets(known)
    edges: dict[str, set[str]] = {one.pointer: set() for one in known}
    for one in known:
        if one.in_place:
            edges[one.inside].add(one.pointer)
        reference = one.schema.get("$ref") if isinstance(one.schema, Mapping) else None
        if reference is None:
            continue
        if not reference.startswith("#"):
            yield FieldViolation(_at(one, "$ref"), "must point into this document, as #/$defs/x")
        elif (target := named.get(fragment(reference))) is None:
            yield FieldViolation(_at(one, "$ref"), "points at nothing that is a schema")
        else:
            edges[one.pointer].add(target.pointer)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        first = next(one for one in known if one.pointer == error.args[1][0])
        yield FieldViolation(_at(first, "$ref"), "leads back to itself without end")


def patterns(known: Iterable[Subschema]) -> Iterator[tuple[Subschema, str, str]]:
    """Yield every regular expression as (schema, keyword, expression)."""
    for one in known:
        if isinstance(one.schema, Mapping):
            if "pattern" in one.schema:
                yield one, "pattern", one.schema["pattern"]
            for expression in one.schema.get("patternProperties", ()):
                yield one, "patternProperties", expression


def _wrong_patterns(known: Iterable[Subschema]) -> Iterator[FieldViolation]:
    found = list(patterns(known))
    if len({expression for _, _, expression in found}) > PATTERN_COUNT:
        raise LimitExceeded("the number of patterns in a schema of extra", limit=PATTERN_COUNT)
    for one, keyword, expression in found:
        try:
            compile_pattern(expression)
        except ValueError as error:
            yield FieldViolation(_at(one, keyword), str(error))


def compile_pattern(expression: str) -> Regex:
    """Compile a regular expression that `search`es in time linear in the text.

    Raises:
        ValueError: longer than 512 characters, or not RE2 syntax (look-arounds, back-references).
    """
    if len(expression) > PATTERN_CHARS:
        raise ValueError(f"a pattern is longer than {PATTERN_CHARS} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    try:
        return re2.compile(expression, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if isinstance(error, re2.error) else "not valid Unicode"
        said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is not an RE2 expression: {said[:_SAID_CHARS]}") from error
