"""The audit on Redis: a stream that `commit.lua` appends to, and a stream of its seals."""

from typing import Any, Final

from controlplane.domain.audit.chain import Seal, StoredEntry
from controlplane.services.audit.ports import Extent
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors
from controlplane.storage.redis.keys import keys_of
from controlplane.storage.redis.scripts import load_script

TRIMMED_AT_ONCE: Final = 10_000
"""Entries that one command removes: some milliseconds of the store."""

_DIGITS: Final = 20  # of 2^64; whoever damages an entry may have written more

# A server refuses larger ones as malformed; no sequence gets near, but callers may name any.
_LAST_STREAM_ID: Final = 2**64 - 1

_APPEND_SEAL: Final = load_script("append_seal")
_EXTENT: Final = load_script("audit_extent")


class RedisAuditLog:
    """`services.audit.ports.AuditLog` on a `StoreConnection`, which it does not close."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection

    async def extent(self, namespace: str) -> Extent:
        """Return how far the audit reaches; see `AuditLog.extent`."""
        names = keys_of(namespace)
        reply = await self._connection.run(_EXTENT, (names.rev, names.audit, names.seals))
        return Extent(*reply)

    async def entries(self, namespace: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Return entries, oldest first; see `AuditLog.entries`."""
        if limit <= 0 or after >= _LAST_STREAM_ID:
            return []
        found: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            found = await self._connection.reads.xrange(
                keys_of(namespace).audit, f"{max(after, 0) + 1}-0", "+", count=limit
            )
        return [_entry(entry_id, fields) for entry_id, fields in found]

    async def entries_before(self, namespace: str, *, before: int, limit: int) -> list[StoredEntry]:
        """Return entries, newest first; see `AuditLog.entries_before`."""
        if limit <= 0 or before <= 0:
            return []
        newest = f"({before}-0" if before <= _LAST_STREAM_ID else "+"
        found: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            found = await self._connection.reads.xrevrange(
                keys_of(namespace).audit, newest, "-", count=limit
            )
        return [_entry(entry_id, fields) for entry_id, fields in found]

    async def seals(self, namespace: str, *, after: int, limit: int) -> list[Seal]:
        """Return seals, oldest first; see `AuditLog.seals`."""
        if limit <= 0 or after >= _LAST_STREAM_ID:
            return []
        found: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            found = await self._connection.reads.xrange(
                keys_of(namespace).seals, f"{max(after, 0) + 1}-0", "+", count=limit
            )
        return [_seal(entry_id, fields) for entry_id, fields in found]

    async def newest_seal(self, namespace: str) -> Seal | None:
        """Return the newest seal; see `AuditLog.newest_seal`."""
        found: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            found = await self._connection.reads.xrevrange(keys_of(namespace).seals, count=1)
        return _seal(*found[0]) if found else None

    async def append_seal(self, namespace: str, seal: Seal) -> bool:
        """Keep a seal if it continues what was sealed; see `AuditLog.append_seal`."""
        arguments = (
            seal.first - 1,
            seal.first,
            seal.last,
            seal.previous,
            seal.head,
            seal.leaves,
            seal.key_id,
        )
        kept = await self._connection.run(_APPEND_SEAL, (keys_of(namespace).seals,), arguments)
        return bool(kept)

    async def trim(self, namespace: str, through: int) -> int:
        """Remove entries, and seals that end before `through`; see `AuditLog.trim`."""
        names = keys_of(namespace)
        removed = 0
        while True:
            oldest = await self.entries(namespace, after=0, limit=1)
            if not oldest or oldest[0].sequence > through:
                break
            upper = min(oldest[0].sequence + TRIMMED_AT_ONCE, through + 1)
            removed += await self._trim_stream(names.audit, upper)
        await self._trim_stream(names.seals, through)
        return removed

    async def _trim_stream(self, key: str, least: int) -> int:
        """Remove what has an id below `least`; return how many entries."""
        with map_redis_errors():
            # Once more after an error is the same as once.
            return int(
                await self._connection.reads.xtrim(key, minid=f"{least}-0", approximate=False)
            )


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> StoredEntry:
    # Whoever writes into the store can write anything: what is no entry verifies as an altered one.
    return StoredEntry(
        sequence=_sequence(entry_id), at_ms=_number(fields.get(b"at")), data=fields.get(b"e", b"")
    )


def _seal(entry_id: bytes, fields: dict[bytes, bytes]) -> Seal:
    return Seal(
        first=_number(fields.get(b"f")),
        last=_sequence(entry_id),
        previous=fields.get(b"p", b""),
        head=fields.get(b"h", b""),
        leaves=fields.get(b"l", b""),
        key_id=fields.get(b"k", b"").decode(errors="replace"),
    )


def _sequence(entry_id: bytes) -> int:
    """Return the sequence in a stream id `<sequence>-<n>`."""
    return int(entry_id.partition(b"-")[0])


def _number(text: bytes | None) -> int:
    is_number = text is not None and text.isdigit() and len(text) <= _DIGITS
    return int(text) if text is not None and is_number else 0
