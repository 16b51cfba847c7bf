import math

import pytest

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLimits,
    ConfigSchema,
    FieldRule,
    Json,
    LayerKind,
    ValueType,
    validate_values,
)
from controlplane.domain.errors import InvalidArgument, LimitExceeded

DEEP: Json = "bottom"
for _ in range(17):
    DEEP = {"k": DEEP}

ACCEPTED = [
    ("model", "claude-sonnet-4-6", "claude-sonnet-4-6"),
    ("temperature", 0, 0.0),
    ("temperature", 2.0, 2.0),
    ("max_tokens", 1.0, 1),
    ("max_tokens", 1_000_000, 1_000_000),
    ("max_retries", 0.0, 0),
    ("timeout_seconds", 0.25, 0.25),
    ("timeout_seconds", 86400, 86400.0),
    ("rate_limit_rpm", 0, 0),
    ("features.web_search", True, True),
    ("features.a-b_9", False, False),
    ("blocked_tools", [], []),
    ("blocked_tools", ["shell", "rm", "shell"], ["rm", "shell"]),
    ("blocked_tools", ("b", "a"), ["a", "b"]),
    ("allowed_domains", [], []),
    ("allowed_domains", ["API.Example.COM.", "*.b.org"], ["*.b.org", "api.example.com"]),
    ("allowed_domains", ["localhost", "10.0.0.1", "xn--bcher-kva.de"], None),
    ("extra.n", 3.0, 3),
    ("extra.n", 3.5, 3.5),
    ("extra.n", 1e300, 1e300),
    ("extra.list", [1.0, {"x.y": None}, "t"], [1, {"x.y": None}, "t"]),
    ("extra.empty", {}, {}),
    ("extra.flag", True, True),
    ("extra.text", "", ""),
]

REFUSED = [
    ("model", "", "must not be empty"),
    ("model", 3.0, "must be text, not a number"),
    ("model", " m", "blank"),
    ("model", "m\n", "blank"),
    ("model", "m\x00x", "control characters"),
    ("model", "é" * 129, "at most 256 bytes"),
    ("model", None, "null is not a value"),
    ("model", "\ud800", "control characters"),
    ("temperature", 2.01, "at least 0 and at most 2"),
    ("temperature", -0.1, "at least 0"),
    ("temperature", math.nan, "finite"),
    ("temperature", math.inf, "finite"),
    ("temperature", True, "must be a number, not a boolean"),
    ("temperature", "0.5", "must be a number, not text"),
    ("max_tokens", 0.0, "at least 1"),
    ("max_tokens", 1.5, "whole number"),
    ("max_tokens", 1_000_001, "at most 1,000,000"),
    ("max_tokens", False, "not a boolean"),
    ("max_tokens", math.nan, "finite"),
    ("max_tokens", -math.inf, "finite"),
    ("max_tokens", 10**400, "out of range"),
    ("max_retries", 101, "at most 100"),
    ("max_retries", -1, "at least 0"),
    ("timeout_seconds", 0, "more than 0"),
    ("timeout_seconds", 86_400.5, "at most 86,400"),
    ("rate_limit_rpm", -1, "at least 0"),
    ("rate_limit_rpm", 2**31, "at most"),
    ("rate_limit_rpm", [], "must be a number, not a list"),
    ("features", True, "must be an object, not a boolean"),
    ("features", {}, "at least one key"),
    ("features.x", 1.0, "must be true or false, not a number"),
    ("features.x", {}, "must be true or false, not an object"),
    ("features.x.y", True, "no settings below"),
    ("features.", True, "the key ''"),
    ("features.-x", True, "the key '-x'"),
    ("blocked_tools", "shell", "must be a list, not text"),
    ("blocked_tools", {"shell": True}, "must be a list, not an object"),
    ("blocked_tools", ["ok", ""], "entry 1 must not be empty"),
    ("blocked_tools", ["shell "], "entry 0 must not begin or end with a blank"),
    ("blocked_tools", [None], "must be text, not null"),
    ("blocked_tools", [1.0], "entry 0 must be text"),
    ("blocked_tools", ["x" * 257], "at most 256 bytes"),
    ("blocked_tools.0", "x", "set blocked_tools itself"),
    ("allowed_domains", None, "null is not a value"),
    ("allowed_domains", ["*"], "leave allowed_domains unset"),
    ("allowed_domains", ["https://a.b"], "not a host name"),
    ("allowed_domains", ["a.b:443"], "not a host name"),
    ("allowed_domains", ["a..b"], "not a host name"),
    ("allowed_domains", ["x.*.b"], "not a host name"),
    ("allowed_domains", ["*.*.b"], "not a host name"),
    ("allowed_domains", ["bücher.de"], "ASCII form"),
    ("allowed_domains", [".".join(["a" * 40] * 6) + ".example.co"], "longer than 253"),
    ("allowed_domains", ["-a.b"], "not a host name"),
    ("extra", [1], "must be an object, not a list"),
    ("extra", {}, "at least one key"),
    ("extra.x", None, "null is not a value"),
    ("extra.x", math.nan, "finite"),
    ("extra.x", [[math.inf]], "finite"),
    ("extra.x", 2**53 + 1, "2^53"),
    ("extra.x", "\ud800", "valid Unicode"),
    ("extra.x", [{"\ud800": 1}], "valid Unicode"),
    ("extra.x", {"a.b": 1}, "holds a dot"),
    ("extra.x", DEEP, "deeper than 16"),
    ("extra.a b", 1, "the key 'a b'"),
    ("extra.ä", 1, "the key 'ä'"),
    ("extra..x", 1, "the key ''"),
    ("extra." + "x" * 251, 1, "longer than 256 bytes"),
    ("extra." + ".".join("abcdefghijklmnopq"), 1, "deeper than 16"),
    ("", 1, "the path is empty"),
    ("max_token", 1, "nearest: max_tokens"),
    ("maxTokens", 1, "nearest: max_tokens"),
    ("feature.x", True, "unknown path"),
    ("colour", "red", "extra.<key>"),
    ("temperature.x", 1, "set temperature itself"),
    ("\ud800", 1, "unknown path"),
]


@pytest.mark.parametrize(("path", "given", "stored"), ACCEPTED)
def test_a_good_value_gets_its_one_stored_form(path, given, stored):
    result = validate_values({path: given})[path]
    if stored is not None:
        assert result == stored
        assert type(result) is type(stored)


@pytest.mark.parametrize(("path", "given", "said"), REFUSED)
def test_a_bad_value_is_refused_with_its_path(path, given, said):
    with pytest.raises(InvalidArgument) as caught:
        validate_values({path: given})
    (violation,) = caught.value.violations
    assert said in violation.description
    assert violation.field.startswith("set.")
    violation.field.encode()
    if path.isascii() and len(path) < 64:
        assert violation.field == f"set.{path}"


def test_every_violation_is_reported_at_once():
    with pytest.raises(InvalidArgument) as caught:
        validate_values({"temperature": 9, "max_token": 1, "extra": {"a": None, "b c": 1}})
    assert [v.field for v in caught.value.violations] == [
        "set.temperature",
        "set.max_token",
        "set.extra.a",
        "set.extra.b c",
    ]


def test_a_flood_of_violations_is_summed_up():
    with pytest.raises(InvalidArgument) as caught:
        validate_values({"extra": {f"k{i}": None for i in range(5000)}})
    assert len(caught.value.violations) == 101
    assert "4,900 more" in caught.value.violations[-1].description


def test_a_setting_may_have_no_bounds():
    open_rule = FieldRule(path="n", type=ValueType.NUMBER, default=0.0)
    positive = FieldRule(path="p", type=ValueType.INTEGER, default=1, above=0)
    schema = ConfigSchema(fields={"n": open_rule, "p": positive})
    assert validate_values({"n": -1e9, "p": 10**9}, schema=schema) == {"n": -1e9, "p": 10**9}
    with pytest.raises(InvalidArgument, match=r"must be more than 0, not 0$"):
        validate_values({"p": 0}, schema=schema)


def test_objects_become_leaves():
    given: dict[str, Json] = {
        "features": {"a": True},
        "extra.team": {"color": "red", "size": {"max": 3.0}},
    }
    assert validate_values(given) == {
        "features.a": True,
        "extra.team.color": "red",
        "extra.team.size.max": 3,
    }


def test_a_path_and_its_parent_in_one_change_are_refused():
    with pytest.raises(InvalidArgument, match="together with its parent extra"):
        validate_values({"extra": {"a": {"b": 1}}, "extra.a.b": 2})


def test_an_emergency_layer_switches_features_off_only():
    assert validate_values({"features.x": False}, kind=LayerKind.EMERGENCY)
    with pytest.raises(InvalidArgument, match="only switch features off"):
        validate_values({"features.x": True}, kind=LayerKind.EMERGENCY)


def test_values_beyond_the_layer_limit_are_refused():
    with pytest.raises(LimitExceeded, match="262144"):
        validate_values({"extra.blob": "x" * (256 * 1024)})
    small = ConfigSchema(limits=ConfigLimits(layer_bytes=20))
    with pytest.raises(LimitExceeded, match="20"):
        validate_values({"extra.blob": "0123456789"}, schema=small)


class _TeamMustBeText:
    def violations(self, extra, *, sparse):
        if "team" not in extra:
            return [] if sparse else [("", "team is required")]
        return [] if isinstance(extra["team"], str) else [("team", "must be a string")]


def test_the_namespace_checks_its_own_keys():
    schema = BASE_SCHEMA.with_extra(_TeamMustBeText())
    assert validate_values({"extra.team": "red"}, schema=schema) == {"extra.team": "red"}
    assert validate_values({"max_tokens": 5}, schema=schema) == {"max_tokens": 5}
    with pytest.raises(InvalidArgument) as caught:
        validate_values({"extra.team": {"color": "red"}}, schema=schema)
    assert caught.value.violations[0].field == "set.extra.team"
