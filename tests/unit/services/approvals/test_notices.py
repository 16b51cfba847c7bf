"""Webhooks about approvals: told of every state, by one replica, until it is acknowledged."""

import asyncio
import json
from dataclasses import replace

import pytest

from controlplane.domain.approvals import outbox
from controlplane.domain.approvals.model import (
    Approval,
    ApprovalState,
    BoundAction,
    Requirement,
    Stage,
)
from controlplane.domain.errors import StoreUnavailable
from controlplane.services.approvals.notices import ApprovalNotices, WebhookRefused
from controlplane.services.ports import AuditEntry, Collection, Delete, Put, Step, Transaction
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.plane import NS, Plane

APPROVAL = Approval(
    approval_id="apr-1",
    action=BoundAction(
        agent_id="agt-1", agent_name="writer", agent_version="1.0.0", action="database_write"
    ),
    digest="sha256:00",
    requirement=Requirement(stages=(Stage(name=""),), ttl_ms=900_000, use_window_ms=300_000),
    requested_by="user:ann",
    opened_at_ms=0,
    expires_at_ms=900_000,
    state=ApprovalState.PENDING,
)


class Receiver:
    """Somebody else's server, in memory."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, dict[str, object]]] = []
        self.refuses = ""
        self.hold: asyncio.Event | None = None
        self.arrived = asyncio.Event()

    async def post(self, message_id: str, timestamp: int, body: bytes) -> None:
        self.messages.append((message_id, timestamp, json.loads(body)))
        self.arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.refuses:
            raise WebhookRefused(self.refuses)

    @property
    def types(self) -> list[object]:
        return [body["type"] for _, _, body in self.messages]


class World:
    """A plane with one approval, and what tells of it."""

    def __init__(self) -> None:
        self.plane = Plane()
        self.receiver = Receiver()
        self.notices = self.another_replica()

    def another_replica(self) -> ApprovalNotices:
        return ApprovalNotices(
            self.plane.ledger,
            self.plane.read_model,
            self.plane.clock,
            self.receiver,
            lambda namespace, one: {"namespace": namespace, "approval_id": one.approval_id},
        )

    async def write(self, step: Step) -> None:
        audit = AuditEntry(actor="somebody", method="Test", object="test")
        await self.plane.ledger.commit(Transaction(namespace=NS, steps=(step,), audit=audit))
        await self.plane.follow()

    async def state(self, state: ApprovalState) -> None:
        approval = replace(APPROVAL, state=state)
        await self.write(Put(Collection.APPROVALS, approval.approval_id, approval))

    async def tick(self) -> int:
        told = await self.notices.tick(NS)
        await self.plane.follow()
        return told


@pytest.fixture
async def world() -> World:
    one = World()
    await one.state(ApprovalState.PENDING)
    return one


async def test_every_state_is_told_once_under_an_id_of_its_own(world: World) -> None:
    assert (await world.tick(), await world.tick()) == (1, 0)
    await world.state(ApprovalState.GRANTED)
    assert (await world.tick(), await world.tick()) == (1, 0)
    assert world.receiver.types == ["approval.pending", "approval.granted"]
    ids = [message_id for message_id, _, _ in world.receiver.messages]
    assert len(set(ids)) == 2
    assert all(message_id.startswith(f"{NS}.apr-1.") for message_id in ids)


async def test_what_is_refused_is_told_again_under_the_same_id(world: World) -> None:
    world.receiver.refuses = "HTTP 500"
    assert (await world.tick(), await world.tick()) == (0, 0)
    assert len(world.receiver.messages) == 1, "there is a pause after a failure"
    world.receiver.refuses = ""
    world.plane.clock.shift(outbox.RETRY_MS[0] / 1000)
    assert await world.tick() == 1
    (first, *_), (second, *_) = world.receiver.messages
    assert first == second
    entries = await world.plane.ledger.read_audit(NS)
    events = [entry.event for _, _, entry in entries]
    assert events[1:] == [
        "webhook.claimed",
        "webhook.failed",
        "webhook.claimed",
        "webhook.delivered",
    ]


async def test_two_replicas_tell_it_once(world: World) -> None:
    world.receiver.hold = asyncio.Event()
    other = world.another_replica()
    async with asyncio.timeout(5), asyncio.TaskGroup() as both:
        ticks = [both.create_task(one.tick(NS)) for one in (world.notices, other)]
        await world.receiver.arrived.wait()
        world.receiver.hold.set()
    assert sum(task.result() for task in ticks) == 1
    assert len(world.receiver.messages) == 1


async def test_what_is_gone_is_forgotten(world: World) -> None:
    await world.tick()
    await world.write(Delete(Collection.APPROVALS, "apr-1"))
    await world.tick()
    assert not world.plane.read_model.view(NS).governance.table(Collection.WEBHOOK_OUTBOX)


async def test_people_are_reminded_at_half_and_at_four_fifths_of_the_time(world: World) -> None:
    await world.tick()
    opened = world.plane.clock.store_ms() - APPROVAL.opened_at_ms
    assert opened > APPROVAL.expires_at_ms, "the approval of the other tests is over long ago"
    now = world.plane.clock.store_ms()
    running = replace(APPROVAL, opened_at_ms=now, expires_at_ms=now + 900_000)
    await world.write(Put(Collection.APPROVALS, running.approval_id, running))
    shares = []
    for _ in range(30):
        world.plane.clock.shift(30)
        await world.tick()
        shares.append(
            [body["type"] for _, _, body in world.receiver.messages].count("approval.reminder")
        )
    assert shares[14] == 1, "after 450 of 900 s"
    assert shares[13] == 0
    assert (shares[23], shares[22]) == (2, 1)
    assert shares[-1] == 2
    ids = [message_id for message_id, _, body in world.receiver.messages]
    assert len(set(ids)) == len(ids)


async def test_a_namespace_in_which_nothing_happens_is_not_looked_through(world: World) -> None:
    await world.tick()
    await world.tick()
    looks = world.plane.read_model.view(NS).governance

    def refuse(_: Collection) -> dict[str, object]:
        raise AssertionError("it was looked through")

    looks.table = refuse  # type: ignore[method-assign, assignment]  # counts what is read
    assert await world.notices.tick(NS) == 0


async def test_a_store_that_is_away_leaves_nothing_running_behind(world: World) -> None:
    other = replace(APPROVAL, approval_id="apr-2")
    await world.write(Put(Collection.APPROVALS, other.approval_id, other))
    faulty = FaultyLedger(world.plane.ledger)
    notices = ApprovalNotices(
        faulty, world.plane.read_model, world.plane.clock, world.receiver, lambda *_: {}
    )
    faulty.fail_next()
    world.receiver.hold = asyncio.Event()
    tick = asyncio.create_task(notices.tick(NS))
    async with asyncio.timeout(5):
        await world.receiver.arrived.wait()  # one has failed, the other is being told
        assert not tick.done()
        world.receiver.hold.set()
        with pytest.raises(StoreUnavailable):
            await tick
    assert len(world.receiver.messages) == 1
