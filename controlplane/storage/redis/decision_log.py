"""The log of decisions on Redis: one stream per namespace, one entry per batch.

An entry holds a head, which is read by who looks for something, and the packed decisions, which are
not unpacked here. Bytes are counted beside the stream, so that trimming needs no estimate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from controlplane.services.policies.decision_log_port import (
    SOURCE_MEMORY_SECONDS,
    DecisionBatch,
    StoredBatch,
    place_at,
)
from controlplane.storage.redis.codec import UnreadableRecord
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors
from controlplane.storage.redis.keys import NamespaceKeys, keys_of
from controlplane.storage.redis.scripts import load_script

TRIMMED_AT_ONCE: Final = 200
"""Batches that one `trim` drops at most: a few milliseconds of the store."""

_APPEND: Final = load_script("append_decisions")
_TRIM: Final = load_script("trim_decisions")
_NOTHING: Final = (0, 0)  # milliseconds and bytes to keep of a log that is erased

_Head = tuple[str, int, int, int, int]
"""source, sequence, count, first_ms, last_ms"""

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Head).decode


class RedisDecisionLog:
    """`DecisionLog` on a `StoreConnection`."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection

    async def append(
        self, namespace: str, batch: DecisionBatch, *, memory_seconds: int = SOURCE_MEMORY_SECONDS
    ) -> bool:
        """Add a batch; see `DecisionLog.append`."""
        keys = keys_of(namespace)
        head: _Head = (batch.source, batch.sequence, batch.count, batch.first_ms, batch.last_ms)
        added: int = await self._connection.run(
            _APPEND,
            (keys.decisions, keys.decision_source(batch.source), keys.decision_bytes),
            (batch.sequence, memory_seconds, _pack(head), batch.packed),
        )
        return added == 1

    async def newest(
        self, namespace: str, *, before: str = "", from_ms: int = 0, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches, newest first; see `DecisionLog.newest`."""
        highest = f"({before}" if before else "+"
        if before == place_at(0):
            return []
        with map_redis_errors():
            entries: Any = await self._connection.reads.xrevrange(
                keys_of(namespace).decisions, max=highest, min=place_at(from_ms), count=limit
            )
        return [_stored(entry_id, fields) for entry_id, fields in entries]

    async def oldest(
        self, namespace: str, *, after: str, to_ms: int, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches in their order; see `DecisionLog.oldest`."""
        with map_redis_errors():
            entries: Any = await self._connection.reads.xrange(
                keys_of(namespace).decisions, min=f"({after}", max=str(max(to_ms, 0)), count=limit
            )
        return [_stored(entry_id, fields) for entry_id, fields in entries]

    async def trim(self, namespace: str, *, keep_ms: int, max_bytes: int) -> int:
        """Drop the oldest batches, 200 at most; see `DecisionLog.trim`."""
        dropped: int = await self._trim(keys_of(namespace), keep_ms, max_bytes)
        return dropped

    async def erase(self, namespace: str) -> None:
        """Drop the whole log of a namespace."""
        while await self._trim(keys_of(namespace), *_NOTHING):
            pass

    async def _trim(self, keys: NamespaceKeys, keep_ms: int, max_bytes: int) -> int:
        dropped: int = await self._connection.run(
            _TRIM,
            (keys.decisions, keys.decision_bytes),
            (keep_ms, max_bytes, TRIMMED_AT_ONCE),
        )
        return dropped


def _stored(entry_id: bytes, fields: Mapping[bytes, bytes]) -> StoredBatch:
    place = entry_id.decode()
    try:
        source, sequence, count, first_ms, last_ms = _unpack(fields[b"h"])
        packed = fields[b"b"]
    except (KeyError, msgspec.MsgspecError) as error:
        raise UnreadableRecord(f"batch of decisions {place}", str(error)) from error
    return StoredBatch(
        place,
        DecisionBatch(
            source=source,
            sequence=sequence,
            count=count,
            first_ms=first_ms,
            last_ms=last_ms,
            packed=packed,
        ),
    )
