"""The store's clock as this process sees it, learnt from answers that carry the store's time."""

import asyncio
import time
from typing import Final, Protocol

from controlplane.services.ports import Clock

SAMPLE_LIFETIME_SECONDS: Final = 30.0
"""A better sample is trusted this long; clocks drift apart by less than 3 ms in that time."""


class LearningClock(Clock, Protocol):
    """A clock that is told what time it is in the store."""

    def learn(self, store_ms: int, *, asked_at: float, answered_at: float) -> None:
        """Take the store's time out of an answer; both moments are `monotonic` seconds."""


class StoreClock:
    """`ports.Clock`. Until the first answer of the store, `store_ms` is this host's clock."""

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1000 - time.monotonic() * 1000
        self._round_trip = float("inf")
        self._learnt_at = -SAMPLE_LIFETIME_SECONDS

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def store_ms(self) -> int:
        """Return the best estimate of the store's clock; off by half a round trip at most."""
        return int(time.monotonic() * 1000 + self._offset_ms)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def learn(self, store_ms: int, *, asked_at: float, answered_at: float) -> None:
        """Take the store's time out of an answer; both moments are `monotonic` seconds.

        The quickest answer of the last half minute counts: the store read its clock somewhere
        within the round trip, so a short one says most.
        """
        round_trip = answered_at - asked_at
        stale = answered_at - self._learnt_at >= SAMPLE_LIFETIME_SECONDS
        if round_trip <= self._round_trip or stale:
            self._round_trip = round_trip
            self._learnt_at = answered_at
            self._offset_ms = store_ms - (asked_at + answered_at) * 500
