import math
from enum import StrEnum
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.convert.values import (
    EnumPair,
    duration_to_ms,
    json_to_struct,
    json_to_value,
    ms_to_duration,
    ms_to_timestamp,
    struct_to_json,
    timestamp_to_ms,
)
from controlplane.domain.errors import InvalidArgument
from fleetplane.v1 import agent_pb2

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


class Status(StrEnum):
    REGISTERED = "registered"
    ACTIVE = "active"


PAIR = EnumPair(agent_pb2.AgentStatus, "AGENT_STATUS_", Status)


def field_of(caught: Any) -> str:
    return str(caught.value.violations[0].field)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_json_survives_the_wire(values):
    sent = Struct.FromString(json_to_struct(values).SerializeToString())
    assert struct_to_json(sent, "set") == values


def test_whole_numbers_come_back_as_integers():
    found = struct_to_json(json_format.ParseDict({"a": 3.0, "b": 0.5, "c": 1e300}, Struct()), "set")
    assert found == {"a": 3, "b": 0.5, "c": 1e300}
    assert {key: type(value) for key, value in found.items()} == {"a": int, "b": float, "c": float}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_with_its_path(number):
    hostile = json_to_struct({"a": {"b": [1, number]}})
    with pytest.raises(InvalidArgument) as caught:
        struct_to_json(hostile, "set")
    assert field_of(caught) == "set.a.b[1]"


def test_a_value_without_a_kind_is_refused():
    with pytest.raises(InvalidArgument, match="no value"):
        struct_to_json(Struct(fields={"v": Value()}), "set")


@pytest.mark.parametrize(("levels", "accepted"), [(31, True), (32, False)])
def test_nesting_is_bounded(levels, accepted):
    value = Value(number_value=1)
    for _ in range(levels):
        value = json_to_value([value_of(value)])
    if accepted:
        assert struct_to_json(Struct(fields={"v": value}), "set")
    else:
        with pytest.raises(InvalidArgument, match="32 levels"):
            struct_to_json(Struct(fields={"v": value}), "set")


def value_of(value: Value):
    return json_format.MessageToDict(value)


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError, match="bytes"):
        json_to_value(b"raw")


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_survive(milliseconds):
    assert timestamp_to_ms(ms_to_timestamp(milliseconds), "t") == milliseconds


@given(st.integers(0, 10**12))
def test_durations_survive(milliseconds):
    assert duration_to_ms(ms_to_duration(milliseconds), "d") == milliseconds


def test_a_duration_is_never_shortened():
    assert duration_to_ms(Duration(nanos=1), "d") == 1
    assert duration_to_ms(Duration(seconds=1, nanos=999_000_001), "d") == 2000


@pytest.mark.parametrize(
    "duration",
    [Duration(seconds=-1), Duration(nanos=-1), Duration(nanos=10**9), Duration(seconds=10**15)],
)
def test_an_impossible_duration_is_refused(duration):
    with pytest.raises(InvalidArgument) as caught:
        duration_to_ms(duration, "degraded_after")
    assert field_of(caught) == "degraded_after"


@pytest.mark.parametrize(
    "timestamp", [Timestamp(seconds=10**15), Timestamp(nanos=-1), Timestamp(seconds=-(10**15))]
)
def test_an_impossible_time_is_refused(timestamp):
    with pytest.raises(InvalidArgument) as caught:
        timestamp_to_ms(timestamp, "not_before")
    assert field_of(caught) == "not_before"


def test_enums_are_paired_by_name():
    assert PAIR.from_wire(agent_pb2.AGENT_STATUS_ACTIVE, "status") is Status.ACTIVE
    assert PAIR.to_wire(Status.REGISTERED) == agent_pb2.AGENT_STATUS_REGISTERED


def test_an_unknown_or_absent_enum_is_refused_unless_it_has_a_meaning():
    assert PAIR.from_wire(0, "status", unspecified=Status.ACTIVE) is Status.ACTIVE
    for number in (0, 99):
        with pytest.raises(InvalidArgument) as caught:
            PAIR.from_wire(number, "status")
        assert field_of(caught) == "status"


def test_a_member_without_a_twin_is_refused_at_import():
    class Stranger(StrEnum):
        NOWHERE = "nowhere"

    with pytest.raises(ValueError, match="AGENT_STATUS_NOWHERE"):
        EnumPair(agent_pb2.AgentStatus, "AGENT_STATUS_", Stranger)
