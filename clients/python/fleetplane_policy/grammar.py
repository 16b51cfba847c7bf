"""Conditions as they are written, parsed into nodes; everything doubtful is refused here.

    cond  := {all: [cond, ...]} | {any: [cond, ...]} | {not: cond} | leaf | dict
    leaf  := {attr: "path.to.x" | ["path", "to", "x"], op: OPERATOR, value: JSON,
              if_missing: error | match | no_match}
    dict  := {k: scalar}            eq           (contains, when k is a list)
             {k: [scalar, ...]}     in           (a list k: has one of them)
             {k: {...}}             the fields below k, all of them
             {k_exceeds: number}    gt, strictly above
             {time_window: {...}}   the decision's clock lies in the window
             several keys           all of them; `all`, `any` and `not` may be among them

A dotted key is a path; below a map, keys are taken literally (so `{"agent_tags": {"a.b": "x"}}`
reads the tag `a.b`). An empty list is refused because it can never match; so is an empty `{}`
inside a condition. Strings are compared in Unicode NFC, which is what `validate_claims` hands out.
"""

from collections.abc import Mapping
from typing import Any, Final
from unicodedata import normalize

from fleetplane_policy.attributes import (
    UNSET,
    AttributeSchema,
    AttributeType,
    ResolvedAttribute,
    UnknownAttribute,
)
from fleetplane_policy.errors import FieldViolation
from fleetplane_policy.nodes import All, Always, AnyOf, Broken, Leaf, Node, Not
from fleetplane_policy.operators import PRESENCE, build_test
from fleetplane_policy.truth import ERROR, FALSE, MISSING, TRUE

DEPTH_LIMIT: Final = 32
"""Levels of nesting of one condition: people stop reading long before."""

LEAF_LIMIT: Final = 512
"""Comparisons of one condition: bounds the cost of one decision."""

STRING_LIMIT: Final = 4_096
"""Characters of one string inside a condition."""

EXCEEDS: Final = "_exceeds"
"""The suffix that reads "strictly above"."""

_IF_MISSING: Final = {"error": ERROR, "match": TRUE, "no_match": FALSE}
_LEAF_KEYS: Final = frozenset({"attr", "op", "value", "if_missing"})


def parse(conditions: Any, schema: AttributeSchema) -> tuple[Node, tuple[FieldViolation, ...]]:
    """Parse a policy's conditions.

    Returns the tree and everything wrong with it. Parts that could not be read are `Broken` nodes,
    so that a stored policy this engine does not understand still fails closed.
    """
    parser = _Parser(schema)
    if isinstance(conditions, Mapping) and not conditions:
        return Always(), ()
    node = parser.condition(conditions, "conditions", 1)
    return node, tuple(parser.violations)


def _in_order(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return keys and values by key: messages keep no order, and all explain the same."""
    return sorted(value.items(), key=lambda item: str(item[0]))


class _Parser:
    """Walks one condition, collecting violations instead of stopping at the first."""

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema = schema
        self.violations: list[FieldViolation] = []
        self.leaves = 0

    def refuse(self, field: str, why: str) -> Broken:
        """Record a violation and return what stands in for the unreadable part."""
        self.violations.append(FieldViolation(field, why))
        return Broken(why)

    def condition(self, value: Any, field: str, depth: int) -> Node:
        """Parse any form."""
        if not isinstance(value, Mapping):
            return self.refuse(field, "must be an object")
        if depth > DEPTH_LIMIT:
            return self.refuse(field, f"is nested deeper than {DEPTH_LIMIT} levels")
        if not value:
            return self.refuse(
                field, "is empty; only a policy with match_all may have no condition"
            )
        if "attr" in value or "op" in value:
            return self.leaf(value, field)
        return _all(self.entry(key, item, field, depth) for key, item in _in_order(value))

    def entry(self, key: Any, value: Any, field: str, depth: int) -> Node:
        """Parse one key of the dictionary form."""
        if not isinstance(key, str):
            return self.refuse(field, f"has a key that is not a string: {key!r}")
        here = f"{field}.{key}"
        if key in {"all", "any"}:
            return self.several(key, value, here, depth)
        if key == "not":
            inner = self.condition(value, here, depth + 1)
            return inner if isinstance(inner, Broken) else Not(inner)
        if key == "time_window":
            return self.compare(("now",), "time_window", value, None, here)
        return self.sugar(tuple(key.split(".")), value, here, depth)

    def several(self, key: str, value: Any, field: str, depth: int) -> Node:
        """Parse `all` and `any`."""
        if not isinstance(value, list | tuple):
            return self.refuse(field, "must be a list of conditions")
        if not value:
            return self.refuse(field, "is an empty list")
        items = [self.condition(v, f"{field}[{i}]", depth + 1) for i, v in enumerate(value)]
        return _all(items) if key == "all" else AnyOf(tuple(items))

    def sugar(self, segments: tuple[str, ...], value: Any, field: str, depth: int) -> Node:
        """Parse `{k: scalar | list | object}`."""
        if isinstance(value, Mapping):
            return self.below(segments, value, field, depth + 1)
        if segments[-1].endswith(EXCEEDS) and not self.schema.is_declared(segments):
            base = (*segments[:-1], segments[-1].removesuffix(EXCEEDS))
            if self.schema.resolves(base):
                return self.compare(base, "gt", value, None, field)
        return self.compare(segments, "", value, None, field)

    def below(
        self, segments: tuple[str, ...], value: Mapping[Any, Any], field: str, depth: int
    ) -> Node:
        """Parse the fields of a map."""
        if depth > DEPTH_LIMIT:
            return self.refuse(field, f"is nested deeper than {DEPTH_LIMIT} levels")
        if not value:
            return self.refuse(field, "is empty and says nothing")
        if not all(isinstance(key, str) for key in value):
            return self.refuse(field, "has a key that is not a string")
        return _all(
            self.sugar((*segments, key), item, f"{field}.{key}", depth)
            for key, item in _in_order(value)
        )

    def leaf(self, value: Mapping[Any, Any], field: str) -> Node:
        """Parse `{attr, op, value, if_missing}`."""
        unknown = [key for key in value if key not in _LEAF_KEYS]
        if unknown:
            return self.refuse(
                f"{field}.{unknown[0]}", "does not belong here; a comparison has attr, op, value"
            )
        operator = value.get("op")
        if not isinstance(operator, str) or not operator:
            return self.refuse(f"{field}.op", "must name an operator")
        segments = _segments(value.get("attr", "now" if operator == "time_window" else None))
        if segments is None:
            return self.refuse(f"{field}.attr", "must be a path: a string, or a list of names")
        if_missing = value.get("if_missing")
        if if_missing is not None and if_missing not in tuple(_IF_MISSING):
            return self.refuse(f"{field}.if_missing", f"must be one of {', '.join(_IF_MISSING)}")
        if "value" not in value and operator not in PRESENCE:
            return self.refuse(f"{field}.value", "is missing")
        return self.compare(segments, operator, value.get("value", True), if_missing, field)

    def compare(
        self,
        segments: tuple[str, ...],
        operator: str,
        value: Any,
        if_missing: str | None,
        field: str,
    ) -> Node:
        """Build a leaf; an empty operator means the one the value's shape implies."""
        try:
            attribute = self.schema.resolve(segments)
        except UnknownAttribute as error:
            return self.refuse(field, str(error))
        self.leaves += 1
        if self.leaves > LEAF_LIMIT:
            return self.refuse(field, f"is beyond the {LEAF_LIMIT} comparisons of one policy")
        operator = operator or _implied(attribute, value)
        wanted = _normal(value)
        if wanted is UNSET:
            return self.refuse(
                field, f"has a string that is malformed or over {STRING_LIMIT}, or is too deep"
            )
        try:
            test = build_test(attribute, operator, wanted)
        except (LookupError, TypeError, ValueError) as error:
            return self.refuse(field, str(error.args[0]))
        if operator in PRESENCE:
            absent = broken = FALSE if wanted else TRUE
        else:
            absent, broken = _when_absent(attribute, if_missing, test), ERROR
        return Leaf(
            attribute=attribute,
            operator=operator,
            value=wanted,
            test=test,
            absent=absent,
            broken=broken,
        )


def _when_absent(attribute: ResolvedAttribute, if_missing: str | None, test: Any) -> int:
    """A schema default speaks first, then the leaf, then (MISSING) the policy."""
    if attribute.default is not UNSET:
        return int(test(attribute.default))
    return MISSING if if_missing is None else _IF_MISSING[if_missing]


def _implied(attribute: ResolvedAttribute, value: Any) -> str:
    if isinstance(value, list | tuple):
        return "in"
    return "contains" if attribute.type is AttributeType.LIST else "eq"


def _segments(attr: Any) -> tuple[str, ...] | None:
    if isinstance(attr, str) and attr:
        return tuple(attr.split("."))
    if isinstance(attr, list | tuple) and attr and all(isinstance(a, str) for a in attr):
        return tuple(attr)
    return None


def _all(items: Any) -> Node:
    """Conjunction, flattened, so that the index sees every required leaf."""
    flat: list[Node] = []
    for item in items:
        flat.extend(item.items if isinstance(item, All) else (item,))
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def _normal(value: Any, depth: int = 0) -> Any:
    """Normalise the strings of a literal to NFC; UNSET when one is malformed or too long."""
    if depth > DEPTH_LIMIT:
        return UNSET
    if isinstance(value, str):
        return _normal_text(value)
    if isinstance(value, list | tuple):
        items = [_normal(v, depth + 1) for v in value]
        return UNSET if UNSET in items else items
    if isinstance(value, Mapping):
        fields = {key: _normal(item, depth + 1) for key, item in value.items()}
        return UNSET if UNSET in fields.values() else fields
    return value


def _normal_text(text: str) -> Any:
    if len(text) > STRING_LIMIT:
        return UNSET
    try:
        text.encode()
    except UnicodeEncodeError:
        return UNSET
    return normalize("NFC", text)
