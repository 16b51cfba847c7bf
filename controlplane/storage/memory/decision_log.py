"""The log of decisions in memory."""

from collections.abc import Sequence

from controlplane.services.policies.decision_log_port import (
    SOURCE_MEMORY_SECONDS,
    DecisionBatch,
    StoredBatch,
)
from controlplane.storage.memory.store import MemoryStore, StoredDecisions


class MemoryDecisionLog:
    """`DecisionLog` on a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def append(
        self, namespace: str, batch: DecisionBatch, *, memory_seconds: int = SOURCE_MEMORY_SECONDS
    ) -> bool:
        """Add a batch; see `DecisionLog.append`."""
        log, now_ms = self._of(namespace), self._store.now_ms()
        last, forgotten_at_ms = log.sources.get(batch.source, (0, 0))
        if now_ms < forgotten_at_ms and last >= batch.sequence:
            return False
        log.sources[batch.source] = batch.sequence, now_ms + memory_seconds * 1000
        number = log.last[1] + 1 if log.last[0] >= now_ms else 0
        log.last = max(now_ms, log.last[0]), number
        log.batches.append(StoredBatch(f"{log.last[0]}-{number}", batch))
        return True

    async def newest(
        self, namespace: str, *, before: str = "", from_ms: int = 0, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches, newest first; see `DecisionLog.newest`."""
        found = [
            stored
            for stored in reversed(self._of(namespace).batches)
            if stored.at_ms >= from_ms and (not before or _order(stored.place) < _order(before))
        ]
        return found[:limit]

    async def oldest(
        self, namespace: str, *, after: str, to_ms: int, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches in their order; see `DecisionLog.oldest`."""
        found = [
            stored
            for stored in self._of(namespace).batches
            if stored.at_ms <= to_ms and _order(stored.place) > _order(after)
        ]
        return found[:limit]

    async def trim(self, namespace: str, *, keep_ms: int, max_bytes: int) -> int:
        """Drop the oldest batches; see `DecisionLog.trim`."""
        batches = self._of(namespace).batches
        least_ms, dropped = self._store.now_ms() - keep_ms, 0
        size = sum(len(stored.batch.packed) for stored in batches)
        while batches and (batches[0].at_ms < least_ms or size > max_bytes):
            size -= len(batches.popleft().batch.packed)
            dropped += 1
        return dropped

    async def erase(self, namespace: str) -> None:
        """Drop the whole log of a namespace."""
        self._of(namespace).batches.clear()

    def _of(self, namespace: str) -> StoredDecisions:
        return self._store.namespaces[namespace].decisions


def _order(place: str) -> tuple[int, int]:
    milliseconds, _, number = place.partition("-")
    return int(milliseconds), int(number)
