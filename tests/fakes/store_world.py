"""Stores with the knobs that a conformance suite turns: time, faults, more replicas."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from controlplane.services.policies.decision_log_port import DecisionLog
from controlplane.services.ports import BeatLog, ChangeFeed, Ledger
from controlplane.storage.memory import (
    MemoryBeatLog,
    MemoryChangeFeed,
    MemoryDecisionLog,
    MemoryLedger,
    MemoryStore,
)
from controlplane.storage.redis.beat_log import RedisBeatLog
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.decision_log import RedisDecisionLog
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.clock import FakeClock

# Small enough to overflow in a test; Redis trims in blocks of 100 entries.
CHANGES_KEEP = 200


class World:
    """One store, and as many replicas on it as a test asks for."""

    ledger: Ledger
    hints_once = False
    """Whether the feed announces a commit only once, even if nobody acts on it."""

    def new_ledger(self) -> contextlib.AbstractAsyncContextManager[Ledger]:
        raise NotImplementedError

    def feed(self, replica_id: str = "r1") -> contextlib.AbstractAsyncContextManager[ChangeFeed]:
        raise NotImplementedError

    def roomy_feed(
        self,
    ) -> contextlib.AbstractAsyncContextManager[tuple[Ledger, ChangeFeed]]:
        """Return a ledger that does not trim its changes early, and a feed."""
        raise NotImplementedError

    def beat_log(self, replica_id: str = "r1") -> BeatLog:
        raise NotImplementedError

    def decision_log(self) -> DecisionLog:
        raise NotImplementedError

    async def pass_ms(self, milliseconds: int) -> None:
        """Let the store's clock advance by at least this much."""
        raise NotImplementedError

    async def rewrite_fingerprint(self, namespace: str, revision: int) -> None:
        """Make the newest change entry another one, as if a fail-over had lost and replaced it."""
        raise NotImplementedError

    async def lose_everything(self) -> None:
        """Make the store empty, as if its disk had been replaced."""
        raise NotImplementedError


class MemoryWorld(World):
    hints_once = True

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock, changes_keep=CHANGES_KEEP)
        self.ledger = MemoryLedger(self.store)

    @contextlib.asynccontextmanager
    async def new_ledger(self) -> AsyncIterator[Ledger]:
        yield MemoryLedger(self.store)

    @contextlib.asynccontextmanager
    async def feed(self, replica_id: str = "r1") -> AsyncIterator[ChangeFeed]:
        assert replica_id
        async with MemoryChangeFeed(self.store) as feed:
            yield feed

    @contextlib.asynccontextmanager
    async def roomy_feed(self) -> AsyncIterator[tuple[Ledger, ChangeFeed]]:
        store = MemoryStore(self.clock)
        async with MemoryChangeFeed(store) as feed:
            yield MemoryLedger(store), feed

    def beat_log(self, replica_id: str = "r1") -> BeatLog:
        return MemoryBeatLog(self.store, replica_id)

    def decision_log(self) -> DecisionLog:
        return MemoryDecisionLog(self.store)

    async def pass_ms(self, milliseconds: int) -> None:
        self.clock.shift(milliseconds / 1000)

    async def rewrite_fingerprint(self, namespace: str, revision: int) -> None:
        changes = self.store.namespaces[namespace].changes
        entry = changes.pop()
        assert entry.revision == revision
        changes.append(type(entry)(revision, "another", entry.touched))

    async def lose_everything(self) -> None:
        self.store.namespaces.clear()


class RedisWorld(World):
    def __init__(self, connection: StoreConnection, ledger: RedisLedger) -> None:
        self.connection = connection
        self.ledger = ledger

    @contextlib.asynccontextmanager
    async def new_ledger(self) -> AsyncIterator[Ledger]:
        async with RedisLedger(self.connection, changes_keep=CHANGES_KEEP) as ledger:
            yield ledger

    @contextlib.asynccontextmanager
    async def feed(self, replica_id: str = "r1") -> AsyncIterator[ChangeFeed]:
        async with RedisChangeFeed(self.connection, replica_id=replica_id) as feed:
            yield feed

    @contextlib.asynccontextmanager
    async def roomy_feed(self) -> AsyncIterator[tuple[Ledger, ChangeFeed]]:
        async with RedisLedger(self.connection) as ledger, self.feed() as feed:
            yield ledger, feed

    def beat_log(self, replica_id: str = "r1") -> BeatLog:
        return RedisBeatLog(self.connection, replica_id=replica_id)

    def decision_log(self) -> DecisionLog:
        return RedisDecisionLog(self.connection)

    async def pass_ms(self, milliseconds: int) -> None:
        # The server has no other clock than the real one.
        await asyncio.sleep(milliseconds / 1000 + 0.002)

    async def rewrite_fingerprint(self, namespace: str, revision: int) -> None:
        changes, rev = f"fp:{{{namespace}}}:changes", f"fp:{{{namespace}}}:rev"
        client: Any = self.connection.writes  # redis-py types replies as every shape at once
        ((entry_id, fields),) = await client.xrevrange(changes, count=1)
        assert entry_id == f"{revision}-0".encode()
        kept = await client.xrange(changes, max=f"({revision}-0")
        await client.delete(changes)
        for kept_id, kept_fields in kept:
            await client.xadd(changes, kept_fields, id=kept_id)
        await client.xadd(changes, {**fields, b"f": b"another"}, id=entry_id)
        assert int(await client.get(rev)) == revision

    async def lose_everything(self) -> None:
        await self.connection.writes.flushall()
