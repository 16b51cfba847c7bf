"""A clock that moves when the test says so."""

import asyncio
import heapq
from itertools import count

# 2026-01-01T00:00:00Z: a plausible date, so that a mix-up of units shows.
START_MS = 1_767_225_600_000

# How often `advance` lets the other tasks run after it woke somebody: enough for a sleeper to do
# something that takes a few hops through queues and go to sleep again.
_HOPS = 20


class FakeClock:
    """`services.ports.Clock`, advanced by hand."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self._start_ms = start_ms
        self._seconds = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._seconds

    def store_ms(self) -> int:
        return self._start_ms + round(self._seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._order), future))
        await future

    @property
    def sleepers(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move time, waking each sleeper at its own moment and letting it run."""
        await _let_others_run()  # who was about to go to sleep does so first
        end = self._seconds + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            moment, _, future = heapq.heappop(self._sleepers)
            self._seconds = max(self._seconds, moment)
            if not future.done():
                future.set_result(None)
                await _let_others_run()
        self._seconds = end

    def shift(self, seconds: float) -> None:
        """Move time without waking anybody; for code that never sleeps."""
        self._seconds += seconds


async def _let_others_run() -> None:
    for _ in range(_HOPS):
        await asyncio.sleep(0)
