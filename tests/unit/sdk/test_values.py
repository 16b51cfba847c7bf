"""Free-form data crosses the wire unchanged, or is refused."""

from datetime import timedelta
from typing import Any

import pytest

from fleetplane import EffectiveConfig, from_struct, to_struct
from fleetplane._calls import Backoff
from fleetplane._values import one_of, to_duration, to_seconds
from fleetplane.v1 import config_service_pb2


def test_a_mapping_comes_back_as_it_was() -> None:
    values: dict[str, Any] = {
        "none": None,
        "yes": True,
        "whole": 3,
        "half": 0.5,
        "text": "x",
        "list": [1, "a", [None], {"k": False}],
        "nested": {"deep": {"deeper": 2**53}},
        "empty": {},
    }
    assert from_struct(to_struct(values)) == values
    assert from_struct(to_struct({"tuple": (1, 2)})) == {"tuple": [1, 2]}


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({1: 2}, TypeError, "not a string"),
        ({"a": {"b": {2: 3}}}, TypeError, "a.b"),
        ({"a": b"x"}, TypeError, "a: bytes"),
        ({"a": [1, {"b": object()}]}, TypeError, "b: object"),
        ({"a": float("nan")}, ValueError, "finite"),
        ({"a": float("inf")}, ValueError, "finite"),
        ({"a": 2**53 + 1}, ValueError, "exact"),
    ],
)
def test_what_json_cannot_say_is_refused(
    values: dict[Any, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        to_struct(values)


def test_nesting_has_a_bound() -> None:
    value: Any = 1
    for _ in range(40):
        value = {"a": [value]}
    with pytest.raises(ValueError, match="32 levels"):
        to_struct(value)


def test_times_are_spans() -> None:
    duration = to_duration(timedelta(minutes=1, milliseconds=500))
    assert duration is not None
    assert to_seconds(duration) == 60.5
    assert to_duration(None) is None
    for wrong in (-1, float("inf")):
        with pytest.raises(ValueError, match="time span"):
            to_duration(wrong)


def test_one_name_is_not_its_letters() -> None:
    assert one_of("abc") == ("abc",)
    assert one_of(["a", "b"]) == ("a", "b")


def test_waits_grow_within_bounds_and_honour_the_daemon() -> None:
    backoff = Backoff(0.1, 1.0)
    assert all(backoff.next() <= bound for bound in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0))
    assert 5.0 <= backoff.next(5.0) <= 5.5
    backoff.reset()
    assert backoff.next() <= 0.1


def test_an_effective_configuration_reads_like_one() -> None:
    assert EffectiveConfig().allows_domain("example.com")
    message = config_service_pb2.EffectiveConfig(
        features={"search": True},
        blocked_tools=["shell"],
        restrict_domains=True,
        allowed_domains=["example.com"],
        extra=to_struct({"n": 1}),
    )
    config = EffectiveConfig.from_message(message)
    assert config.feature("search")
    assert config.feature("other", default=True)
    assert not config.allows_tool("shell")
    assert config.allows_tool("search")
    assert config.allows_domain("Example.com")
    assert not config.allows_domain("example.org")
    assert config.extra == {"n": 1}
    with pytest.raises(TypeError):
        config.features["search"] = False  # type: ignore[index]  # the point
