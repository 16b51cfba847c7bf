"""The ledger on Redis: every commit is one run of one script, and many share a round trip."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from controlplane.domain.errors import RequestIdReused, StoreUnavailable
from controlplane.services.audit.encoding import decode_entry
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Record,
    RequestKey,
    Transaction,
)
from controlplane.storage.redis.batch import MicroBatcher
from controlplane.storage.redis.codec import decode_frame, decode_history_entry
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors, translate
from controlplane.storage.redis.keys import NAMESPACES_MARK, NAMESPACES_SET, keys_of
from controlplane.storage.redis.plan import Arguments, compile_commit, random_token
from controlplane.storage.redis.scripts import load_script

CHANGES_KEEP: Final = 10_000
"""Change entries per namespace: how far a replica or a resuming watcher may lag without a resync.
About 150 bytes each; a minute at 160 commits a second."""

DURABLE_FLIGHTS: Final = 16
"""Batches that may wait for the disk at a time, each on a connection of its own, so that nobody
else waits with them. Where the store syncs every second one takes about 0.1 s: far above 1,500
commits a second."""

# A server refuses larger ones as malformed; no revision gets near, but callers may name any.
_LAST_STREAM_ID: Final = 2**64 - 1

_COMMIT: Final = load_script("commit")
_REGISTER_NAMESPACE: Final = load_script("register_namespace")

_COMMITTED, _REPLAYED, _CONDITION_FAILED = 0, 1, 2

_NAMESPACES_KEYS: Final = (NAMESPACES_SET, NAMESPACES_MARK)


class RedisLedger:
    """`services.ports.Ledger` on a `StoreConnection`, which it does not close.

    An async context manager: leaving it waits for commits under way. `changes_keep` bounds the
    change feed of each namespace, about (the store trims in blocks of 100), at least 1.
    """

    def __init__(self, connection: StoreConnection, *, changes_keep: int = CHANGES_KEEP) -> None:
        if changes_keep < 1:
            raise ValueError("at least one change entry must stay")
        self._connection = connection
        self._changes_keep = changes_keep
        self._registered: set[str] = set()
        self._commits = MicroBatcher[tuple[Transaction, Arguments], Committed](self._send_commits)
        self._durable_commits = MicroBatcher[tuple[Transaction, Arguments], Committed](
            self._send_commits, max_flights=DURABLE_FLIGHTS
        )
        self._reads = MicroBatcher[tuple[str, Sequence[str]], list[bytes | None]](self._send_reads)
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            await resources.enter_async_context(self._commits)
            await resources.enter_async_context(self._durable_commits)
            await resources.enter_async_context(self._reads)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    async def commit(self, transaction: Transaction) -> Committed:
        """Apply a transaction; see `Ledger.commit`. Shares a pipeline with concurrent callers."""
        arguments = compile_commit(transaction, self._changes_keep)
        batcher = self._durable_commits if transaction.durable else self._commits
        return await batcher.submit((transaction, arguments))

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        """Apply several transactions in one pipeline; see `Ledger.commit_many`."""
        with map_redis_errors():
            return await self._send_commits(
                [(t, compile_commit(t, self._changes_keep)) for t in transactions]
            )

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        """Return the newest records; see `Ledger.read`.

        Raises UnreadableRecord for a record of a newer release.
        """
        if not keys:
            return []
        frames = await self._reads.submit((keys_of(namespace).collections[collection], keys))
        return [
            None if frame is None else decode_frame(key, frame)
            for key, frame in zip(keys, frames, strict=True)
        ]

    async def read_counts(self, namespace: str, counters: Sequence[str]) -> list[int]:
        """Return counters, in order; see `Ledger.read_counts`."""
        if not counters:
            return []
        counts = await self._reads.submit((keys_of(namespace).counts, counters))
        return [int(count or 0) for count in counts]

    async def read_history(
        self, namespace: str, history: str, *, before: int | None = None, limit: int = 100
    ) -> list[Record]:
        """Return entries of a history, newest first; see `Ledger.read_history`.

        Raises UnreadableRecord for an entry of a newer release.
        """
        if limit <= 0 or (before is not None and before <= 0):
            return []
        unbounded = before is None or before > _LAST_STREAM_ID
        newest = "+" if unbounded else f"({before}-0"
        entries: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            entries = await self._connection.reads.xrevrange(
                keys_of(namespace).history(history), newest, "-", count=limit
            )
        return [
            decode_history_entry(history, _revision(entry), int(fields[b"at"]), fields[b"v"])
            for entry, fields in entries
        ]

    async def read_audit(
        self, namespace: str, *, after: int = 0, limit: int = 100
    ) -> list[tuple[int, int, AuditEntry]]:
        """Return (revision, at_ms, entry), oldest first; see `Ledger.read_audit`."""
        if limit <= 0 or after >= _LAST_STREAM_ID:
            return []
        entries: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            entries = await self._connection.reads.xrange(
                keys_of(namespace).audit, f"{max(after, 0) + 1}-0", "+", count=limit
            )
        return [
            (_revision(entry_id), int(fields[b"at"]), entry)
            for entry_id, fields in entries
            if (entry := decode_entry(fields[b"e"])) is not None
        ]

    async def find_request(self, namespace: str, request: RequestKey) -> Committed | None:
        """Return the remembered result of a request; see `Ledger.find_request`.

        Raises RequestIdReused if the request_id is known with another digest.
        """
        known: Any
        with map_redis_errors():
            known = await self._connection.reads.get(keys_of(namespace).request(request.request_id))
        if known is None:
            return None
        digest, revision, at_ms, answer = msgspec.msgpack.decode(known)
        if digest != request.digest:
            raise RequestIdReused(request.request_id)
        return Committed(revision, at_ms, replayed=True, answer=answer)

    async def _send_commits(
        self, batch: Sequence[tuple[Transaction, Arguments]]
    ) -> list[Committed | Exception]:
        await self._register_namespaces({t.namespace for t, _ in batch} - self._registered)
        replies = await self._connection.eval_many(
            _COMMIT,
            [arguments for _, arguments in batch],
            durable=any(transaction.durable for transaction, _ in batch),
        )
        outcomes = [
            _outcome(transaction, reply)
            for (transaction, _), reply in zip(batch, replies, strict=True)
        ]
        if any(isinstance(outcome, StoreUnavailable) for outcome in outcomes):
            # After a fail-over the list of namespaces may have lost what we added.
            self._registered.clear()
        return outcomes

    async def _register_namespaces(self, unknown: set[str]) -> None:
        """Make namespaces known to every follower, before the first commit of this process."""
        if not unknown:
            return
        calls = [(_NAMESPACES_KEYS, (namespace, random_token())) for namespace in sorted(unknown)]
        for reply in await self._connection.eval_many(_REGISTER_NAMESPACE, calls):
            if isinstance(reply, Exception):
                raise reply
        self._registered |= unknown

    async def _send_reads(
        self, batch: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[bytes | None] | Exception]:
        pipe = self._connection.reads.pipeline(transaction=False)
        for key, fields in batch:
            pipe.hmget(key, fields)
        with map_redis_errors():
            replies = await pipe.execute(raise_on_error=False)
        return [translate(r) if isinstance(r, Exception) else r for r in replies]


def _outcome(transaction: Transaction, reply: Any) -> Committed | Exception:
    """Return what one run of the commit script says."""
    if isinstance(reply, Exception):
        return reply
    kind = reply[0]
    if kind == _COMMITTED:
        return Committed(reply[1], reply[2], answer=transaction.answer)
    if kind == _REPLAYED:
        return Committed(reply[1], reply[2], replayed=True, answer=reply[3].decode())
    if kind == _CONDITION_FAILED:
        return ConditionFailed(*reply[1:])
    return RequestIdReused(transaction.request.request_id if transaction.request else "")


def _revision(entry_id: bytes) -> int:
    """Return the revision in a stream id `<revision>-<n>`."""
    return int(entry_id.partition(b"-")[0])
