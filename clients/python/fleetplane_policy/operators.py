"""The table of leaf operators: which attribute types each accepts and what builds its test.

| operator | value | attribute |
|---|---|---|
| eq, ne | scalar of the same type, or null | scalar |
| in, not_in | list of scalars | scalar; a list that has one of them |
| gt, gte, lt, lte | number | number |
| between | [low, high], inclusive | number |
| contains | scalar | list |
| contains_any, contains_all | list of scalars | list |
| size_eq, size_ne, size_gt, size_gte, size_lt, size_lte | whole number | list |
| prefix, suffix, substr, ieq, glob, host, cidr | string or list of strings | string |
| regex | RE2 expression, full match | string |
| semver | comparators, such as `>=1.2.0 <2.0.0` | string |
| time_window | {tz, days, start, end} | `now` |
| exists, is_null | true (default) or false | any; never unknown when absent |
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from fleetplane_policy import comparisons, matchers
from fleetplane_policy.attributes import AttributeType, ResolvedAttribute
from fleetplane_policy.truth import FALSE, TRUE, Test

Builder = Callable[[ResolvedAttribute, str, Any], Test]

_STRINGS: Final = frozenset({AttributeType.STRING})
_NUMBERS: Final = frozenset({AttributeType.NUMBER, AttributeType.DECIMAL})
_LISTS: Final = frozenset({AttributeType.LIST})
_SCALARS: Final = _STRINGS | _NUMBERS | {AttributeType.BOOLEAN}
_CLOCK: Final = frozenset({AttributeType.TIME})
_EVERYTHING: Final = frozenset(AttributeType)

PRESENCE: Final = frozenset({"exists", "is_null"})
"""The operators that judge absence itself."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: what builds its test, and the types it accepts besides ANY."""

    build: Builder
    accepts: frozenset[AttributeType]


def _build_presence(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    del attribute
    if type(value) is not bool:
        raise ValueError("must be true or false")
    if operator == "exists":
        return lambda _: TRUE if value else FALSE
    return lambda seen: TRUE if (seen is None) is value else FALSE


def _table() -> dict[str, Operator]:
    rows: list[tuple[str, Builder, frozenset[AttributeType]]] = [
        ("eq ne", comparisons.build_eq, _SCALARS),
        ("in not_in", comparisons.build_in, _SCALARS | _LISTS),
        ("gt gte lt lte", comparisons.build_order, _NUMBERS),
        ("between", comparisons.build_between, _NUMBERS),
        ("contains contains_any contains_all", comparisons.build_contains, _LISTS),
        ("size_eq size_ne size_gt size_gte size_lt size_lte", comparisons.build_size, _LISTS),
        ("prefix suffix substr ieq", matchers.build_text, _STRINGS),
        ("glob", matchers.build_glob, _STRINGS),
        ("regex", matchers.build_regex, _STRINGS),
        ("host", matchers.build_host, _STRINGS),
        ("cidr", matchers.build_cidr, _STRINGS),
        ("semver", matchers.build_semver, _STRINGS),
        ("time_window", matchers.build_time_window, _CLOCK),
        ("exists is_null", _build_presence, _EVERYTHING - _CLOCK),
    ]
    return {
        name: Operator(build, accepts) for names, build, accepts in rows for name in names.split()
    }


OPERATORS: Final = _table()
"""Every operator by name."""

_HINTS: Final = {
    ("contains", AttributeType.STRING): "; use substr",
    ("eq", AttributeType.LIST): "; use contains",
    ("ne", AttributeType.LIST): "; use not of contains",
    ("eq", AttributeType.MAP): "; name a field below it",
}


def build_test(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """Build the test of one leaf.

    Raises:
        LookupError: no such operator; the text lists the nearest.
        TypeError: the operator does not apply to the attribute's type.
        ValueError: the value is malformed.
    """
    entry = OPERATORS.get(operator)
    if entry is None:
        near = get_close_matches(operator, OPERATORS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise LookupError(f"unknown operator {operator!r}{hint}")
    known = attribute.type is not AttributeType.ANY or operator == "time_window"
    if known and attribute.type not in entry.accepts:
        hint = _HINTS.get((operator, attribute.type), "")
        raise TypeError(f"{operator} does not apply to a {attribute.type.lower()}{hint}")
    return entry.build(attribute, operator, value)
