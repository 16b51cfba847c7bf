"""Claims as the daemon would read them, without the way through a message where that is safe."""

import math
from collections.abc import Mapping
from typing import Any, Final

from fleetplane._details import FieldViolation, StatusDetails
from fleetplane._exceptions import InvalidArgument
from fleetplane._values import MAX_EXACT_INTEGER, from_struct, to_struct
from fleetplane_policy import MalformedInput, validate_claims

MAX_CONTEXT_BYTES: Final = 64 * 1024
"""Serialised context of one question, by contract."""

_PLAIN_LEVELS: Final = 8
"""Nesting that is read without a message; deeper is rare, and the limit is 32."""

_PLAIN_BUDGET: Final = 8 * 1024
"""Characters of the outermost level; of all others together, with 16 for each value. As a message
that is 24 KiB at most, so that the limit of 64 KiB need not be looked at."""

_VALUE_COST: Final = 16
"""What a value counts besides its text: nearly what it takes in a message."""

_NOT_PLAIN: Final = object()


def claims_of(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy of a context, exactly as the daemon would hand it to the policies.

    Raises:
        TypeError: a key is not a string, or a value has no counterpart in JSON.
        ValueError: a number is not finite or not exact as a double, or nesting is too deep.
        InvalidArgument: larger than 64 KiB, a lone surrogate, or keys that become equal.
    """
    plain = _plain(context)
    return _through_a_message(context) if plain is None else plain


def _plain(  # noqa: C901, PLR0911 - on every decision: one loop, calls for rare kinds
    context: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Return a context of short ASCII text and ordinary numbers: most are. None: it is not."""
    if type(context) is not dict or len(context) > _PLAIN_BUDGET // (4 * _VALUE_COST):
        return None
    size = 0
    budget: list[int] | None = None
    plain: dict[str, Any] = {}
    for key, value in context.items():
        if type(key) is not str or not key.isascii():
            return None
        kind = type(value)
        if kind is str:
            if not value.isascii():
                return None
            size += len(value)
        elif kind is float:
            if value.is_integer() and -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER:
                value = int(value)  # noqa: PLW2901 - as it comes out of a message
            elif not math.isfinite(value):
                return None
        elif kind is int:
            if not -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER:
                return None
        elif value is not None and kind is not bool:
            budget = budget or [_PLAIN_BUDGET]
            value = _plain_value(value, _PLAIN_LEVELS, budget)  # noqa: PLW2901 - its copy
            if value is _NOT_PLAIN:
                return None
        size += len(key)
        plain[key] = value
    return plain if size < _PLAIN_BUDGET else None


def _plain_value(  # noqa: PLR0911 - one per kind of value
    value: Any, levels: int, budget: list[int]
) -> Any:
    """Return a copy of a value in which nothing is out of the ordinary, else `_NOT_PLAIN`."""
    budget[0] -= _VALUE_COST
    if budget[0] < 0 or levels == 0:
        return _NOT_PLAIN
    kind = type(value)
    if kind is str:
        budget[0] -= len(value)
        return value if value.isascii() else _NOT_PLAIN
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER else _NOT_PLAIN
    if kind is float:
        if value.is_integer() and -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER:
            return int(value)
        return value if math.isfinite(value) else _NOT_PLAIN
    if kind is dict:
        return _plain_mapping(value, levels, budget)
    if kind is list or kind is tuple:
        items = [_plain_value(item, levels - 1, budget) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    return _NOT_PLAIN


def _plain_mapping(value: Mapping[Any, Any], levels: int, budget: list[int]) -> Any:
    copied: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            return _NOT_PLAIN
        budget[0] -= len(key)
        copied[key] = plain = _plain_value(item, levels - 1, budget)
        if plain is _NOT_PLAIN:
            return _NOT_PLAIN
    return copied


def _through_a_message(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a context as the daemon does: out of a message, with its checks."""
    message = to_struct(context)
    if message.ByteSize() > MAX_CONTEXT_BYTES:
        raise refusal(FieldViolation("context", f"is larger than {MAX_CONTEXT_BYTES} bytes"))
    try:
        return validate_claims(from_struct(message))
    except MalformedInput as refused:
        raise refusal(
            *(FieldViolation(one.field, one.description) for one in refused.violations)
        ) from None


def refusal(*violations: FieldViolation) -> InvalidArgument:
    """Return what the daemon would refuse a question with."""
    return InvalidArgument(
        "; ".join(f"{one.field}: {one.description}" for one in violations),
        StatusDetails(
            reason="INVALID_FIELD",
            metadata={"field": violations[0].field},
            violations=violations,
        ),
    )
