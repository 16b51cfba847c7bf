"""The audit in memory."""

from bisect import bisect_left, bisect_right
from itertools import islice

from controlplane.domain.audit.chain import Seal, StoredEntry
from controlplane.services.audit.ports import Extent
from controlplane.storage.memory.store import MemoryStore


class MemoryAuditLog:
    """`services.audit.ports.AuditLog` on a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def extent(self, namespace: str) -> Extent:
        """Return how far the audit reaches; see `AuditLog.extent`."""
        state = self._store.namespaces[namespace]
        first = state.audit[0].sequence if state.audit else 0
        return Extent(first, state.revision, state.sealed)

    async def entries(self, namespace: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Return entries, oldest first; see `AuditLog.entries`."""
        entries = self._store.namespaces[namespace].audit
        start = bisect_right(entries, after, key=_entry_sequence)
        return entries[start : start + max(limit, 0)]

    async def entries_before(self, namespace: str, *, before: int, limit: int) -> list[StoredEntry]:
        """Return entries, newest first; see `AuditLog.entries_before`."""
        entries = self._store.namespaces[namespace].audit
        end = bisect_left(entries, before, key=_entry_sequence)
        return entries[max(end - max(limit, 0), 0) : end][::-1]

    async def seals(self, namespace: str, *, after: int, limit: int) -> list[Seal]:
        """Return seals, oldest first; see `AuditLog.seals`."""
        seals = self._store.namespaces[namespace].seals
        return list(islice((s for s in seals if s.last > after), max(limit, 0)))

    async def newest_seal(self, namespace: str) -> Seal | None:
        """Return the newest seal; see `AuditLog.newest_seal`."""
        seals = self._store.namespaces[namespace].seals
        return seals[-1] if seals else None

    async def append_seal(self, namespace: str, seal: Seal) -> bool:
        """Keep a seal if it continues what was sealed; see `AuditLog.append_seal`."""
        state = self._store.namespaces[namespace]
        if seal.first - 1 != state.sealed:
            return False
        newest = state.seals[-1] if state.seals else None
        if state.sealed and (
            newest is None or newest.last != state.sealed or newest.head != seal.previous
        ):
            return False
        state.seals.append(seal)
        state.sealed = seal.last
        return True

    async def trim(self, namespace: str, through: int) -> int:
        """Remove entries, and seals that end before `through`; see `AuditLog.trim`."""
        state = self._store.namespaces[namespace]
        count = bisect_right(state.audit, through, key=_entry_sequence)
        del state.audit[:count]
        state.seals[:] = [seal for seal in state.seals if seal.last >= through]
        return count


def _entry_sequence(entry: StoredEntry) -> int:
    return entry.sequence
