"""The budget of one heartbeat stream."""

import pytest

from controlplane.api.limits.beat_budget import BeatBudget
from controlplane.domain.access.refusals import RateLimited
from tests.fakes.clock import FakeClock


def budget(clock: FakeClock, rate: float = 10) -> BeatBudget:
    return BeatBudget(clock, beats_per_second=rate, draw=lambda: 0.0)


def test_beats_at_the_agreed_rate_are_never_refused():
    clock = FakeClock()
    mine = budget(clock)
    for _ in range(1_000):
        mine.spend(10)
        clock.shift(1)


def test_ten_seconds_worth_may_come_at_once_and_what_is_beyond_is_refused():
    clock = FakeClock()
    mine = budget(clock)
    mine.spend(100)
    with pytest.raises(RateLimited) as refused:
        mine.spend(5)
    assert refused.value.metadata == {"limit": "10", "per": "stream"}
    assert refused.value.retry_after_seconds == pytest.approx(0.5)
    clock.shift(0.5)
    mine.spend(5)


def test_messages_without_beats_are_not_free():
    mine = budget(FakeClock())
    for _ in range(100):
        mine.spend(0)
    with pytest.raises(RateLimited):
        mine.spend(0)


def test_a_message_larger_than_the_bucket_is_accepted_now_and_then():
    clock = FakeClock()
    mine = budget(clock, rate=1)
    mine.spend(1_000)
    with pytest.raises(RateLimited) as refused:
        mine.spend(1_000)
    assert refused.value.retry_after_seconds == pytest.approx(1_000)
    clock.shift(1_000)
    mine.spend(1_000)


def test_streams_do_not_pay_for_each_other_and_refusals_are_told():
    clock, refusals = FakeClock(), []
    one = BeatBudget(clock, beats_per_second=1, refused=lambda: refusals.append("one"))
    other = BeatBudget(clock, beats_per_second=1)
    one.spend(10)
    with pytest.raises(RateLimited):
        one.spend(1)
    other.spend(10)
    assert refusals == ["one"]


def test_without_a_rate_nothing_is_refused():
    BeatBudget(FakeClock()).spend(10**9)
