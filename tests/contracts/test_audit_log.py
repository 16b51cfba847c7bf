"""What every `AuditLog` promises."""

import pytest

from controlplane.domain.audit.chain import Seal, genesis, leaf_of, seal_of
from controlplane.services.ports import AuditEntry
from controlplane.storage.memory import MemoryAuditLog
from controlplane.storage.redis.audit_log import RedisAuditLog
from tests.fakes.store_world import MemoryWorld, RedisWorld
from tests.fakes.transactions import NS, put_name, transaction


@pytest.fixture
def log(world):
    if isinstance(world, MemoryWorld):
        return MemoryAuditLog(world.store)
    assert isinstance(world, RedisWorld)
    return RedisAuditLog(world.connection)


async def write(world, count: int, namespace: str = NS) -> None:
    for number in range(count):
        await world.ledger.commit(transaction(put_name(f"n{number}"), namespace=namespace))


async def seal(log, first: int, last: int, previous: bytes = b"p" * 32) -> Seal:
    entries = await log.entries(NS, after=first - 1, limit=last - first + 1)
    return seal_of(first, map(leaf_of, entries), previous, None)


async def test_entries_come_in_order_from_either_end(world, log):
    await write(world, 7)
    assert [e.sequence for e in await log.entries(NS, after=2, limit=3)] == [3, 4, 5]
    assert [e.sequence for e in await log.entries_before(NS, before=6, limit=3)] == [5, 4, 3]
    assert [e.sequence for e in await log.entries_before(NS, before=2**63, limit=2)] == [7, 6]
    assert await log.entries(NS, after=7, limit=3) == []
    assert await log.entries_before(NS, before=1, limit=3) == []
    assert await log.entries(NS, after=0, limit=0) == await log.entries("x", after=0, limit=9) == []


async def test_a_transaction_without_steps_leaves_an_entry(world):
    entry = AuditEntry(actor="a", method="M", object="o", address="ipv4:1", caller_kind="user")
    committed = await world.ledger.commit(transaction(audit=entry))
    assert committed.revision == 1
    assert await world.ledger.read_audit(NS) == [(1, committed.at_ms, entry)]
    async with world.feed() as feed:
        ((position, touched),) = [batch async for batch in feed.load(NS)]
        assert touched == []
        await world.ledger.commit(transaction(audit=entry))
        caught_up = await feed.catch_up(NS, position)
        assert (caught_up.position.revision, caught_up.touched) == (2, ())


async def test_the_extent_knows_what_was_there(world, log):
    assert await log.extent(NS) == (0, 0, 0)
    await write(world, 3)
    assert await log.extent(NS) == (1, 3, 0)
    assert await log.append_seal(NS, await seal(log, 1, 2))
    assert await log.extent(NS) == (1, 3, 2)
    await log.trim(NS, 2)
    assert await log.extent(NS) == (3, 3, 2)


async def test_seals_are_given_back_as_they_were(world, log):
    await write(world, 5)
    assert await log.newest_seal(NS) is None
    first = await seal(log, 1, 2, genesis(NS))
    second = await seal(log, 3, 5, first.head)
    assert await log.append_seal(NS, first)
    assert await log.append_seal(NS, second)
    assert await log.newest_seal(NS) == second
    assert await log.seals(NS, after=0, limit=9) == [first, second]
    assert await log.seals(NS, after=1, limit=1) == [first]
    assert await log.seals(NS, after=2, limit=9) == [second]
    assert await log.seals(NS, after=5, limit=9) == []


async def test_of_two_who_seal_the_same_one_succeeds(world, log):
    await write(world, 4)
    one, other = await seal(log, 1, 3), await seal(log, 1, 4)
    assert await log.append_seal(NS, one)
    assert not await log.append_seal(NS, other)
    assert not await log.append_seal(NS, one)
    assert not await log.append_seal(NS, await seal(log, 3, 4))
    assert not await log.append_seal(NS, await seal(log, 4, 4, b"o" * 32))
    assert await log.append_seal(NS, await seal(log, 4, 4, one.head))


async def test_nothing_is_sealed_before_the_first_entry_is(world, log):
    await write(world, 4)
    assert not await log.append_seal(NS, await seal(log, 2, 4))


async def test_a_trim_keeps_the_seal_that_it_ends_in(world, log):
    await write(world, 6)
    seals = [await seal(log, 1, 2)]
    seals.append(await seal(log, 3, 5, seals[-1].head))
    seals.append(await seal(log, 6, 6, seals[-1].head))
    for one in seals:
        assert await log.append_seal(NS, one)
    assert await log.trim(NS, 4) == 4
    assert [e.sequence for e in await log.entries(NS, after=0, limit=9)] == [5, 6]
    assert await log.seals(NS, after=0, limit=9) == seals[1:]
    assert await log.trim(NS, 4) == 0
    assert await log.trim(NS, 5) == 1
    assert await log.seals(NS, after=0, limit=9) == seals[1:]
    assert await log.trim(NS, 6) == 1
    assert await log.seals(NS, after=0, limit=9) == seals[2:]
    await write(world, 1)
    assert await log.append_seal(NS, await seal(log, 7, 7, seals[-1].head))


async def test_a_history_goes_on_after_all_of_it_was_trimmed(world, log):
    await write(world, 2)
    assert await log.append_seal(NS, await seal(log, 1, 2))
    await log.trim(NS, 2)
    await write(world, 1)
    assert [e.sequence for e in await log.entries(NS, after=0, limit=9)] == [3]
    assert [revision for revision, _, _ in await world.ledger.read_audit(NS)] == [3]


async def test_namespaces_have_audits_of_their_own(world, log):
    await write(world, 2)
    await write(world, 1, "team-b")
    assert await log.append_seal(NS, await seal(log, 1, 2))
    assert await log.extent("team-b") == (1, 1, 0)
    assert await log.seals("team-b", after=0, limit=9) == []
