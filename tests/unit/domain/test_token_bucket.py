"""Buckets: the bound on what is granted, the wait that is announced, what forgetting changes."""

import gc
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.token_bucket import (
    BURST_SECONDS,
    TOLERANCE_SECONDS,
    TokenBucket,
    TokenBuckets,
)

RATES = st.floats(min_value=0.5, max_value=10_000)
PAUSES = st.floats(min_value=0, max_value=30)
AMOUNTS = st.integers(min_value=1, max_value=2_000)
START = 1_000_000.0  # a host that has been up for days: what floats lose there must not matter


class Reference:
    """A bucket as one would describe it: tokens in it, refilled as time passes."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.tokens = rate * BURST_SECONDS
        self.at = START

    def spend(self, amount: float, now: float) -> bool:
        full = self.rate * BURST_SECONDS
        self.tokens = min(full, self.tokens + (now - self.at) * self.rate)
        self.at = now
        slack = self.rate * TOLERANCE_SECONDS * 2
        if self.tokens + slack < min(amount, full):
            return False
        self.tokens -= amount
        return True


def test_ten_seconds_worth_is_there_at_once_and_then_as_much_as_is_refilled():
    bucket = TokenBucket()
    assert [bucket.spend(1, 5, START) for _ in range(50)] == [0.0] * 50
    assert bucket.spend(1, 5, START) == pytest.approx(0.2)
    assert bucket.spend(1, 5, START + 0.2) == 0.0
    assert bucket.spend(1, 5, START + 0.2) == pytest.approx(0.2)


def test_a_rate_that_changes_counts_from_the_next_look():
    bucket = TokenBucket()
    assert bucket.spend(10, 1, START) == 0.0
    assert bucket.spend(1, 1, START) == pytest.approx(1.0)
    assert bucket.spend(1, 100, START) == pytest.approx(0.01)


@given(RATES, st.lists(st.tuples(PAUSES, AMOUNTS), max_size=60))
def test_no_interval_grants_more_than_a_burst_and_what_is_refilled(rate, steps):
    bucket, now = TokenBucket(), START
    granted: list[tuple[float, int]] = []
    for pause, amount in steps:
        now += pause
        if bucket.spend(amount, rate, now) == 0.0:
            granted.append((now, amount))
    largest = max((amount for _, amount in granted), default=0)
    bound = max(rate * BURST_SECONDS, largest)
    for first, (begin, _) in enumerate(granted):
        total = 0
        for end, amount in granted[first:]:
            total += amount
            assert total <= bound + (end - begin) * rate + largest * 1e-6 + rate * 1e-5


@given(RATES, st.lists(st.tuples(PAUSES, AMOUNTS), max_size=60))
def test_it_decides_as_a_bucket_of_tokens_would(rate, steps):
    bucket, reference, now = TokenBucket(), Reference(rate), START
    for pause, amount in steps:
        now += pause
        got = bucket.spend(amount, rate, now)
        expected = reference.spend(amount, now)
        if (got == 0.0) != expected:  # within what both round away
            assert got <= 1e-4
            return


@given(RATES, st.lists(st.tuples(PAUSES, AMOUNTS), min_size=1, max_size=60))
def test_who_waits_as_long_as_it_is_told_is_granted_and_not_much_earlier(rate, steps):
    bucket, now = TokenBucket(), START
    for pause, amount in steps:
        now += pause
        wait = bucket.spend(amount, rate, now)
        assert wait >= 0.0
        if wait > 2e-3:
            assert bucket.spend(amount, rate, now + wait - 1e-3) > 0.0
        if wait:
            now += wait
            assert bucket.spend(amount, rate, now) == 0.0


@given(RATES, AMOUNTS, st.integers(min_value=1, max_value=100))
def test_a_refusal_takes_nothing(rate, amount, refusals):
    bucket = TokenBucket()
    while bucket.spend(amount, rate, START) == 0.0:
        pass
    waits = {bucket.spend(amount, rate, START) for _ in range(refusals)}
    assert len(waits) == 1


@given(RATES, st.lists(st.tuples(PAUSES, AMOUNTS), max_size=40), PAUSES)
def test_a_full_bucket_cannot_be_told_from_a_new_one(rate, steps, pause):
    bucket, now = TokenBucket(), START
    for step, amount in steps:
        now += step
        bucket.spend(amount, rate, now)
    now += pause
    fresh = TokenBucket()
    if bucket.is_full(now):
        for _ in range(30):
            assert bucket.spend(7, rate, now) == fresh.spend(7, rate, now)


KEYS = st.sampled_from([f"key-{number}" for number in range(12)])


@given(
    st.integers(min_value=1, max_value=6),
    st.lists(st.tuples(KEYS, st.floats(min_value=0, max_value=4), AMOUNTS), max_size=150),
)
def test_a_small_table_never_grants_a_known_key_more_than_a_table_that_forgets_nobody(
    capacity, steps
):
    rate, now = 20.0, START
    table = TokenBuckets(capacity, strangers=2)
    own: dict[str, TokenBucket] = {}
    shared = [TokenBucket(), TokenBucket()]
    for key, pause, amount in steps:
        now += pause
        was_known = key in table._buckets
        got = table.spend(key, amount, rate, now)
        assert len(table) <= capacity
        if key in table._buckets:
            expected = own.setdefault(key, TokenBucket()).spend(amount, rate, now)
            assert got == expected
        else:
            assert not was_known
            assert got == shared[hash(key) % 2].spend(amount, rate, now)


def test_a_flood_of_new_keys_neither_refills_a_busy_one_nor_gets_more_than_the_shared_buckets():
    rate, capacity, strangers = 10.0, 100, 4
    table = TokenBuckets(capacity, strangers=strangers)
    busy = [f"busy-{number}" for number in range(capacity)]
    for key in busy:
        while table.spend(key, 1, rate, START) == 0.0:
            pass
    granted = sum(table.spend(f"new-{n}", 1, rate, START + 1) == 0.0 for n in range(20_000))
    assert granted == strangers * rate * BURST_SECONDS
    assert all(table.spend(key, 11, rate, START + 1) > 0.0 for key in busy)
    assert all(table.spend(key, 10, rate, START + 1) == 0.0 for key in busy)


def test_a_newcomer_has_a_bucket_of_its_own_once_somebody_is_quiet():
    table = TokenBuckets(2, strangers=1)
    assert table.spend("a", 100, 10, START) == 0.0
    assert table.spend("b", 1, 10, START) == 0.0
    assert table.spend("c", 100, 10, START + 1) == 0.0
    assert table.spend("d", 1, 10, START + 1) > 0.0, "c took what newcomers share"
    assert table.spend("d", 1, 10, START + BURST_SECONDS) == 0.0
    assert len(table) == 2


def test_memory_is_that_of_the_capacity_however_many_keys_come():
    table = TokenBuckets(1_000)
    for number in range(2_000):
        table.spend(f"warm-{number}", 1, 2000, START + number)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(50_000):
            table.spend(f"flood-{number:06}", 1, 2000, START + 2_000 + number * 1e-6)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(table) == 1_000
    assert grown < 400_000, "a thousand keys, whose warm predecessors were not traced"


def test_moments_far_from_zero_lose_nothing_that_matters():
    bucket, now, rate = TokenBucket(), 10_000_000.0, 1_000_000.0  # up for four months
    assert bucket.spend(rate * BURST_SECONDS, rate, now) == 0.0
    wait = bucket.spend(1, rate, now)
    assert math.isclose(wait, 1e-6, abs_tol=TOLERANCE_SECONDS * 3) or wait == 0.0
    assert bucket.spend(10_000, rate, now) == pytest.approx(0.01, rel=1e-3)
