"""Python values to and from the messages that carry free-form data and times."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

JsonValue = Any
"""None, bool, int, float, str, a list or tuple of them, or a mapping from str to them."""

MAX_EXACT_INTEGER: Final = 2**53
"""Numbers travel as doubles: a larger integer would silently become another one."""

MAX_DEPTH: Final = 32
"""Levels of nesting the daemon accepts."""

_PLAIN: Final = frozenset({str, bool, type(None)})


def to_struct(values: Mapping[str, JsonValue]) -> struct_pb2.Struct:
    """Convert a mapping into a Struct, or refuse it; nothing is rounded, dropped or stringified.

    Raises:
        TypeError: a key is not a string, or a value has no counterpart in JSON.
        ValueError: a number is not finite or not exact as a double, or nesting is too deep.
    """
    message = struct_pb2.Struct()
    if values:
        message.update(_checked_mapping(values, "", MAX_DEPTH))
    return message


def _checked_mapping(values: Mapping[str, JsonValue], path: str, depth: int) -> dict[str, Any]:
    if depth == 0:
        raise ValueError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    checked = {}
    for key, value in values.items():
        if type(key) is not str and not isinstance(key, str):
            raise TypeError(f"{path or 'value'}: key {key!r} is not a string")
        checked[key] = (
            value if type(value) in _PLAIN else _checked(value, f"{path}.{key}", depth - 1)
        )
    return checked


def _checked(value: JsonValue, path: str, depth: int) -> JsonValue:
    """Return `value` in the types that Struct accepts."""
    where = path.removeprefix(".")
    match value:
        case bool() | str() | None:
            return value
        case int():
            if abs(value) > MAX_EXACT_INTEGER:
                raise ValueError(f"{where}: {value} is not exact as a double; send it as a string")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{where}: {value} is not a finite number")
            return float(value)
        case Mapping():
            return _checked_mapping(value, path, depth)
        case list() | tuple():
            if depth == 0:
                raise ValueError(f"{where}: nested deeper than {MAX_DEPTH} levels")
            return [
                one if type(one) in _PLAIN else _checked(one, f"{path}[{index}]", depth - 1)
                for index, one in enumerate(value)
            ]
        case _:
            raise TypeError(f"{where}: {type(value).__name__} has no counterpart in JSON")


def from_struct(message: struct_pb2.Struct) -> dict[str, JsonValue]:
    """Convert a Struct into a dict. Whole numbers come back as int, all others as float."""
    return {key: from_value(value) for key, value in message.fields.items()}


def from_value(message: struct_pb2.Value) -> JsonValue:
    """Convert one Value; see `from_struct`."""
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "number_value":
            number = message.number_value
            exact = number.is_integer() and abs(number) <= MAX_EXACT_INTEGER
            return int(number) if exact else number
        case "struct_value":
            return from_struct(message.struct_value)
        case "list_value":
            return [from_value(one) for one in message.list_value.values]
        case _:
            return None


def to_duration(time: float | timedelta | None) -> Duration | None:
    """Convert seconds or a timedelta; None stays None, which leaves the field unset.

    Raises:
        ValueError: the time is negative or not finite.
    """
    if time is None:
        return None
    seconds = time.total_seconds() if isinstance(time, timedelta) else float(time)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{seconds} is not a time span")
    whole = int(seconds)
    return Duration(seconds=whole, nanos=min(999_999_999, round((seconds - whole) * 1e9)))


def to_timestamp(moment: datetime) -> Timestamp:
    """Convert a moment.

    Raises:
        ValueError: it has no time zone, and would mean something else on another machine.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone")
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def to_seconds(message: Duration) -> float:
    """Convert a Duration into seconds."""
    return message.seconds + message.nanos / 1e9


def one_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """Accept one name where several may be given: `"x"` is `("x",)`, not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)
