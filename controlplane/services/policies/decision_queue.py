"""Decisions of one namespace between their answer and the store.

Two lines: of SYNC decisions, whose calls wait until they are stored, and of all others. The second
is bounded, by decisions and by bytes. When it is full, a call may wait for room for a moment; then
its decisions are shed: the newest, so that what is lost is one stretch of time, and the queue holds
what led there. What was shed is counted, and told by a gap in the log.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from controlplane.domain.decisions.records import DecisionGap, GapCause
from controlplane.domain.policy_settings import DecisionLogSettings
from controlplane.services.policies.answers import Answered
from controlplane.services.policies.durability import DurabilityRules

ROOM_SECONDS: Final = 0.05
"""How long a call waits for room before its decisions are shed."""

MAX_WAITING: Final = 256
"""Calls that wait for room at once: about what one flush makes room for."""

GAP_QUIET_MS: Final = 1_000
"""A gap is told once nothing was shed for so long ..."""

GAP_LONGEST_MS: Final = 10_000
"""... or after so long, if shedding goes on."""


class Taken(NamedTuple):
    """Decisions of one call that are to be recorded."""

    answers: Sequence[Answered]
    caller: str
    latency_ns: int
    """Of each."""
    bytes: int
    """What they hold in memory, about."""
    masked_paths: tuple[str, ...]
    sample_rate: float = 1.0
    """Share of such decisions that is recorded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """Decisions whose call waits for room; compared by identity."""

    taken: Taken
    room: "asyncio.Future[None]"


class Bounds:
    """How much all queues of a replica hold together; one of them takes half of it at most."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.records = 0
        self.bytes = 0
        self.lost = 0
        """Decisions that were shed since the start of the process."""


class DecisionQueue:
    """The decisions of one namespace; see the module."""

    def __init__(self, bounds: Bounds, settings: DecisionLogSettings) -> None:
        self.rules = DurabilityRules(settings)
        self.records = 0
        """Decisions in the second line, those in flight included."""
        self.failing = False
        """Set by the flusher: the store did not take the last batch, waiting would be in vain."""
        self._bounds = bounds
        self._line: deque[Taken] = deque()
        self._bytes = 0
        self._in_flight: tuple[int, int] = 0, 0
        self._waiting: deque[_Waiting] = deque()
        self._synchronous: list[tuple[Taken, asyncio.Future[None]]] = []
        self._lost = self._lost_first_ms = self._lost_last_ms = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be stored or told."""
        return not (self.records or self._lost or self._synchronous or self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether the second line has nothing to take."""
        return not self._line

    def put(self, taken: Taken) -> "asyncio.Future[None] | None":
        """Take decisions; the future, if there is one, is done when the call may be answered."""
        if not (self._waiting or self._is_full()):
            self._admit(taken)
            return None
        if self.failing or len(self._waiting) >= MAX_WAITING:
            self._shed(taken)
            return None
        loop = asyncio.get_running_loop()
        waiting = _Waiting(taken, loop.create_future())
        self._waiting.append(waiting)
        loop.call_later(ROOM_SECONDS, self._give_up, waiting)
        return waiting.room

    def put_synchronous(self, taken: Taken) -> "asyncio.Future[None]":
        """Take decisions whose call waits; the future fails with StoreUnavailable if need be."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._synchronous.append((taken, stored))
        return stored

    @property
    def has_synchronous(self) -> bool:
        """Whether calls wait for their records."""
        return bool(self._synchronous)

    def take_synchronous(
        self, limit: int, max_bytes: int
    ) -> "list[tuple[Taken, asyncio.Future[None]]]":
        """Return what waits to be stored, of about so many decisions and bytes.

        The caller settles it.
        """
        count = size = taken = 0
        for item, _ in self._synchronous:
            count, size, taken = count + len(item.answers), size + item.bytes, taken + 1
            if count >= limit or size >= max_bytes:
                break
        head, self._synchronous = self._synchronous[:taken], self._synchronous[taken:]
        return [(item, stored) for item, stored in head if not stored.done()]

    def take(self, limit: int, max_bytes: int) -> list[Taken]:
        """Return the oldest of the second line, of about so many decisions and bytes.

        They count until `stored` is called; nothing else may be taken before.
        """
        chunk: list[Taken] = []
        records = size = 0
        while self._line and records < limit and size < max_bytes:
            taken = self._line.popleft()
            chunk.append(taken)
            records += len(taken.answers)
            size += taken.bytes
        self._in_flight = records, size
        return chunk

    def stored(self) -> None:
        """Forget what was taken, and let in who waits for room."""
        records, size = self._in_flight
        self._in_flight = 0, 0
        self._count(-records, -size)
        while self._waiting and not self._is_full():
            waiting = self._waiting.popleft()
            if not waiting.room.done():
                self._admit(waiting.taken)
                waiting.room.set_result(None)

    def take_gap(self, source: str, now_ms: int, *, at_once: bool = False) -> DecisionGap | None:
        """Return what has been lost, if it is time to tell; it then counts as told."""
        if not self._lost:
            return None
        quiet = now_ms - self._lost_last_ms >= GAP_QUIET_MS
        if not (at_once or quiet or now_ms - self._lost_first_ms >= GAP_LONGEST_MS):
            return None
        gap = DecisionGap(
            number_lost=self._lost,
            first_ms=self._lost_first_ms,
            last_ms=self._lost_last_ms,
            cause=GapCause.OVERFLOW,
            source=source,
        )
        self._lost = 0
        return gap

    def _is_full(self) -> bool:
        bounds = self._bounds
        return (
            bounds.records >= bounds.max_records
            or bounds.bytes >= bounds.max_bytes
            or self.records * 2 >= bounds.max_records
            or self._bytes * 2 >= bounds.max_bytes
        )

    def _admit(self, taken: Taken) -> None:
        self._line.append(taken)
        self._count(len(taken.answers), taken.bytes)

    def _count(self, records: int, size: int) -> None:
        self.records += records
        self._bytes += size
        self._bounds.records += records
        self._bounds.bytes += size

    def _shed(self, taken: Taken) -> None:
        times = [answered.request.now_ms for answered in taken.answers]
        first, last = min(times), max(times)
        self._lost_first_ms = min(self._lost_first_ms, first) if self._lost else first
        self._lost_last_ms = max(self._lost_last_ms, last) if self._lost else last
        self._lost += len(times)
        self._bounds.lost += len(times)

    def _give_up(self, waiting: _Waiting) -> None:
        if waiting not in self._waiting:
            return
        self._waiting.remove(waiting)
        self._shed(waiting.taken)
        if not waiting.room.done():
            waiting.room.set_result(None)
