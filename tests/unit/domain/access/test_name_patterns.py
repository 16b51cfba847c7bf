"""Names in credentials, and the patterns that mean them."""

import re
import time

import pytest

from controlplane.domain.access.name_patterns import (
    check_agent_name,
    check_name_pattern,
    matches_name,
)
from controlplane.domain.errors import InvalidArgument

BAD = {
    "blank": " ",
    "a slash": "a/b",
    "a NUL": "a\0b",
    "bidi": "a\u202eb",
    "a newline behind": "a\n",
    "umlauts": "b\u00fccher",
    "a leading dot": ".a",
    "a leading minus": "-a",
    "too long": "a" * 257,
    "braces": "{agent_name}",
    "a percent sign": "a%2fb",
    "a question mark": "a?",
    "a class": "[ab]",
    "a lone surrogate": "a\ud800",
}


@pytest.mark.parametrize("name", [*BAD.values(), "", "a*"], ids=[*BAD, "empty", "a wildcard"])
def test_a_name_that_no_agent_can_register_with_is_refused(name):
    with pytest.raises(InvalidArgument) as refused:
        check_agent_name(name)
    assert refused.value.metadata["field"] == "agent_name"


@pytest.mark.parametrize("pattern", BAD.values(), ids=BAD)
def test_a_pattern_that_no_name_can_match_is_refused(pattern):
    with pytest.raises(InvalidArgument) as refused:
        check_name_pattern(pattern)
    assert refused.value.metadata["field"] == "agent_name_pattern"


def test_an_empty_pattern_means_every_name():
    assert check_name_pattern("") == "*"
    assert check_name_pattern("team-*.v1_x") == "team-*.v1_x"


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("researcher", "researcher", True),
        ("researcher", "Researcher", False),
        ("researcher", "researcher2", False),
        ("*", "anything", True),
        ("team-*", "team-a", True),
        ("team-*", "team-", True),
        ("team-*", "team", False),
        ("team-*", "Team-a", False),
        ("*-bot", "a-bot", True),
        ("*-bot", "bot", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "abbc", True),
        ("a*b*c", "acb", False),
        ("a**b", "ab", True),
        ("a.c", "abc", False),
        ("*x*y*", "yx", False),
        ("*x*y*", "-x-y-", True),
        ("ab*bc", "abc", False),
        ("*aa*aa*", "aaa", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(pattern, name, expected):
    assert matches_name(pattern, name) is expected
    twin = ".*".join(map(re.escape, pattern.split("*")))
    assert (re.fullmatch(twin, name) is not None) is expected


def test_no_pattern_is_slow():
    pattern, name = "*a" * 128 + "b", "a" * 256
    begun = time.perf_counter()
    assert not matches_name(check_name_pattern(pattern[:256]), name + "c")
    assert not matches_name("*a" * 120 + "*b", name)
    assert time.perf_counter() - begun < 0.1  # backtracking would take longer than the universe
