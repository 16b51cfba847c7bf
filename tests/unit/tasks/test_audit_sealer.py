"""The loops of the audit: what they seal and write, when, and what stops them."""

import asyncio
import logging

import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.audit.chain import Keys
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.errors import StoreUnavailable
from controlplane.services.audit.attribution import AttributedLedger, enter_origin
from controlplane.services.audit.refused import Refusal, RefusedCalls
from controlplane.services.audit.sealing import AuditSealer
from controlplane.services.hub import Hub
from controlplane.services.ports import AuditEntry, Position
from controlplane.services.read_model import ReadModel
from controlplane.tasks.audit_sealer import (
    RETENTION_SECONDS,
    STAND_BY_SECONDS,
    STUCK_SECONDS,
    AuditSealing,
)
from controlplane.tasks.refusal_writer import PERIOD_SECONDS, RefusalWriter
from tests.fakes.audit_world import NS, MemoryAuditWorld
from tests.fakes.clock import FakeClock
from tests.fakes.transactions import transaction

REFUSAL = Refusal(
    namespace="",
    actor="user:eve",
    caller_kind="user",
    network="10.0.0.1",
    method="Register",
    reason="PERMISSION_DENIED",
)


class Replica:
    """One replica's loop over a world that it follows when it is told to."""

    def __init__(self, world: MemoryAuditWorld) -> None:
        assert isinstance(world.clock, FakeClock)
        self.clock = world.clock
        self.world = world
        self.read_model = ReadModel(Hub())
        self.read_model.ready = True
        sealer = AuditSealer(world.log, world.clock, Keys())
        keeper = world.keeper(retention_days=1)
        self.loop = AuditSealing(sealer, keeper, self.read_model, world.clock)

    async def round(self) -> int:
        """Follow, look once, and return through where the audit is sealed."""
        view = self.read_model.new_view(NS)
        view.position = Position(revision=(await self.world.log.extent(NS)).last)
        self.read_model.swap(view)
        await self.loop.round()
        return (await self.world.log.extent(NS)).sealed


@pytest.fixture
def world() -> MemoryAuditWorld:
    return MemoryAuditWorld()


async def test_what_is_a_second_old_is_sealed(world):
    replica = Replica(world)
    await world.write(3)
    assert await replica.round() == 0
    replica.clock.shift(1)
    assert await replica.round() == 3


async def test_who_was_slower_leaves_a_namespace_to_the_other_for_a_while(world):
    fast, slow = Replica(world), Replica(world)
    await world.write(1)
    fast.clock.shift(1)
    assert await fast.round() == 1
    await world.write(1)
    fast.clock.shift(1)
    stale = world.log.extent
    held = await world.log.extent(NS)

    async def late(_namespace: str):
        return held

    # The other seals between the look and the seal of this one.
    assert await fast.round() == 2
    world.log.extent = late
    await slow.loop.round()
    world.log.extent = stale
    await slow.round()
    await world.write(1)
    slow.clock.shift(1.1)
    assert await slow.round() in {2, 3}
    slow.clock.shift(STAND_BY_SECONDS * 2)
    assert await slow.round() == 3
    assert (await world.verify()).problem is None


async def test_a_missing_seal_stops_the_sealing_and_is_said_once(world, caplog):
    replica = Replica(world)
    await world.write(2)
    replica.clock.shift(1)
    assert await replica.round() == 2
    await world.remove_seal(2)
    await world.write(1)
    other = Replica(world)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            other.clock.shift(STUCK_SECONDS + 1)
            assert await other.round() == 2
    assert caplog.text.count("nothing more is sealed") == 1


async def test_a_store_that_is_away_is_tried_again(world):
    replica = Replica(world)
    await world.write(1)
    replica.clock.shift(1)
    await replica.round()
    await world.write(1)
    replica.clock.shift(1)
    whole = world.log.append_seal

    async def away(_namespace: str, _seal):
        raise StoreUnavailable

    world.log.append_seal = away
    assert await replica.round() == 1
    assert replica.loop.failures == 1
    world.log.append_seal = whole
    assert await replica.round() == 2


async def test_retention_is_looked_after_now_and_then(world):
    replica = Replica(world)
    await world.write(2)
    replica.clock.shift(1)
    await replica.round()
    verified = (await world.verify()).verified
    assert isinstance(verified, Checkpoint)
    await world.keeper().confirm(NS, verified, reason="", actor="ann")
    replica.clock.shift(2 * 86_400)
    await replica.round()
    assert (await world.log.extent(NS)).first == 3
    await world.seal()
    assert (await world.verify()).problem is None
    assert RETENTION_SECONDS < 86_400


async def test_refusals_are_written_every_few_seconds_and_once_more_at_the_end(world):
    assert isinstance(world.clock, FakeClock)
    read_model = ReadModel(Hub())
    read_model.ready = True
    refused = RefusedCalls(world.ledger, read_model, world.clock)
    running = asyncio.create_task(RefusalWriter(refused, world.clock).run())
    refused.note(REFUSAL, "r-1")
    refused.note(REFUSAL, "r-2")
    await world.clock.advance(PERIOD_SECONDS)
    (first,) = await world.ledger.read_audit(SYSTEM_NAMESPACE)
    assert (first[2].details["count"], first[2].request_id) == ("2", "r-1")
    refused.note(REFUSAL, "r-3")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await world.ledger.read_audit(SYSTEM_NAMESPACE)) == 2


async def test_refusals_survive_a_store_that_is_away(world):
    assert isinstance(world.clock, FakeClock)
    read_model = ReadModel(Hub())
    refused = RefusedCalls(world.ledger, read_model, world.clock)
    writer = RefusalWriter(refused, world.clock)
    refused.note(REFUSAL, "r-1")
    await writer.round()  # this replica does not know its namespaces yet
    assert (writer.failures, refused.noted) == (1, 1)
    refused.note(REFUSAL, "r-2")
    read_model.ready = True
    await writer.round()
    ((_, _, entry),) = await world.ledger.read_audit(SYSTEM_NAMESPACE)
    assert entry.details["count"] == "2"


class Here:
    address = "ipv4:10.0.0.7:40112"
    caller_kind = "user"


async def test_a_commit_says_where_its_call_came_from_and_no_other_does(world):
    ledger = AttributedLedger(world.ledger)

    async def answering() -> None:
        enter_origin(Here())
        await ledger.commit(transaction(namespace=NS))
        async with asyncio.TaskGroup() as group:
            group.create_task(ledger.commit_many([transaction(namespace=NS)]))

    await asyncio.create_task(answering())
    await ledger.commit(transaction(namespace=NS))
    audit = [entry for _, _, entry in await ledger.read_audit(NS)]
    assert [entry.address for entry in audit] == [Here.address, Here.address, ""]
    assert [entry.caller_kind for entry in audit] == ["user", "user", ""]


async def test_entries_of_an_older_release_can_be_read(world):
    await world.write(1)
    await world._rewrite({1: (5, b'{"actor":"a","method":"M","object":"o"}')})
    ((_, _, entry),) = await world.ledger.read_audit(NS)
    assert entry == AuditEntry(actor="a", method="M", object="o")
