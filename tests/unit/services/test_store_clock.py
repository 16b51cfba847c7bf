"""What this process believes about the store's clock."""

import time

from controlplane.services.store_clock import SAMPLE_LIFETIME_SECONDS, StoreClock


def test_before_the_first_answer_the_hosts_clock_counts():
    assert abs(StoreClock().store_ms() - time.time() * 1000) < 1000


def test_the_quickest_answer_counts_until_it_is_old():
    clock = StoreClock()
    now = clock.monotonic()

    def offset() -> float:
        return clock.store_ms() - clock.monotonic() * 1000

    clock.learn(5_000_000, asked_at=now, answered_at=now + 0.002)
    assert abs(offset() - (5_000_000 - now * 1000 - 1)) < 5
    clock.learn(9_000_000, asked_at=now, answered_at=now + 0.5)
    assert abs(offset() - (5_000_000 - now * 1000 - 1)) < 5
    late = now + SAMPLE_LIFETIME_SECONDS + 1
    clock.learn(9_000_000, asked_at=late, answered_at=late + 0.5)
    assert abs(offset() - (9_000_000 - late * 1000 - 250)) < 5


async def test_sleeping_takes_time():
    clock = StoreClock()
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() > before
