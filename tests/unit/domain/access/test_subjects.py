"""Whom the patterns of bindings mean, and that no pattern takes long to say so."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.access.subjects import MAX_SUBJECT_BYTES, check_subject, matches

HOME = "spiffe://d.example/ns/acme/agent/"


def as_expression(pattern):
    """Say in a regular expression what a pattern means."""
    rest = pattern.removesuffix("/**")
    parts = (re.escape(part) for part in rest.split("*"))
    return "[^/]*".join(parts) + ("/.+" if rest != pattern else "")


@pytest.mark.parametrize(
    ("pattern", "subject", "meant"),
    [
        (HOME + "*", HOME + "writer", True),
        (HOME + "w*r", HOME + "writer", True),
        (HOME + "w*x", HOME + "writer", False),
        (HOME + "*", HOME + "writer/more", False),
        ("spiffe://d.example/ns/*/agent/writer", HOME + "writer", True),
        ("spiffe://d.example/ns/**", HOME + "writer", True),
        ("spiffe://d.example/**", "spiffe://d.example/a", True),
        ("spiffe://d.example/ns/**", "spiffe://d.example/ns", False),
        ("spiffe://d.example/ns/**", "spiffe://d.example/nsx/a", False),
        ("spiffe://d.example/**", "spiffe://d.example.evil/a", False),
        ("spiffe://d.example/**", "spiffe://other/a", False),
        ("spiffe://d.example/**", "user:spiffe://d.example/a", False),
    ],
)
def test_a_pattern_means_whole_segments_of_its_own_trust_domain(pattern, subject, meant):
    assert matches(check_subject(pattern), subject) is meant


SEGMENTS = st.lists(st.text("ab*", min_size=1, max_size=5), min_size=1, max_size=4)
NAMES = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=5)


@given(segments=SEGMENTS, names=NAMES, open_ended=st.booleans())
def test_a_pattern_means_what_its_regular_expression_would(segments, names, open_ended):
    pattern = "/".join(("spiffe://d", *segments)) + ("/**" if open_ended else "")
    subject = "/".join(("spiffe://d", *names))
    expected = re.fullmatch(as_expression(pattern), subject) is not None
    assert matches(pattern, subject) is expected


def test_no_pattern_takes_long_to_judge():
    # As a regular expression this one takes longer than the universe has been there.
    hostile = HOME + "*a" * 150 + "b"
    longest = HOME + "a" * 256
    assert len(check_subject(hostile)) <= MAX_SUBJECT_BYTES
    begun = time.perf_counter()
    assert not matches(hostile, longest)
    assert time.perf_counter() - begun < 0.1  # the difference is not one of machines
