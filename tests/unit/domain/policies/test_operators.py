"""Every operator: what it holds for, what it does not, and what is an error."""

from datetime import UTC, datetime
from typing import Any

import pytest

from fleetplane_policy import Attribute, AttributeType, MalformedInput, Source
from fleetplane_policy.attributes import DEFAULT_SCHEMA
from fleetplane_policy.operators import OPERATORS, build_test
from fleetplane_policy.truth import ERROR, FALSE, TRUE

SCHEMA = DEFAULT_SCHEMA.extended(
    [
        Attribute(name="money", type=AttributeType.DECIMAL, source=Source.CLAIM),
        Attribute(name="count", type=AttributeType.NUMBER, source=Source.CLAIM),
        Attribute(name="prices", type=AttributeType.LIST, element=AttributeType.DECIMAL),
        Attribute(name="file", type=AttributeType.STRING, delimiters="/"),
    ]
)
NAN, INF = float("nan"), float("inf")


def judge(attribute: str, operator: str, value: Any, observed: Any) -> int:
    resolved = SCHEMA.resolve(tuple(attribute.split(".")))
    return build_test(resolved, operator, value)(observed)


TABLE = [
    # attribute, operator, value, observed, expected
    ("claim.x", "eq", 1, 1.0, TRUE),
    ("claim.x", "eq", 1.0, 1, TRUE),
    ("claim.x", "eq", 1, True, ERROR),
    ("claim.x", "eq", 0, False, ERROR),
    ("claim.x", "eq", True, 1, ERROR),
    ("claim.x", "eq", True, True, TRUE),
    ("claim.x", "eq", True, False, FALSE),
    ("claim.x", "eq", 1, "1", ERROR),
    ("claim.x", "eq", "1", 1, ERROR),
    ("claim.x", "eq", "a", "A", FALSE),
    ("claim.x", "eq", "a", None, ERROR),
    ("claim.x", "eq", None, None, TRUE),
    ("claim.x", "eq", None, 0, FALSE),
    ("claim.x", "eq", "a", ["a"], ERROR),
    ("claim.x", "eq", 1, NAN, ERROR),
    ("claim.x", "eq", 10**23, 1e23, FALSE),
    ("claim.x", "eq", 2**53 + 1, float(2**53), FALSE),
    ("claim.x", "ne", 1, 1.0, FALSE),
    ("claim.x", "ne", 1, 2, TRUE),
    ("claim.x", "ne", 1, "1", ERROR),
    ("claim.x", "in", [1, "a", None, True], True, TRUE),
    ("claim.x", "in", [1, "a"], True, ERROR),
    ("claim.x", "in", [1, "a"], 1.0, TRUE),
    ("claim.x", "in", [1, "a"], "b", FALSE),
    ("claim.x", "in", ["a"], 1, ERROR),
    ("claim.x", "in", ["a"], None, ERROR),
    ("claim.x", "in", ["a"], {"a": 1}, ERROR),
    ("claim.x", "in", ["a"], ["b", "a"], TRUE),
    ("claim.x", "in", ["a"], ["b"], FALSE),
    ("claim.x", "in", ["a"], [], FALSE),
    ("claim.x", "in", ["a"], ["b", 1], ERROR),
    ("claim.x", "in", ["a"], [1, "a"], TRUE),
    ("claim.x", "not_in", ["a"], ["b"], TRUE),
    ("claim.x", "not_in", ["a"], ["a", "b"], FALSE),
    ("claim.x", "not_in", ["a"], 1, ERROR),
    ("claim.x", "in", ["production"], "prod", FALSE),
    ("labels", "in", ["a"], "a", ERROR),
    ("claim.x", "gt", 1.0, 1.0, FALSE),
    ("claim.x", "gt", 1, 1.0000001, TRUE),
    ("claim.x", "gt", 1, "2", ERROR),
    ("claim.x", "gt", 1, True, ERROR),
    ("claim.x", "gt", 1, NAN, ERROR),
    ("claim.x", "gt", 1, INF, ERROR),
    ("claim.x", "gt", 1, None, ERROR),
    ("claim.x", "gte", 1, 1.0, TRUE),
    ("claim.x", "lt", 1, 1, FALSE),
    ("claim.x", "lt", 1, -INF, ERROR),
    ("claim.x", "lte", 1, 1, TRUE),
    ("claim.x", "gt", 2**53, 2**53 + 1, TRUE),
    ("claim.x", "between", [1, 2], 1, TRUE),
    ("claim.x", "between", [1, 2], 2.0, TRUE),
    ("claim.x", "between", [1, 2], 2.1, FALSE),
    ("claim.x", "between", [1, 2], 0, FALSE),
    ("claim.x", "between", [1, 2], "1", ERROR),
    ("money", "eq", 0.1, "0.10", TRUE),
    ("money", "eq", "0.1", 0.1, TRUE),
    ("money", "gte", 0.1, "0.1", TRUE),
    ("money", "gt", 0.1, "0.1", FALSE),
    ("money", "gt", "0.1", "0.11", TRUE),
    ("money", "gt", 1, 1.5, TRUE),
    ("money", "gt", 1.0, 2, TRUE),
    ("money", "gt", 1.0, True, ERROR),
    ("money", "gt", 1.0, NAN, ERROR),
    ("money", "gt", 1.0, "NaN", ERROR),
    ("money", "gt", 1.0, "Infinity", ERROR),
    ("money", "gt", 1.0, "1_0", ERROR),
    ("money", "gt", 1.0, "9" * 65, ERROR),
    ("money", "gt", 1.0, "x", ERROR),
    ("money", "in", ["0.1", None], 0.1, TRUE),
    ("money", "in", ["0.1", None], None, TRUE),
    ("money", "in", ["0.1"], None, ERROR),
    ("money", "in", ["0.1"], 2, FALSE),
    ("money", "in", ["0.1"], "x", ERROR),
    ("count", "gt", 1, "2", ERROR),
    ("labels", "contains", "a", ["b", "a"], TRUE),
    ("labels", "contains", "a", ["b"], FALSE),
    ("labels", "contains", "a", "a", ERROR),
    ("claim.x", "contains", 1, [True], ERROR),
    ("claim.x", "contains", 1, [True, 1], TRUE),
    ("labels", "contains_any", ["a", "c"], ["b", "c"], TRUE),
    ("labels", "contains_any", ["a"], ["b"], FALSE),
    ("labels", "contains_any", ["a"], None, ERROR),
    ("labels", "contains_all", ["a", "b"], ["b", "a", "c"], TRUE),
    ("labels", "contains_all", ["a", "b"], ["b"], FALSE),
    ("labels", "contains_all", ["a"], ["b", 1], ERROR),
    ("prices", "contains", 0.1, ["0.10"], TRUE),
    ("labels", "size_eq", 0, [], TRUE),
    ("labels", "size_ne", 0, [], FALSE),
    ("labels", "size_gt", 1, ["a", "b"], TRUE),
    ("labels", "size_gte", 2, ["a", "b"], TRUE),
    ("labels", "size_lt", 2, ["a", "b"], FALSE),
    ("labels", "size_lte", 2, ["a", "b"], TRUE),
    ("claim.x", "size_eq", 2, "ab", ERROR),
    ("resource", "prefix", "a/", "a/b", TRUE),
    ("resource", "prefix", "a/", "b/a/", FALSE),
    ("resource", "prefix", ["a", "b"], "bc", TRUE),
    ("resource", "prefix", "a", 1, ERROR),
    ("resource", "suffix", ".sql", "x.sql", TRUE),
    ("resource", "substr", ["b", "z"], "abc", TRUE),
    ("resource", "substr", "z", "abc", FALSE),
    ("resource", "ieq", "straße", "STRASSE", TRUE),
    ("resource", "ieq", "a", "b", FALSE),
    ("resource", "glob", "view:*", "view:public", TRUE),
    ("resource", "glob", "view:*", "view", FALSE),
    ("resource", "glob", "view:*", "view:a:b", FALSE),
    ("resource", "glob", "view:**", "view:a:b", TRUE),
    ("resource", "glob", "*:write", "db:write", TRUE),
    ("resource", "glob", "*:write", "db:a:write", FALSE),
    ("resource", "glob", "**:write", "db:a:write", TRUE),
    ("resource", "glob", "a*c.d", "abbc.d", TRUE),
    ("resource", "glob", "a+b", "aab", FALSE),
    ("resource", "glob", "a?b", "axb", FALSE),
    ("resource", "glob", "exact", "exact", TRUE),
    ("resource", "glob", ["x", "y*"], "yes", TRUE),
    ("resource", "glob", "**:x", "a\nb:x", TRUE),
    ("file", "glob", "src/*", "src/a.b:c", TRUE),
    ("file", "glob", "src/*", "src/a/b", FALSE),
    ("domain", "host", "*.example.com", "a.example.com", TRUE),
    ("domain", "host", "*.example.com", "a.b.example.com", TRUE),
    ("domain", "host", "*.example.com", "example.com", FALSE),
    ("domain", "host", "*.example.com", "evilexample.com", FALSE),
    ("domain", "host", "example.com", "EXAMPLE.com.", TRUE),
    ("domain", "host", "bücher.example", "xn--bcher-kva.example", TRUE),
    ("domain", "host", "xn--bcher-kva.example", "BÜCHER.example", TRUE),
    ("domain", "host", "example.com", "example.com:443", ERROR),
    ("domain", "host", "example.com", "", ERROR),
    ("domain", "host", "example.com", "a..b", ERROR),
    ("domain", "host", "example.com", "é" * 300, ERROR),
    ("domain", "host", "example.com", "a." * 200 + "b", ERROR),
    ("domain", "host", "example.com", 7, ERROR),
    ("resource", "regex", "a+", "aaa", TRUE),
    ("resource", "regex", "a+", "aaab", FALSE),
    ("resource", "regex", "(a|b)*c", "ababc", TRUE),
    ("resource", "regex", "a", 1, ERROR),
    ("ip_address", "cidr", "10.0.0.0/8", "10.255.0.1", TRUE),
    ("ip_address", "cidr", ["192.168.0.0/16", "fd00::/8"], "fd00::1", TRUE),
    ("ip_address", "cidr", "10.0.0.0/8", "::ffff:10.0.0.1", TRUE),
    ("ip_address", "cidr", "10.0.0.0/8", "11.0.0.1", FALSE),
    ("ip_address", "cidr", "10.0.0.0/8", "fd00::1", FALSE),
    ("ip_address", "cidr", "10.0.0.0/8", 167772161, ERROR),
    ("ip_address", "cidr", "10.0.0.0/8", "010.0.0.1", ERROR),
    ("agent_version", "semver", ">=1.2.0 <2.0.0", "1.10.0", TRUE),
    ("agent_version", "semver", ">=1.2.0 <2.0.0", "2.0.0", FALSE),
    ("agent_version", "semver", ">=1.2.0", "1.2.0-rc.1", FALSE),
    ("agent_version", "semver", "1.2.0", "1.2.0+build.7", TRUE),
    ("agent_version", "semver", "!=1.2.0", "1.2.1", TRUE),
    ("agent_version", "semver", "<=1.0.0", "v1", ERROR),
    ("agent_version", "semver", ">1.0.0", 1, ERROR),
    ("claim.x", "exists", True, None, TRUE),
    ("claim.x", "exists", False, "x", FALSE),
    ("claim.x", "is_null", True, None, TRUE),
    ("claim.x", "is_null", True, 0, FALSE),
    ("claim.x", "is_null", False, 0, TRUE),
]


@pytest.mark.parametrize(("attribute", "operator", "value", "observed", "expected"), TABLE)
def test_the_operator_judges(
    attribute: str, operator: str, value: Any, observed: Any, expected: int
) -> None:
    assert judge(attribute, operator, value, observed) == expected


def test_every_operator_is_in_the_table() -> None:
    assert {row[1] for row in TABLE} | {"time_window"} == set(OPERATORS)


REFUSED = [
    ("claim.x", "eq", [1], "must be a string"),
    ("claim.x", "eq", NAN, "finite"),
    ("environment", "eq", 1, "could never match"),
    ("environment", "in", ["a", 1], "could never match"),
    ("claim.x", "in", [], "empty list"),
    ("claim.x", "in", "a", "must be a list"),
    ("claim.x", "in", ["a"] * 1001, "more than 1000"),
    ("claim.x", "gt", "1", "finite number"),
    ("claim.x", "gt", True, "finite number"),
    ("money", "gt", "x", "finite number"),
    ("money", "eq", "x", "could never match"),
    ("environment", "gt", 1, "does not apply"),
    ("claim.x", "between", [2, 1], "can never match"),
    ("claim.x", "between", [1], "[low, high]"),
    ("environment", "contains", "a", "use substr"),
    ("labels", "eq", "a", "use contains"),
    ("labels", "ne", "a", "not of contains"),
    ("agent_tags", "eq", "a", "name a field"),
    ("labels", "contains_all", [], "empty list"),
    ("labels", "size_eq", -1, "whole number"),
    ("labels", "size_eq", 1.0, "whole number"),
    ("labels", "size_eq", True, "whole number"),
    ("resource", "prefix", "", "non-empty"),
    ("resource", "prefix", [], "empty list"),
    ("resource", "substr", ["a"] * 1001, "more than 1000"),
    ("resource", "glob", "***", "asterisks"),
    ("resource", "glob", "a" * 513, "longer than 512"),
    ("resource", "regex", "(a", "RE2"),
    ("resource", "regex", "(?=a)", "RE2"),
    ("resource", "regex", "a" * 513, "longer than 512"),
    ("resource", "regex", 1, "string"),
    ("domain", "host", "a b", "host name"),
    ("domain", "host", "*", "host name"),
    ("ip_address", "cidr", "10.0.0.1/8", "network"),
    ("ip_address", "cidr", 10, "network"),
    ("agent_version", "semver", ">=1", "comparator"),
    ("agent_version", "semver", " ", "comparators"),
    ("claim.x", "exists", 1, "true or false"),
    ("now", "eq", 1, "does not apply"),
    ("environment", "time_window", {"start": "01:00", "end": "02:00"}, "does not apply"),
    ("claim.x", "time_window", {"start": "01:00", "end": "02:00"}, "does not apply"),
    ("claim.x", "equals", 1, "unknown operator"),
    ("claim.x", "contain", 1, "did you mean contains"),
]


@pytest.mark.parametrize(("attribute", "operator", "value", "why"), REFUSED)
def test_a_malformed_comparison_is_refused(
    attribute: str, operator: str, value: Any, why: str
) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)) as refused:
        judge(attribute, operator, value, None)
    assert why in str(refused.value.args[0])


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


BERLIN = {"tz": "Europe/Berlin", "days": ["mon"], "start": "22:00", "end": "06:00"}


@pytest.mark.parametrize(
    ("window", "now", "expected"),
    [
        ({"start": "09:00", "end": "17:00"}, "2026-01-05T09:00", TRUE),
        ({"start": "09:00", "end": "17:00"}, "2026-01-05T08:59", FALSE),
        ({"start": "09:00", "end": "17:00"}, "2026-01-05T17:00", FALSE),
        ({"start": "09:00", "end": "17:00", "days": ["tue"]}, "2026-01-05T12:00", FALSE),
        ({"start": "00:00", "end": "24:00"}, "2026-01-05T23:59", TRUE),
        (BERLIN, "2026-01-05T21:00", TRUE),  # Monday 22:00 local
        (BERLIN, "2026-01-05T20:59", FALSE),
        (BERLIN, "2026-01-06T04:59", TRUE),  # Tuesday morning belongs to Monday
        (BERLIN, "2026-01-06T05:00", FALSE),
        (BERLIN, "2026-01-05T03:00", FALSE),  # Monday morning belongs to Sunday
        (BERLIN, "2026-07-06T20:00", TRUE),  # summer time: 22:00 local is 20:00 UTC
        (BERLIN, "2026-07-06T19:59", FALSE),
    ],
)
def test_time_windows_follow_the_local_clock(
    window: dict[str, Any], now: str, expected: int
) -> None:
    assert judge("now", "time_window", window, at(now)) == expected


@pytest.mark.parametrize(
    "window",
    [
        "always",
        {"start": "09:00"},
        {"start": "09:00", "end": "09:00"},
        {"start": "24:00", "end": "09:00"},
        {"start": "9", "end": "10:00"},
        {"start": "09:60", "end": "10:00"},
        {"start": "09:00", "end": "24:01"},
        {"start": "09:00", "end": "10:00", "days": []},
        {"start": "09:00", "end": "10:00", "days": ["monday"]},
        {"start": "09:00", "end": "10:00", "tz": "Berlin/Mitte"},
        {"start": "09:00", "end": "10:00", "tz": "../etc/passwd"},
        {"start": "09:00", "end": "10:00", "tz": 1},
        {"start": "09:00", "end": "10:00", "zone": "UTC"},
        {"start": 9, "end": "10:00"},
    ],
)
def test_a_malformed_time_window_is_refused(window: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        judge("now", "time_window", window, 0)


def test_a_fact_cannot_be_redeclared_as_something_a_caller_may_claim() -> None:
    with pytest.raises(MalformedInput, match="agent_tags"):
        DEFAULT_SCHEMA.extended([Attribute(name="agent_tags", type=AttributeType.MAP)])
