"""Equality, membership, order and size: operators over scalars and lists.

The rules that keep Python's conveniences out: a boolean is not a number, a string is never
iterated nor compared with a number, NaN and infinities compare with nothing (ERROR). Numbers
compare exactly, so 3 equals 3.0. DECIMAL attributes compare as decimals: a float means its shortest
spelling (0.1 is 0.1), a string must spell a finite decimal.
"""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from math import inf
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Final

from fleetplane_policy.attributes import AttributeType, ResolvedAttribute
from fleetplane_policy.truth import ERROR, FALSE, NEGATED, TRUE, Test

Compare = Callable[[Any, Any], bool]

LIST_LIMIT: Final = 1_000
"""Values in a list of one condition: larger sets belong into tags or an attribute."""

_DECIMAL_LENGTH = 64  # characters of a decimal string: every currency amount, bounded to parse
_ORDER: Final[dict[str, Compare]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
_SIZE: Final[dict[str, Compare]] = {
    "size_eq": eq,
    "size_ne": ne,
    "size_gt": gt,
    "size_gte": ge,
    "size_lt": lt,
    "size_lte": le,
}


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float (and not a boolean)."""
    kind = type(value)
    return kind is int or (kind is float and -inf < value < inf)


def to_decimal(value: Any) -> Decimal | None:
    """Read a number or decimal string; None when it is neither, or not finite."""
    if is_number(value):
        return Decimal(repr(value)) if type(value) is float else Decimal(value)
    if not isinstance(value, str) or len(value) > _DECIMAL_LENGTH or "_" in value:
        return None
    try:
        parsed = Decimal(value)
    except InvalidOperation:
        return None
    return parsed if parsed.is_finite() else None


def negate(test: Test) -> Test:
    """Swap TRUE and FALSE, keep unknowns."""
    negated = NEGATED
    return lambda value: negated[test(value)]


def build_eq(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`eq` and `ne`: the same JSON type, else ERROR."""
    _check_element(attribute.type, value)
    test = _equals(attribute.type, value)
    return test if operator == "eq" else negate(test)


def _equals(kind: AttributeType, wanted: Any) -> Test:
    if wanted is None:
        return lambda value: TRUE if value is None else FALSE
    if kind is AttributeType.DECIMAL:
        return _decimal_test(eq, wanted)
    if isinstance(wanted, bool):
        return lambda value: (TRUE if value is wanted else FALSE) if type(value) is bool else ERROR
    if isinstance(wanted, str):
        return lambda value: TRUE if value == wanted else FALSE if isinstance(value, str) else ERROR
    return lambda value: (TRUE if value == wanted else FALSE) if is_number(value) else ERROR


def build_in(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`in`: the value is one of these; a list has one of these. `not_in` negates it."""
    kind = attribute.element if attribute.type is AttributeType.LIST else attribute.type
    member = _member(kind, _checked_list(value, kind))

    def either(value: Any) -> int:
        return _any_of(member, value) if isinstance(value, list | tuple) else member(value)

    test: Test = either
    if attribute.type is AttributeType.LIST:
        test = _lists_only(lambda values: _any_of(member, values))
    return test if operator == "in" else negate(test)


def _member(kind: AttributeType, wanted: list[Any]) -> Test:
    if kind is AttributeType.DECIMAL:
        decimals = frozenset(d for w in wanted if (d := to_decimal(w)) is not None)
        nulls = None in wanted
        return lambda value: (
            (TRUE if nulls else ERROR)
            if value is None
            else ERROR
            if (parsed := to_decimal(value)) is None
            else TRUE
            if parsed in decimals
            else FALSE
        )
    sets = {
        group: frozenset(w for w in wanted if _group(w) == group)
        for group in {_group(w) for w in wanted}
    }

    def test(value: Any) -> int:
        same = sets.get(_group(value))
        if same is None:
            return ERROR
        return TRUE if value in same else FALSE

    return test


def _group(value: Any) -> str:
    """The JSON type of a scalar; values of different groups never compare."""
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    return "number" if is_number(value) else "other"


def _any_of(test: Test, values: list[Any] | tuple[Any, ...]) -> int:
    result = FALSE
    for value in values:
        judged = test(value)
        if judged == TRUE:
            return TRUE
        result = max(result, judged)
    return result


def _lists_only(test: Callable[[Any], int]) -> Test:
    return lambda value: test(value) if isinstance(value, list | tuple) else ERROR


def build_order(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`gt`, `gte`, `lt`, `lte`: numbers only; the bound itself never exceeds itself."""
    _check_number(attribute, value)
    compare = _ORDER[operator]
    if attribute.type is AttributeType.DECIMAL:
        return _decimal_test(compare, value)
    return lambda seen: (TRUE if compare(seen, value) else FALSE) if is_number(seen) else ERROR


def _decimal_test(compare: Compare, wanted: Any) -> Test:
    bound = to_decimal(wanted)

    def test(value: Any) -> int:
        parsed = to_decimal(value)
        if parsed is None:
            return ERROR
        return TRUE if compare(parsed, bound) else FALSE

    if type(wanted) is not float:
        return test
    # Two floats order as their shortest spellings do, and need no parsing.
    return lambda value: (
        (TRUE if compare(value, wanted) else FALSE)
        if type(value) is float and -inf < value < inf
        else test(value)
    )


def build_between(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`between`: [low, high], both ends included."""
    if not isinstance(value, list | tuple) or len(value) != 2:  # noqa: PLR2004 - low and high
        raise ValueError("must be [low, high]")
    low, high = value
    _check_number(attribute, low)
    _check_number(attribute, high)
    lowest, highest = to_decimal(low), to_decimal(high)
    if lowest is None or highest is None or lowest > highest:
        raise ValueError(f"{operator} has its low end above its high end and can never match")
    above = build_order(attribute, "gte", low)
    below = build_order(attribute, "lte", high)

    def test(value: Any) -> int:
        reached = above(value)
        return below(value) if reached == TRUE else reached

    return test


def build_contains(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`contains` one, `contains_any` or `contains_all` of several; lists only."""
    kind = attribute.element if attribute.type is AttributeType.LIST else AttributeType.ANY
    if operator == "contains":
        _check_element(kind, value)
        only = _equals(kind, value)
        return _lists_only(lambda values: _any_of(only, values))
    wanted = _checked_list(value, kind)
    if operator == "contains_any":
        member = _member(kind, wanted)
        return _lists_only(lambda values: _any_of(member, values))
    each = [_equals(kind, w) for w in wanted]

    def contains_all(values: Any) -> int:
        results = [_any_of(test, values) for test in each]
        return FALSE if FALSE in results else max(results)

    return _lists_only(contains_all)


def build_size(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`size_eq` ... `size_lte`: the number of elements of a list."""
    del attribute  # every attribute this operator accepts is a list
    if type(value) is not int or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    compare = _SIZE[operator]
    return _lists_only(lambda values: TRUE if compare(len(values), value) else FALSE)


def _check_element(kind: AttributeType, value: Any) -> None:
    if value is None:
        return
    group = _group(value)
    if group == "other":
        raise ValueError("must be a string, a finite number, a boolean or null")
    if kind is AttributeType.DECIMAL and to_decimal(value) is not None:
        return
    expected = _GROUP_OF.get(kind)
    if expected is not None and group != expected:
        raise ValueError(f"is a {group}, the attribute is a {kind.lower()}; it could never match")


_GROUP_OF: Final = {
    AttributeType.STRING: "string",
    AttributeType.NUMBER: "number",
    AttributeType.BOOLEAN: "boolean",
    AttributeType.DECIMAL: "decimal",
}


def _check_number(attribute: ResolvedAttribute, value: Any) -> None:
    fits = to_decimal(value) is not None
    if attribute.type is not AttributeType.DECIMAL:
        fits = is_number(value)
    if not fits:
        raise ValueError(f"must be a finite number to compare with {attribute.shown}")


def _checked_list(value: Any, kind: AttributeType) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list")  # noqa: TRY004 - a refused value
    if not value:
        raise ValueError("is an empty list and could never match")
    if len(value) > LIST_LIMIT:
        raise ValueError(f"has more than {LIST_LIMIT} values")
    for item in value:
        _check_element(kind, item)
    return list(value)
