"""Beats and deadlines in memory."""

from collections.abc import Mapping, Sequence
from heapq import nsmallest

from controlplane.services.ports import BeatRecord
from controlplane.storage.memory.store import BeatEntry, MemoryStore


class MemoryBeatLog:
    """`services.ports.BeatLog` of the replica `replica_id` on a `MemoryStore`."""

    def __init__(self, store: MemoryStore, replica_id: str) -> None:
        self._store = store
        self._replica_id = replica_id

    async def flush(
        self, namespace: str, deadlines: Mapping[int, Sequence[str]], beats: Sequence[BeatRecord]
    ) -> int:
        """Prolong deadlines and publish beats; see `BeatLog.flush`."""
        state = self._store.namespaces[namespace]
        now_ms = self._store.now_ms()
        known = state.deadlines
        for after_ms, instance_ids in deadlines.items():
            deadline = now_ms + after_ms
            for instance_id in instance_ids:
                if instance_id in known and known[instance_id] < deadline:
                    known[instance_id] = deadline
        if beats:
            state.beat_sequence += 1
            state.beats.append(BeatEntry(state.beat_sequence, self._replica_id, tuple(beats)))
        return now_ms

    async def read_beats(
        self, cursors: Mapping[str, str]
    ) -> dict[str, tuple[str, list[BeatRecord]]]:
        """Return what other replicas flushed; see `BeatLog.read_beats`."""
        news: dict[str, tuple[str, list[BeatRecord]]] = {}
        for namespace, cursor in cursors.items():
            state = self._store.namespaces[namespace]
            after = int(cursor) if cursor else state.beat_sequence
            entries = [
                e for e in state.beats if e.sequence > after and e.replica_id != self._replica_id
            ]
            news[namespace] = (str(state.beat_sequence), [b for e in entries for b in e.beats])
        return news

    async def due(
        self, namespace: str, *, limit: int, freeze_gap_ms: int, grace_ms: int
    ) -> tuple[int, int, list[str]]:
        """Return the store's time, the number of deadlines, and who is due; see `BeatLog.due`."""
        state = self._store.namespaces[namespace]
        now_ms = self._store.now_ms()
        if state.swept_at_ms is None or now_ms - state.swept_at_ms > freeze_gap_ms:
            state.frozen_until_ms = now_ms + grace_ms
        state.swept_at_ms = now_ms
        state.frozen_until_ms = min(state.frozen_until_ms, now_ms + grace_ms)
        if now_ms < state.frozen_until_ms:
            return now_ms, len(state.deadlines), []
        passed = ((at, name) for name, at in state.deadlines.items() if at <= now_ms)
        due = [name for _, name in nsmallest(limit, passed)]
        return now_ms, len(state.deadlines), due

    async def deadlines(self, namespace: str) -> Mapping[str, int]:
        """Return the deadline of every instance that has one."""
        return dict(self._store.namespaces[namespace].deadlines)
