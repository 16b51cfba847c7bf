"""An audit that a test writes, seals and tampers with, on either store."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from controlplane.domain.audit.chain import Key, Keys, Seal
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.services.audit.events import AuditEvents
from controlplane.services.audit.exporting import AuditExport
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.ports import AuditLog
from controlplane.services.audit.sealing import AuditSealer, Outcome
from controlplane.services.audit.verifying import AuditVerifier, VerificationResult
from controlplane.services.hub import Hub
from controlplane.services.ports import AuditEntry, Clock, Ledger
from controlplane.services.store_clock import StoreClock
from controlplane.storage.memory import MemoryAuditLog, MemoryLedger, MemoryStore
from controlplane.storage.redis.audit_log import RedisAuditLog
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.keys import keys_of
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.clock import FakeClock
from tests.fakes.transactions import transaction
from tests.fakes.valkey import valkey_server

NS = "team-a"
KEY = Key.of(b"k" * 32)
OTHER_KEY = Key.of(b"o" * 32)


class AheadClock(StoreClock):
    """The store's clock, some seconds ahead: whatever is written is ripe at once."""

    def store_ms(self) -> int:
        return super().store_ms() + 5000


class AuditWorld:
    """One store, its audit, and the use cases on it."""

    def __init__(self, ledger: Ledger, log: AuditLog, clock: Clock) -> None:
        self.ledger = ledger
        self.log = log
        self.clock = clock
        self.hub = Hub()

    def keeper(self, keys: Keys | None = None, *, retention_days: int = 0) -> AuditKeeper:
        return AuditKeeper(
            self.log, self.ledger, self.clock, keys or Keys(), retention_days=retention_days
        )

    def events(self) -> AuditEvents:
        return AuditEvents(self.log, self.keeper(), self.hub)

    def export(self) -> AuditExport:
        return AuditExport(self.log, self.keeper())

    async def write(self, count: int, **entry: Any) -> None:
        """Commit so many entries."""
        for number in range(count):
            plain = {"actor": "ann", "method": "Test", "object": f"things/{number}"}
            await self.ledger.commit(transaction(namespace=NS, audit=AuditEntry(**plain | entry)))

    async def seal(self, keys: Keys | None = None, *, ripe: bool = True) -> Outcome:
        """Seal; with `ripe` whatever there is."""
        if ripe and isinstance(self.clock, FakeClock):
            self.clock.shift(2)
        return await AuditSealer(self.log, self.clock, keys or Keys()).seal(NS)

    async def verify(
        self, keys: Keys | None = None, expected: Checkpoint | None = None
    ) -> VerificationResult:
        keys = keys or Keys()
        verifier = AuditVerifier(self.log, self.keeper(keys), keys)
        last: Any = None
        async for said in verifier.verify(NS, expected):
            last = said
        assert isinstance(last, VerificationResult)
        return last

    async def exported(self, after: int = 0) -> tuple[bytes, Checkpoint]:
        """Return the lines and the checkpoint of an export."""
        lines, end = b"", None
        async for said in self.export().export(NS, after=after):
            if isinstance(said, Checkpoint):
                end = said
            else:
                lines += said
        assert end is not None
        return lines, end

    # What somebody does who can write into the store.

    async def alter_entry(self, sequence: int, byte: int) -> None:
        """Flip one bit of the stored bytes of an entry."""
        (entry,) = await self.log.entries(NS, after=sequence - 1, limit=1)
        data = bytearray(entry.data)
        data[byte % len(data)] ^= 1
        await self._rewrite({sequence: (entry.at_ms, bytes(data))})

    async def alter_time(self, sequence: int) -> None:
        (entry,) = await self.log.entries(NS, after=sequence - 1, limit=1)
        await self._rewrite({sequence: (entry.at_ms + 1, entry.data)})

    async def swap_entries(self, one: int, other: int) -> None:
        (first,) = await self.log.entries(NS, after=one - 1, limit=1)
        (second,) = await self.log.entries(NS, after=other - 1, limit=1)
        await self._rewrite({one: (second.at_ms, second.data), other: (first.at_ms, first.data)})

    async def _rewrite(self, contents: dict[int, tuple[int, bytes]]) -> None:
        raise NotImplementedError

    async def remove_entries(self, *sequences: int) -> None:
        raise NotImplementedError

    async def alter_seal(self, last: int, **fields: Any) -> None:
        raise NotImplementedError

    async def remove_seal(self, last: int) -> None:
        raise NotImplementedError

    async def forget_seals(self) -> None:
        """Remove all seals without a trace, so that they can be made anew."""
        raise NotImplementedError


class MemoryAuditWorld(AuditWorld):
    clock: FakeClock

    def __init__(self) -> None:
        clock = FakeClock()
        self.store = MemoryStore(clock)
        super().__init__(MemoryLedger(self.store), MemoryAuditLog(self.store), clock)

    @property
    def _state(self) -> Any:
        return self.store.namespaces[NS]

    async def _rewrite(self, contents: dict[int, tuple[int, bytes]]) -> None:
        self._state.audit[:] = [
            dataclasses.replace(e, at_ms=contents[e.sequence][0], data=contents[e.sequence][1])
            if e.sequence in contents
            else e
            for e in self._state.audit
        ]

    async def remove_entries(self, *sequences: int) -> None:
        self._state.audit[:] = [e for e in self._state.audit if e.sequence not in sequences]

    async def alter_seal(self, last: int, **fields: Any) -> None:
        self._state.seals[:] = [
            dataclasses.replace(seal, **fields) if seal.last == last else seal
            for seal in self._state.seals
        ]

    async def remove_seal(self, last: int) -> None:
        self._state.seals[:] = [seal for seal in self._state.seals if seal.last != last]

    async def forget_seals(self) -> None:
        self._state.seals.clear()
        self._state.sealed = 0


class RedisAuditWorld(AuditWorld):
    def __init__(self, connection: StoreConnection, ledger: RedisLedger) -> None:
        super().__init__(ledger, RedisAuditLog(connection), AheadClock())
        self._client: Any = connection.writes  # redis-py types replies as every shape at once
        self._names = keys_of(NS)

    async def _rewrite(self, contents: dict[int, tuple[int, bytes]]) -> None:
        def changed(entry_id: bytes, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
            content = contents.get(int(entry_id.partition(b"-")[0]))
            if content is None:
                return fields
            return {b"at": str(content[0]).encode(), b"e": content[1]}

        await self._replay(self._names.audit, changed)

    async def remove_entries(self, *sequences: int) -> None:
        await self._client.xdel(self._names.audit, *(f"{sequence}-0" for sequence in sequences))

    async def alter_seal(self, last: int, **fields: Any) -> None:
        short = {"first": b"f", "previous": b"p", "head": b"h", "leaves": b"l", "key_id": b"k"}

        def changed(entry_id: bytes, stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
            if entry_id != f"{last}-0".encode():
                return stored
            news = {short[name]: _bytes(value) for name, value in fields.items()}
            return stored | news

        await self._replay(self._names.seals, changed)

    async def remove_seal(self, last: int) -> None:
        await self._client.xdel(self._names.seals, f"{last}-0")

    async def forget_seals(self) -> None:
        await self._client.delete(self._names.seals)

    async def _replay(self, key: str, changed: Any) -> None:
        """Write a stream anew, as nobody can in place."""
        kept = await self._client.xrange(key)
        await self._client.delete(key)
        for entry_id, fields in kept:
            await self._client.xadd(key, changed(entry_id, fields), id=entry_id)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@contextlib.asynccontextmanager
async def redis_audit_world() -> AsyncIterator[RedisAuditWorld]:
    async with (
        valkey_server(persistent=False) as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection) as ledger,
    ):
        yield RedisAuditWorld(connection, ledger)


def flipped(data: bytes, byte: int) -> bytes:
    """Return bytes with one bit of one of them changed."""
    changed = bytearray(data)
    changed[byte % len(changed)] ^= 1
    return bytes(changed)


def seal_under(seals: list[Seal], sequence: int) -> Seal:
    """Return the seal that covers an entry."""
    return next(seal for seal in seals if seal.first <= sequence <= seal.last)
