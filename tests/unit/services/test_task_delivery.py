"""Task streams: every lease once, its end unless the client knows, and one stream per instance."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from controlplane.domain.errors import InstanceFenced, InstanceNotFound, StoreUnavailable
from controlplane.domain.tasks import TaskReason
from controlplane.services.ids import TimeSortedIds
from controlplane.services.ports import Position
from controlplane.services.tasks.delivery import Assignment, Revocation, TaskDelivery
from tests.fakes.eventually import eventually
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.task_plane import CountingLedger
from tests.fakes.work_fleet import ADA, AGENT, NS, WorkFleet

SOON_SECONDS = 5.0


class Client:
    """Reads one stream in a task of its own, as a server's handler does."""

    def __init__(self, fleet: WorkFleet, delivery: TaskDelivery, instance_id: str) -> None:
        generation = fleet.one.view.instances[instance_id].instance.generation
        self.stream = delivery.deliver(NS, instance_id, generation)
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self.stream):
            async for event in self.stream:
                self.got.put_nowait(event)

    async def next(self) -> Any:
        """Return the next event about a lease."""
        while isinstance(event := await self.anything(), Position):
            pass
        return event

    async def anything(self) -> Any:
        """Return the next event, positions included."""
        async with asyncio.timeout(SOON_SECONDS):
            return await self.got.get()

    def is_quiet(self) -> bool:
        """Whether nothing was said about a lease beyond what was read."""
        while not self.got.empty():
            if not isinstance(self.got.get_nowait(), Position):
                return False
        return True

    async def ended(self) -> None:
        async with asyncio.timeout(SOON_SECONDS):
            await asyncio.wait((self.task,))
        assert self.is_quiet()
        await self.task

    async def disconnect(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task

    async def settle(self) -> None:
        """Let the stream come to rest; nothing is expected of it."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def fleet():
    fleet = WorkFleet()
    await fleet.add_agent("worker", max_concurrency=3)
    await fleet.join("w", "worker", stream=False)
    return fleet


@pytest.fixture
async def connect(fleet):
    clients: list[Client] = []

    def connect(instance_id: str = "w", **options: Any) -> Client:
        delivery = fleet.one.delivery
        if options:
            delivery = TaskDelivery(
                fleet.one.visible, fleet.one.read_model, fleet.one.data, Ids(), **options
            )
        clients.append(Client(fleet, delivery, instance_id))
        return clients[-1]

    yield connect
    for client in clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in clients), return_exceptions=True)


class Ids:
    def new_id(self, prefix: str) -> str:
        return f"{prefix}-1"


async def opened(fleet: WorkFleet) -> None:
    await eventually("the stream is open", lambda: "w" in fleet.one.view.work.task_streams)


async def test_an_open_stream_makes_an_instance_take_tasks(fleet, connect):
    task_id = await fleet.submit(payload=b"what to do")
    assert await fleet.one.assign() == 0
    await fleet.one.assigner.next_woken()
    client = connect()
    assert await fleet.one.assigner.next_woken() == NS
    await fleet.one.assign()
    event = await client.next()
    assert isinstance(event, Assignment)
    assert (event.task.task_id, event.task.epoch) == (task_id, 1)
    assert (event.payload, event.checkpoint, event.resumed) == (b"what to do", b"", False)


async def test_a_reconnected_client_gets_everything_it_holds_again(fleet, connect):
    first = connect()
    await opened(fleet)
    await fleet.submit(payload=b"one")
    await fleet.one.assign()
    event = await first.next()
    assert not event.resumed
    lease = await fleet.accept(event.task.task_id)
    await fleet.one.leases.progress(
        NS, lease, progress=0.5, message="", checkpoint=b"half", caller=AGENT
    )
    fleet.clock.shift(1)
    waiting = await fleet.submit(payload=b"two")
    await fleet.one.assign()
    assert not (await first.next()).resumed
    second = connect()
    again = [await second.next() for _ in range(2)]
    assert [(e.task.task_id, e.resumed, e.payload, e.checkpoint) for e in again] == [
        (lease.task_id, True, b"one", b"half"),
        (waiting, False, b"two", b""),
    ]
    await first.ended()


async def test_a_lease_is_sent_once_however_often_its_task_changes(fleet, connect):
    client = connect()
    await opened(fleet)
    lease = await fleet.running()
    await client.next()
    for _ in range(3):
        await fleet.one.leases.progress(
            NS, lease, progress=0.5, message="", checkpoint=None, caller=AGENT
        )
    await fleet.submit("somebody-else")
    await client.settle()
    assert client.is_quiet()


async def test_a_lease_that_was_taken_back_is_revoked(fleet, connect):
    client = connect()
    await opened(fleet)
    lease = await fleet.running()
    await client.next()
    await fleet.one.tasks.cancel(NS, lease.task_id, reason="never mind", caller=ADA)
    event = await client.next()
    assert event == Revocation(
        task_id=lease.task_id, epoch=lease.epoch, reason=TaskReason.CANCELLED
    )


async def test_a_new_lease_of_the_same_task_follows_the_end_of_the_old_one(fleet, connect):
    client = connect()
    await opened(fleet)
    lease = await fleet.running(attempt_timeout_ms=1_000)
    await client.next()
    fleet.clock.shift(1.1)
    await fleet.one.sweep()
    fleet.clock.shift(1.1)
    await fleet.one.assign()
    revoked, assigned = await client.next(), await client.next()
    assert (revoked.epoch, revoked.reason) == (lease.epoch, TaskReason.ATTEMPT_TIMEOUT)
    assert assigned.task.epoch > lease.epoch


@pytest.mark.parametrize("how", ["complete", "fail", "release", "refuse"])
async def test_an_end_that_the_client_asked_for_is_no_news(fleet, connect, how):
    client = connect()
    await opened(fleet)
    lease = await fleet.running()
    await client.next()
    if how == "complete":
        await fleet.complete(lease)
    else:
        await fleet.one.leases.fail(
            NS,
            lease,
            detail="",
            permanent=how == "refuse",
            release=how == "release",
            caller=AGENT,
        )
    await client.settle()
    assert client.is_quiet()


async def test_who_is_unknown_or_replaced_gets_no_stream(fleet, connect):
    client = connect()
    await opened(fleet)
    old = fleet.one.view.instances["w"].instance.generation
    await fleet.join("w", "worker", stream=False)
    with pytest.raises(InstanceFenced):
        await client.ended()
    with pytest.raises(InstanceFenced):
        await anext(fleet.one.delivery.deliver(NS, "w", old))
    with pytest.raises(InstanceNotFound):
        await anext(fleet.one.delivery.deliver(NS, "nobody", 1))


async def test_an_instance_that_leaves_loses_its_stream(fleet, connect):
    client = connect()
    await opened(fleet)
    await fleet.leave("w")
    with pytest.raises(InstanceNotFound):
        await client.ended()


async def test_a_client_that_goes_away_takes_no_more_tasks(fleet, connect):
    client = connect()
    await opened(fleet)
    await client.disconnect()
    assert await fleet.one.delivery.remove_left() == 1
    await fleet.submit()
    assert await fleet.one.assign() == 0
    assert fleet.one.view.work.task_streams == {}
    assert await fleet.one.delivery.remove_left() == 0


async def test_a_client_that_went_away_while_it_was_written_to_takes_no_more_tasks(fleet):
    generation = fleet.one.view.instances["w"].instance.generation
    stream = fleet.one.delivery.deliver(NS, "w", generation)
    assert isinstance(await anext(stream), Position)
    await fleet.submit()
    await fleet.one.assign()
    assert isinstance(await anext(stream), Assignment)
    with pytest.raises(asyncio.CancelledError):
        await stream.athrow(asyncio.CancelledError())
    assert await fleet.one.delivery.remove_left() == 1


async def test_a_stream_that_the_server_ends_stays_open_for_the_client_to_come_back(fleet):
    generation = fleet.one.view.instances["w"].instance.generation
    stream = fleet.one.delivery.deliver(NS, "w", generation)
    await anext(stream)
    await fleet.submit()
    await fleet.one.assign()
    assert isinstance(await anext(stream), Assignment)
    await stream.aclose()
    assert await fleet.one.delivery.remove_left() == 0
    assert "w" in fleet.one.view.work.task_streams


async def test_a_client_that_is_back_already_keeps_its_new_stream(fleet, connect):
    first = connect()
    await opened(fleet)
    await first.disconnect()
    second = connect()
    await fleet.one.assigner.next_woken()
    await second.settle()
    assert await fleet.one.delivery.remove_left() == 0
    assert len(fleet.one.view.work.task_streams) == 1


async def test_records_are_removed_once_the_store_answers_again(fleet):
    ledger = FaultyLedger(fleet.one.visible)
    delivery = TaskDelivery(ledger, fleet.one.read_model, fleet.one.data, Ids())
    client = Client(fleet, delivery, "w")
    await opened(fleet)
    await client.disconnect()
    ledger.fail_next()
    with pytest.raises(StoreUnavailable):
        await delivery.remove_left()
    assert await delivery.remove_left() == 1


async def test_a_fleet_that_goes_away_at_once_costs_two_round_trips(fleet):
    ledger = CountingLedger(fleet.one.visible)
    delivery = TaskDelivery(ledger, fleet.one.read_model, fleet.one.data, TimeSortedIds())
    names = [f"w{number}" for number in range(20)]
    for name in names:
        await fleet.join(name, "worker", stream=False)
    clients = [Client(fleet, delivery, name) for name in (*names, names[0])]
    for client in clients:
        assert isinstance(await client.anything(), Position)
    await clients[0].ended()
    for client in clients[1:]:
        await client.disconnect()
    ledger.calls.clear()
    assert await delivery.remove_left() == 20
    assert ledger.calls == ["read", "commit_many"]
    assert fleet.one.view.work.task_streams == {}


async def test_silence_is_answered_with_a_position(fleet, connect):
    client = connect(bookmark_seconds=0.01)
    await fleet.follow()
    for _ in range(3):
        assert isinstance(await client.anything(), Position)


async def test_a_position_ends_the_leases_that_a_reconnected_client_holds(fleet, connect):
    first = connect()
    await opened(fleet)
    lost = await fleet.running()
    held = await fleet.running()
    await first.disconnect()
    await fleet.one.tasks.cancel(NS, lost.task_id, reason="unheard", caller=ADA)
    second = connect()
    assert (await second.anything()).task.task_id == held.task_id
    assert isinstance(await second.anything(), Position)
    await second.settle()
    assert second.got.empty()


async def test_a_replica_that_lags_names_all_leases_before_it_says_so(fleet, connect, monkeypatch):
    monkeypatch.setattr("controlplane.services.families.CATCH_UP_SECONDS", 0.01)
    lagging = fleet.add_replica()
    await lagging.follow()
    fleet.replicas.remove(lagging)
    first = connect()
    await opened(fleet)
    lease = await fleet.running()
    assert (await first.next()).task.task_id == lease.task_id
    delivery = TaskDelivery(lagging.ledger, lagging.read_model, lagging.data, Ids())
    client = Client(fleet, delivery, "w")
    await eventually("it has opened its stream", lambda: is_open(fleet, "str-1"))
    await first.ended()
    await client.settle()
    assert client.got.empty()
    await lagging.follow()
    assert (await client.anything()).task.task_id == lease.task_id
    assert isinstance(await client.anything(), Position)
    await client.disconnect()


def is_open(fleet: WorkFleet, stream_id: str) -> bool:
    fleet.one.follow_now()
    return fleet.one.view.work.task_streams["w"].stream_id == stream_id


async def test_data_that_cannot_be_read_ends_the_stream(fleet):
    ledger = FaultyLedger(fleet.one.ledger)
    data = type(fleet.one.data)(ledger)
    delivery = TaskDelivery(fleet.one.visible, fleet.one.read_model, data, Ids())
    client = Client(fleet, delivery, "w")
    await opened(fleet)
    ledger.fail_next()
    await fleet.submit(payload=b"data")
    await fleet.one.assign()
    with pytest.raises(StoreUnavailable):
        await client.ended()


async def test_a_lease_that_ends_while_its_data_is_read_is_not_sent(fleet):
    class Slow:
        """Data that takes until the test says so."""

        def __init__(self) -> None:
            self.asked = asyncio.Event()
            self.go_on = asyncio.Event()

        async def payload(self, *_: str) -> bytes:
            self.asked.set()
            await self.go_on.wait()
            return b"data"

    data: Any = Slow()
    delivery = TaskDelivery(fleet.one.visible, fleet.one.read_model, data, Ids())
    client = Client(fleet, delivery, "w")
    await opened(fleet)
    first = await fleet.submit(payload=b"data")
    await fleet.one.assign()
    async with asyncio.timeout(SOON_SECONDS):
        await data.asked.wait()
    await fleet.one.tasks.cancel(NS, first, reason="", caller=ADA)
    second = await fleet.submit(payload=b"data")
    await fleet.one.assign()
    data.go_on.set()
    event = await client.next()
    assert isinstance(event, Assignment)
    assert event.task.task_id == second
    await client.disconnect()
