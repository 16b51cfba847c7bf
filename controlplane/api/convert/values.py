"""Well-known types of the wire to plain values, and back.

Times are integer milliseconds since 1970 (UTC), durations integer milliseconds, JSON is made of
`dict`, `list`, `str`, `float`, `int`, `bool` and None.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.domain.errors import InvalidArgument

MAXIMUM_DEPTH: Final = 32
"""Levels of a JSON value, by contract; keeps hostile nesting from exhausting the stack."""

_EXACT_INTEGER: Final = 2**53  # beyond, a double cannot tell neighbours apart
_MILLISECONDS: Final = 1000
_NANOSECONDS: Final = 1_000_000  # per millisecond
_MAXIMUM_NANOS: Final = 999_999_999
_FIRST_SECOND: Final = -62_135_596_800  # 0001-01-01T00:00:00Z, the first of a Timestamp
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last
_LONGEST_SECONDS: Final = 315_576_000_000  # 10,000 years, the longest Duration

Json = Any
"""A JSON value; spelled out it would be a recursive type that no caller can use."""

_Member = TypeVar("_Member", bound=StrEnum)


def struct_to_json(struct: Struct, field: str) -> dict[str, Json]:
    """Return the object in `struct`; whole numbers become `int`.

    Raises:
        InvalidArgument: naming `field` and the path within it: nested deeper than 32 levels, not a
            finite number, or a value without a kind.
    """
    plain: dict[str, Json] = {}
    fields = struct.fields
    for key in fields:  # items() would look up each value through two more calls
        value = fields[key]
        # Most values are text, and reading it is cheaper than asking what is there.
        plain[key] = value.string_value or _to_json(value, f"{field}.{key}", MAXIMUM_DEPTH - 1)
    return plain


def _to_json(value: Value, field: str, levels: int) -> Json:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value, field)
    if kind == "bool_value":
        return value.bool_value
    if kind == "null_value":
        return None
    if kind is None:
        raise InvalidArgument.of(field, "has no value; use null for nothing")
    if levels <= 0:
        raise InvalidArgument.of(field, f"must not be nested deeper than {MAXIMUM_DEPTH} levels")
    if kind == "struct_value":
        fields = value.struct_value.fields
        return {k: _to_json(v, f"{field}.{k}", levels - 1) for k, v in fields.items()}
    values = value.list_value.values
    return [_to_json(v, f"{field}[{i}]", levels - 1) for i, v in enumerate(values)]


def _number(number: float, field: str) -> int | float:
    if not math.isfinite(number):
        raise InvalidArgument.of(field, "must be a finite number")
    return whole_or_float(number)


def whole_or_float(number: float) -> int | float:
    """Return a finite number as JSON has it: as an `int` if it is whole, and exact as a double."""
    if number.is_integer() and abs(number) <= _EXACT_INTEGER:
        return int(number)
    return number


def json_to_struct(values: Mapping[str, Json]) -> Struct:
    """Return the object as a Struct.

    Raises:
        TypeError: a value is none of the JSON types.
    """
    return Struct(fields={key: json_to_value(value) for key, value in values.items()})


def json_to_value(value: Json) -> Value:
    """Return a JSON value as a Value. Raises like `json_to_struct`."""
    if value is None:
        return Value(null_value=0)  # type: ignore[arg-type]  # NULL_VALUE; the stub wants the enum
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=value)
    if isinstance(value, str):
        return Value(string_value=value)
    if isinstance(value, Mapping):
        return Value(struct_value=json_to_struct(value))
    if isinstance(value, Sequence | frozenset | set) and not isinstance(value, bytes):
        return Value(list_value=ListValue(values=[json_to_value(item) for item in value]))
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def timestamp_to_ms(timestamp: Timestamp, field: str) -> int:
    """Return milliseconds since 1970, rounded down.

    Raises:
        InvalidArgument: `field` is before year 1 or after year 9999, or its nanos are out of range.
    """
    if not _FIRST_SECOND <= timestamp.seconds <= _LAST_SECOND or not (
        0 <= timestamp.nanos <= _MAXIMUM_NANOS
    ):
        raise InvalidArgument.of(field, "is not a valid timestamp")
    return timestamp.seconds * _MILLISECONDS + timestamp.nanos // _NANOSECONDS


def ms_to_timestamp(milliseconds: int) -> Timestamp:
    """Return a time given in milliseconds since 1970."""
    seconds, rest = divmod(milliseconds, _MILLISECONDS)
    return Timestamp(seconds=seconds, nanos=rest * _NANOSECONDS)


def duration_to_ms(duration: Duration, field: str) -> int:
    """Return milliseconds; a fraction of one is rounded up, so that a wait is never shorter.

    Raises:
        InvalidArgument: `field` is negative, longer than 10,000 years, or its nanos are out of
            range.
    """
    if not 0 <= duration.seconds <= _LONGEST_SECONDS or not 0 <= duration.nanos <= _MAXIMUM_NANOS:
        raise InvalidArgument.of(field, "must be a duration that is not negative")
    return duration.seconds * _MILLISECONDS - (-duration.nanos // _NANOSECONDS)


def bounded_ms(duration: Duration, field: str, *, least: int, most: int, said: str) -> int:
    """Return milliseconds of a duration that was sent, within its bounds.

    Args:
        duration: What was sent; whether it was is the caller's question.
        field: Where.
        least: Least milliseconds.
        most: Most milliseconds.
        said: The bounds in words, such as `1 s - 24 h`.

    Raises:
        InvalidArgument: `field` is malformed or out of bounds.
    """
    milliseconds = duration_to_ms(duration, field)
    if not least <= milliseconds <= most:
        raise InvalidArgument.of(field, f"must be {said}")
    return milliseconds


def moment(milliseconds: int) -> Timestamp | None:
    """Return a time given in milliseconds since 1970; None for 0, which has not happened."""
    return ms_to_timestamp(milliseconds) if milliseconds else None


def ms_to_duration(milliseconds: int) -> Duration:
    """Return a duration given in milliseconds."""
    seconds, rest = divmod(milliseconds, _MILLISECONDS)
    return Duration(seconds=seconds, nanos=rest * _NANOSECONDS)


class EnumPair(dict[int, _Member]):
    """One enum of the wire and its domain twin, matched by name.

    `AGENT_STATUS_ACTIVE` of the wire is `AgentStatus.ACTIVE` of the domain.
    """

    def __init__(self, wire: Any, prefix: str, domain: type[_Member]) -> None:
        """Pair every member of `domain` with `<prefix><NAME>` of `wire`.

        Args:
            wire: The generated enum, such as `agent_pb2.AgentStatus`.
            prefix: What its values begin with, such as `AGENT_STATUS_`.
            domain: The domain's enum.

        Raises:
            ValueError: the wire has no such value.
        """
        super().__init__({wire.Value(f"{prefix}{member.name}"): member for member in domain})
        self._numbers = {member: number for number, member in self.items()}

    def from_wire(self, number: int, field: str, *, unspecified: _Member | None = None) -> _Member:
        """Return the domain's member for `number`.

        Args:
            number: Value of the wire.
            field: Where it was found.
            unspecified: What 0 means; None refuses it.

        Raises:
            InvalidArgument: naming `field`, for 0 without a meaning or a value unknown here.
        """
        member = self.get(number, unspecified if number == 0 else None)
        if member is None:
            raise InvalidArgument.of(field, "is required" if number == 0 else "is not known here")
        return member

    def to_wire(self, member: _Member) -> Any:
        """Return the wire's number of `member`, typed Any because each enum types its own."""
        return self._numbers[member]
