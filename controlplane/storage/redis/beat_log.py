"""Beats and deadlines on Redis: batched, silent, one round trip per flush.

A flush of n beats costs one script run: one variadic ZADD per prolongation and one stream entry
that holds all beats, packed by column. Readers skip their own entries without unpacking them.
"""

import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from redis.asyncio import RedisCluster

from controlplane.services.ports import BeatRecord
from controlplane.storage.redis.codec import UnreadableRecord
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors
from controlplane.storage.redis.keys import keys_of
from controlplane.storage.redis.scripts import load_script

BEATS_KEEP: Final = 256
"""Flushes that stay in a namespace's stream: about ten seconds of one replica's, two of five's.
A reader that comes later misses beats, and gets the next ones an interval later."""

FLUSHES_PER_READ: Final = 32
"""Flushes of one namespace that one `read_beats` returns: enough for thirty replicas that flush
ten times a second to a reader that asks as often. Who was away catches up call by call."""

DEADLINES_PER_READ: Final = 1000
"""Deadlines in one reply: redis-py needs 15 us for each, in which nobody else is served."""

_FLUSH: Final = load_script("flush_beats")
_DUE: Final = load_script("due")

_FORMAT: Final = b"\x01"
"""First byte of a packed flush. Readers skip flushes of a format they do not know."""

_Entries = Sequence[tuple[bytes, Mapping[bytes, bytes]]]
"""(id, fields) of stream entries"""

_log: Final = logging.getLogger("fleetplane.store")

_FIELDS: Final = BeatRecord.__match_args__
_row: Final = attrgetter(*_FIELDS)
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[list[Any]]).decode


def pack_beats(beats: Sequence[BeatRecord]) -> bytes:
    """Return the beats as bytes: a list per field, in the order of the record's fields."""
    return _FORMAT + _pack(list(zip(*map(_row, beats), strict=True)))


def unpack_beats(packed: bytes) -> list[BeatRecord]:
    """Return the beats of `pack_beats`. Raises UnreadableRecord."""
    if packed[:1] != _FORMAT:
        raise UnreadableRecord("a flush of beats", f"format {packed[:1].hex() or 'missing'}")
    try:
        return [BeatRecord(*row) for row in zip(*_unpack(packed[1:]), strict=True)]
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise UnreadableRecord("a flush of beats", str(error)) from error


class RedisBeatLog:
    """`services.ports.BeatLog` of the replica `replica_id` on a `StoreConnection`.

    `beats_keep` bounds the flushes that other replicas can still read, per namespace.
    """

    def __init__(
        self, connection: StoreConnection, *, replica_id: str, beats_keep: int = BEATS_KEEP
    ) -> None:
        self._connection = connection
        self._replica_id = replica_id
        self._replica_bytes = replica_id.encode()
        self._beats_keep = beats_keep
        self.unreadable = 0
        """Flushes of other replicas that were skipped because a newer release packed them."""

    async def flush(
        self, namespace: str, deadlines: Mapping[int, Sequence[str]], beats: Sequence[BeatRecord]
    ) -> int:
        """Prolong deadlines, publish beats, return the store's time; see `BeatLog.flush`."""
        keys = keys_of(namespace)
        packed = pack_beats(beats) if beats else b""
        prolonged = _pack(list(deadlines.items()))
        now_ms: int = await self._connection.run(
            _FLUSH,
            (keys.deadlines, keys.beats),
            (prolonged, self._replica_id, packed, self._beats_keep),
        )
        return now_ms

    async def read_beats(
        self, cursors: Mapping[str, str]
    ) -> dict[str, tuple[str, list[BeatRecord]]]:
        """Return what other replicas flushed, and new cursors; see `BeatLog.read_beats`.

        At most `FLUSHES_PER_READ` flushes per namespace, the oldest first; the rest is for the
        next call.
        """
        if not cursors:
            return {}
        entries = await self._read_streams(cursors)
        news: dict[str, tuple[str, list[BeatRecord]]] = {}
        for namespace, cursor in cursors.items():
            found = entries.get(namespace, ())
            if cursor:
                last = found[-1][0].decode() if found else cursor
                news[namespace] = (last, self._beats_of_others(found))
            else:  # from now on: the newest entry is where to go on from
                news[namespace] = (found[0][0].decode() if found else "0-0", [])
        return news

    async def due(
        self, namespace: str, *, limit: int, freeze_gap_ms: int, grace_ms: int
    ) -> tuple[int, int, list[str]]:
        """Return the store's time, the number of deadlines, and who is due; see `BeatLog.due`."""
        keys = keys_of(namespace)
        now_ms, count, due = await self._connection.run(
            _DUE, (keys.deadlines, keys.swept), (limit, freeze_gap_ms, grace_ms)
        )
        return now_ms, count, [name.decode() for name in due]

    async def deadlines(self, namespace: str) -> Mapping[str, int]:
        """Return the deadline of every instance that has one.

        Names are listed at once, then looked up in batches: ranks shift while pages are read.
        """
        key = keys_of(namespace).deadlines
        names: Any  # redis-py types replies as every shape at once
        scores: Any
        found: dict[str, int] = {}
        with map_redis_errors():
            names = await self._connection.reads.zrange(key, 0, -1)
            for start in range(0, len(names), DEADLINES_PER_READ):
                page = names[start : start + DEADLINES_PER_READ]
                scores = await self._connection.reads.zmscore(key, page)
                for name, score in zip(page, scores, strict=True):
                    if score is not None:
                        found[name.decode()] = int(score)
        return found

    async def _read_streams(self, cursors: Mapping[str, str]) -> dict[str, _Entries]:
        """Return the new entries by namespace; of the newest one only where there is no cursor."""
        pipe = self._connection.reads.pipeline(transaction=False)
        for namespaces in self._groups([n for n, cursor in cursors.items() if cursor]):
            pipe.xread({keys_of(n).beats: cursors[n] for n in namespaces}, count=FLUSHES_PER_READ)
        fresh = [n for n, cursor in cursors.items() if not cursor]
        for namespace in fresh:
            pipe.xrevrange(keys_of(namespace).beats, count=1)
        with map_redis_errors():
            replies = await pipe.execute()
        reads, newest = replies[: len(replies) - len(fresh)], replies[len(replies) - len(fresh) :]
        by_key = {keys_of(n).beats.encode(): n for n in cursors}
        found = {by_key[key]: entries for reply in reads for key, entries in _streams(reply)}
        return found | dict(zip(fresh, newest, strict=True))

    def _groups(self, namespaces: list[str]) -> list[list[str]]:
        """Return which namespaces one command may read together: in a Cluster, none."""
        if isinstance(self._connection.reads, RedisCluster):
            return [[namespace] for namespace in namespaces]
        return [namespaces] if namespaces else []

    def _beats_of_others(self, entries: _Entries) -> list[BeatRecord]:
        beats: list[BeatRecord] = []
        for _, fields in entries:
            if fields[b"r"] == self._replica_bytes:
                continue
            try:
                beats += unpack_beats(fields[b"b"])
            except UnreadableRecord as error:
                self.unreadable += 1
                _log.warning("beats of another replica were skipped", extra={"why": str(error)})
        return beats


def _streams(reply: Any) -> list[tuple[bytes, _Entries]]:
    """Return (key, entries) of an XREAD reply, a list of pairs or (RESP3) a map."""
    if isinstance(reply, Mapping):
        return [(key, entries[0]) for key, entries in reply.items()]
    return [(key, entries) for key, entries in reply or ()]
