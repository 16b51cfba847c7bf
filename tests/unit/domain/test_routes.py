"""The session hash, shares, and what is wrong with them."""

from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.route_rules import (
    MAX_SHARES,
    heaviest,
    nth_bucket,
    share_at,
    validate_shares,
    weight_of,
    whole_share,
)
from controlplane.domain.routes import WHOLE_BP, Route, Share, bucket, pin_key


def shares_of(*weights):
    return tuple(
        Share(agent_id=f"agt-{n}", version=f"{n}.0.0", weight_bp=weight)
        for n, weight in enumerate(weights)
    )


@st.composite
def weights(draw):
    """Return 1-16 weights that sum to 10,000."""
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE_BP), max_size=MAX_SHARES - 1)))
    return [after - before for before, after in pairwise([0, *cuts, WHOLE_BP])]


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        ("exp:greeting:1", "session-1", 905),
        ("exp:greeting:1", "session-2", 3811),
        ("exp:greeting:1", "ünïcode-✓", 3389),
        ("rollout:agent-a:7", "session-1", 2730),
        ("", "session-1", 5508),
        ("exp:greeting:1", "", 8346),
    ],
)
def test_the_bucket_is_the_same_in_every_language(salt, unit, expected):
    assert bucket(salt, unit) == expected


@given(st.text(), st.text())
def test_every_unit_has_a_bucket(salt, unit):
    assert 0 <= bucket(salt, unit) < WHOLE_BP


@given(weights())
def test_every_share_gets_as_many_buckets_as_its_weight(dealt):
    shares = shares_of(*dealt)

    counts = dict.fromkeys((share.agent_id for share in shares), 0)
    for number in range(WHOLE_BP):
        counts[share_at(shares, number).agent_id] += 1

    assert list(counts.values()) == dealt


def test_a_bucket_behind_the_last_share_is_an_error():
    with pytest.raises(ValueError, match="sum to 9000"):
        share_at(shares_of(4000, 5000), 9500)


@given(st.integers(0, WHOLE_BP), st.integers(0, WHOLE_BP))
def test_a_growing_first_share_only_adds_sessions(one, other):
    small, large = sorted((one, other))
    before, after = shares_of(small, WHOLE_BP - small), shares_of(large, WHOLE_BP - large)

    for number in range(0, WHOLE_BP, 7):
        if share_at(before, number).agent_id == "agt-0":
            assert share_at(after, number).agent_id == "agt-0"


@pytest.mark.parametrize("weight_bp", [100, 1000, 5000])
def test_the_share_of_many_sessions_is_within_three_sigma(weight_bp):
    shares, sessions, p = shares_of(weight_bp, WHOLE_BP - weight_bp), 100_000, weight_bp / WHOLE_BP

    got = sum(
        share_at(shares, bucket("salt", f"session-{n}")).agent_id == "agt-0"
        for n in range(sessions)
    )

    assert abs(got - sessions * p) <= 3 * sqrt(sessions * p * (1 - p))


@given(st.integers(0, 10**12))
def test_calls_without_a_session_meet_every_bucket_once_in_a_window(start):
    assert {nth_bucket(start + n) for n in range(WHOLE_BP)} == set(range(WHOLE_BP))


@given(st.integers(0, 10**9), st.integers(1, 2000), weights())
def test_a_few_calls_without_a_session_are_nearly_exact(start, calls, dealt):
    shares = shares_of(*dealt)
    counts = dict.fromkeys((share.agent_id for share in shares), 0)
    for n in range(start, start + calls):
        counts[share_at(shares, nth_bucket(n)).agent_id] += 1

    for share in shares:
        due = calls * share.weight_bp / WHOLE_BP
        assert abs(counts[share.agent_id] - due) < 6


def test_the_heaviest_usable_share_is_the_fallback():
    shares = shares_of(1000, 6000, 3000)

    assert heaviest(shares, lambda _: True) == shares[1]
    assert heaviest(shares, lambda agent_id: agent_id != "agt-1") == shares[2]
    assert heaviest(shares, lambda _: False) is None


def test_of_equal_shares_the_last_is_the_fallback():
    shares = shares_of(5000, 5000)

    assert heaviest(shares, lambda _: True) == shares[1]


def test_a_version_with_no_share_is_no_fallback():
    shares = shares_of(0, WHOLE_BP)

    assert heaviest(shares, lambda agent_id: agent_id == "agt-0") is None


def test_one_share_may_be_all_there_is():
    shares = shares_of(0, WHOLE_BP, 0)

    assert whole_share(shares) == shares[1]
    assert whole_share(shares_of(1, WHOLE_BP - 1)) is None


def test_a_version_outside_of_the_route_has_no_weight():
    route = Route(name="a", shares=shares_of(1000, 9000), salt="s")

    assert [weight_of(route, one) for one in ("agt-0", "agt-1", "agt-9")] == [1000, 9000, 0]


@given(weights())
def test_shares_that_sum_to_the_whole_are_valid(dealt):
    validate_shares([(f"{n}.0.0", weight) for n, weight in enumerate(dealt)])


@pytest.mark.parametrize(
    ("shares", "field"),
    [
        ([], "shares"),
        ([(f"{n}.0.0", 0) for n in range(MAX_SHARES)] + [("x", WHOLE_BP)], "shares"),
        ([("", WHOLE_BP)], "shares[0].version"),
        ([("1.0.0", 5000), ("1.0.0", 5000)], "shares[1].version"),
        ([("1.0.0", 10_001)], "shares[0].weight_bp"),
        ([("1.0.0", 11_000), ("2.0.0", -1000)], "shares[1].weight_bp"),
        ([("1.0.0", 5000), ("2.0.0", 4999)], "shares[1].weight_bp"),
    ],
)
def test_wrong_shares_are_named(shares, field):
    with pytest.raises(InvalidArgument) as refused:
        validate_shares(shares)

    assert field in [violation.field for violation in refused.value.violations]


def test_a_pin_belongs_to_one_name_and_session():
    assert pin_key("a", "b/c") != pin_key("b", "c")
