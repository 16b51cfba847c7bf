"""What every `Ledger` promises about histories, the audit log, and many writers at once."""

import asyncio
from typing import Any

from controlplane.domain.configs.layers import ConfigLayer, LayerKind, LayerScope
from controlplane.services.ports import (
    ABSENT,
    Append,
    AuditEntry,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
)
from tests.fakes.store_world import World
from tests.fakes.transactions import NS, put_name, transaction


async def read_name(world: World, key: str) -> Any:
    (record,) = await world.ledger.read(NS, Collection.NAMES, [key])
    return record


class TestHistory:
    async def test_entries_come_newest_first_and_in_pages(self, world):
        for n in range(1, 8):
            await world.ledger.commit(transaction(Append("h", {"n": n})))
        newest = await world.ledger.read_history(NS, "h", limit=3)
        assert [r.value["n"] for r in newest] == [7, 6, 5]
        assert [r.revision for r in newest] == [7, 6, 5]
        older = await world.ledger.read_history(NS, "h", before=newest[-1].revision, limit=10)
        assert [r.revision for r in older] == [4, 3, 2, 1]
        assert await world.ledger.read_history(NS, "h", before=1) == []
        assert await world.ledger.read_history(NS, "h", before=0) == []
        assert await world.ledger.read_history(NS, "h", limit=0) == []
        assert await world.ledger.read_history(NS, "unknown") == []

    async def test_revisions_beyond_every_stream_id_are_only_far_away(self, world):
        await world.ledger.commit(transaction(Append("h", 1)))
        everything = await world.ledger.read_history(NS, "h", limit=1000)
        for far in (2**63, 2**64 - 1, 2**64, 2**70):
            found = await world.ledger.read_history(NS, "h", before=far, limit=1000)
            assert found == everything
            assert await world.ledger.read_audit(NS, after=far) == []

    async def test_entries_carry_the_numbers_of_their_commit(self, world):
        layer = ConfigLayer(scope=LayerScope(LayerKind.NAMESPACE), values={"a": 1})
        await world.ledger.commit(transaction(put_name("k")))
        committed = await world.ledger.commit(transaction(Append("config:namespace", layer)))
        (record,) = await world.ledger.read_history(NS, "config:namespace")
        assert record.revision == record.value.revision == 2
        assert record.updated_at_ms == record.value.updated_at_ms == committed.at_ms
        assert record.value.values == {"a": 1}

    async def test_exactly_the_newest_entries_stay(self, world):
        for n in range(250):
            await world.ledger.commit(transaction(Append("h", n, keep=7), Append("all", n)))
        kept = await world.ledger.read_history(NS, "h", limit=1000)
        assert [r.value for r in kept] == list(range(249, 242, -1))
        assert len(await world.ledger.read_history(NS, "all", limit=1000)) == 250

    async def test_one_commit_may_append_twice(self, world):
        await world.ledger.commit(transaction(Append("h", "first"), Append("h", "second")))
        entries = await world.ledger.read_history(NS, "h")
        assert [(e.value, e.revision) for e in entries] == [("second", 1), ("first", 1)]


class TestAudit:
    async def test_every_commit_has_its_entry(self, world):
        entry = AuditEntry(
            actor="bob",
            method="UpdateConfig",
            object="config/é",
            event="config.updated",
            reason="because",
            request_id="req",
            details={"from": "1", "to": "2"},
        )
        committed = await world.ledger.commit(transaction(put_name("k"), audit=entry))
        assert await world.ledger.read_audit(NS) == [(1, committed.at_ms, entry)]

    async def test_entries_come_oldest_first_and_in_pages(self, world):
        for n in range(10):
            await world.ledger.commit(transaction(put_name(f"k{n}")))
        page = await world.ledger.read_audit(NS, after=3, limit=4)
        assert [revision for revision, _, _ in page] == [4, 5, 6, 7]
        assert [r for r, _, _ in await world.ledger.read_audit(NS, after=9)] == [10]
        assert await world.ledger.read_audit(NS, after=10) == []
        assert await world.ledger.read_audit(NS, limit=0) == []
        assert len(await world.ledger.read_audit(NS, after=-5)) == 10


async def test_fifty_writers_leave_one_gap_free_history(world):
    """Revisions, audit entries and change entries are 1:1, whoever wrote and whoever lost."""
    writers, rounds = 50, 6
    won: list[int] = []

    async def write(ledger: Ledger, n: int) -> None:
        for r in range(rounds):
            steps = [put_name(f"w{n}-{r}")]
            if r % 3 == 2:  # everybody wants this one
                steps.append(put_name(f"contended-{r}", str(n), ABSENT))
            try:
                won.append((await ledger.commit(transaction(*steps))).revision)
            except ConditionFailed:
                continue

    async with world.new_ledger() as second:
        ledgers = [world.ledger, second]
        await asyncio.gather(*(write(ledgers[n % 2], n) for n in range(writers)))
    assert sorted(won) == list(range(1, writers * (rounds - rounds // 3) + rounds // 3 + 1))
    audit = await world.ledger.read_audit(NS, limit=1000)
    assert [revision for revision, _, _ in audit] == sorted(won)


async def test_a_lost_update_is_impossible(world):
    """Compare-and-set increments by many tasks add up."""
    await world.ledger.commit(transaction(put_name("counter", "0")))

    async def increment() -> None:
        while True:
            record = await read_name(world, "counter")
            step = put_name("counter", str(int(record.value) + 1), Expect(revision=record.revision))
            try:
                await world.ledger.commit(transaction(step))
            except ConditionFailed:
                continue
            return

    async with asyncio.timeout(20):
        await asyncio.gather(*(increment() for _ in range(30)))
    assert (await read_name(world, "counter")).value == "30"
