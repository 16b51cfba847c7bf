"""The loops that move tasks along, on a clock that the test moves."""

import asyncio

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.tasks import TaskState
from controlplane.services.tasks.turns import LEFT_TO_OTHERS_MS
from controlplane.tasks.task_dispatcher import (
    LEFT_TO_OTHERS_SECONDS,
    SEEN_SECONDS,
    STEP_SECONDS,
    TICK_SECONDS,
    TaskDispatcher,
)
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.work_fleet import NS, WorkFleet, WorkReplica


class Running:
    """A dispatcher at work; its replica follows at every step of the clock."""

    def __init__(self, fleet: WorkFleet, replica: WorkReplica) -> None:
        self.fleet = fleet
        self.dispatcher = TaskDispatcher(
            replica.assigner, replica.recovery, replica.delivery, replica.read_model, replica.clock
        )
        self.task = asyncio.create_task(self.dispatcher.run())

    async def advance(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / 0.01))):
            await self.fleet.clock.advance(0.01)
            await self.fleet.follow()
            assert not self.task.done(), self.task

    async def stop(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


@pytest.fixture
async def fleet():
    fleet = WorkFleet()
    await fleet.add_agent("worker", "w", max_concurrency=3)
    return fleet


@pytest.fixture
async def running(fleet):
    running = Running(fleet, fleet.one)
    await running.advance(1)
    yield running
    await running.stop()


async def state(fleet: WorkFleet, task_id: str) -> TaskState:
    return (await fleet.task(task_id)).state


async def test_what_is_submitted_here_is_assigned_at_once(fleet, running):
    task_id = await fleet.submit()
    await fleet.clock.advance(0)
    assert await state(fleet, task_id) is TaskState.ASSIGNED
    await running.advance(0.01)


async def test_what_is_submitted_elsewhere_is_left_to_its_replica_for_a_moment(fleet, running):
    other = fleet.add_replica()
    await other.follow()
    fleet.one, here = other, fleet.one
    task_id = await fleet.submit()
    assert here is not other
    await running.advance(LEFT_TO_OTHERS_SECONDS[0] - 0.05)
    assert await state(fleet, task_id) is TaskState.PENDING
    await running.advance(LEFT_TO_OTHERS_SECONDS[1] - LEFT_TO_OTHERS_SECONDS[0] + 0.1)
    assert await state(fleet, task_id) is TaskState.ASSIGNED


async def test_a_lost_lease_is_assigned_to_another_within_a_tick(fleet, running):
    task_id = await fleet.submit()
    await running.advance(0.02)
    await fleet.join("w2", "worker")
    await fleet.silence("w")
    await running.advance(TICK_SECONDS + 0.1)
    task = await fleet.task(task_id)
    assert (task.instance_id, task.hop_count) == ("w2", 1)


async def test_a_task_whose_pause_is_over_is_assigned_by_itself(fleet, running):
    task_id = await fleet.submit("absent")
    await fleet.rewrite(task_id, not_before_ms=fleet.clock.store_ms() + 3_000)
    await fleet.add_agent("absent", "a")
    await running.advance(2.9)
    assert await state(fleet, task_id) is TaskState.PENDING
    await running.advance(1.3)
    assert await state(fleet, task_id) is TaskState.ASSIGNED


async def test_a_replica_that_was_too_late_looks_again_soon(fleet):
    """It decided on an old copy; a slot is free all the same."""
    late = fleet.add_replica()
    task_id = await fleet.submit()
    fleet.clock.shift(LEFT_TO_OTHERS_MS / 1000)
    running = Running(fleet, late)
    fleet.replicas.remove(late)
    await fleet.change_agent("worker", pending=None)
    await fleet.clock.advance(0)
    assert late.assigner.contested == 1
    fleet.replicas.append(late)
    await running.advance(SEEN_SECONDS[1] + 2 * STEP_SECONDS)
    assert await state(fleet, task_id) is TaskState.ASSIGNED
    await running.stop()


async def test_a_new_task_is_assigned_even_if_the_replica_that_took_it_in_is_gone(fleet):
    other = fleet.add_replica()
    running = Running(fleet, other)
    await running.advance(0.1)
    task_id = await fleet.submit()
    other.assigner.wake(NS)
    await running.advance(0.1)
    assert await state(fleet, task_id) is TaskState.PENDING
    assert other.assigner.left_to_others
    # The next look may come a moment too early, and leaves it to the one after.
    await running.advance(2 * LEFT_TO_OTHERS_SECONDS[1] + 2 * STEP_SECONDS)
    assert await state(fleet, task_id) is TaskState.ASSIGNED
    assert other.assigner.contested == 0
    await running.stop()


async def test_a_store_that_is_away_is_waited_for():
    faulty: list[FaultyLedger] = []

    def wrap(ledger):
        faulty.append(FaultyLedger(ledger))
        return faulty[0]

    fleet = WorkFleet()
    replica = fleet.add_replica(wrap)
    await fleet.add_agent("worker", "w")
    running = Running(fleet, replica)
    await running.advance(0.5)
    task_id = await fleet.submit(deadline_ms=1_000)
    faulty[0].fail_next(times=5)
    replica.assigner.wake(NS)
    await running.advance(0.5)
    assert running.dispatcher.failures >= 1
    await running.advance(4)
    assert await state(fleet, task_id) is TaskState.FAILED
    await running.stop()


async def test_any_other_failure_ends_the_dispatcher(fleet):
    async def broken(*_: object) -> int:
        raise ValueError("a mistake in the program")

    fleet.one.assigner.assign = broken
    dispatcher = Running(fleet, fleet.one)
    fleet.one.assigner.wake(NS)
    with pytest.raises(ValueError, match="a mistake in the program"):
        await dispatcher.task


async def test_a_namespace_that_cannot_be_swept_does_not_hold_up_the_others(fleet):
    model, swept, sweep = fleet.one.read_model, set[str](), fleet.one.recovery.sweep
    model.swap(model.new_view("broken"))
    model.swap(model.new_view("whole"))

    async def partly(namespace: str) -> int:
        swept.add(namespace)
        if namespace == "broken":
            raise StoreUnavailable
        return await sweep(namespace)

    fleet.one.recovery.sweep = partly
    running = Running(fleet, fleet.one)
    await running.advance(0.01)
    assert swept == {NS, "broken", "whole"}
    await running.stop()


async def test_streams_of_clients_that_went_away_are_closed(fleet, running):
    generation = fleet.one.view.instances["w"].instance.generation
    stream = fleet.one.delivery.deliver(NS, "w", generation)
    await anext(stream)  # it says that it has named every lease
    reading = asyncio.create_task(anext(stream))
    await running.advance(0.01)
    opened = fleet.one.view.work.task_streams["w"]
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert opened.stream_id
    await running.advance(TICK_SECONDS + 0.02)
    assert fleet.one.view.work.task_streams == {}


async def test_two_dispatchers_finish_everything_together(fleet):
    other = fleet.add_replica()
    both = [Running(fleet, fleet.one), Running(fleet, other)]
    await both[0].advance(0.5)
    ids = await fleet.submit_many(40)
    for _ in range(200):
        for task_id in fleet.held("w"):
            if fleet.states()[task_id] is TaskState.ASSIGNED:
                await fleet.complete(await fleet.accept(task_id))
        await both[0].advance(0.01)
        if all(one.is_terminal for one in fleet.states().values()):
            break
    assert {fleet.states()[one] for one in ids} == {TaskState.SUCCEEDED}
    assert {(await fleet.task(one)).hop_count for one in ids} == {1}
    for one in both:
        await one.stop()


async def test_an_unavailable_store_is_no_reason_to_spin(fleet):
    passes = 0

    async def unavailable(*_: object) -> int:
        nonlocal passes
        passes += 1
        raise StoreUnavailable

    fleet.one.assigner.assign = unavailable
    running = Running(fleet, fleet.one)
    fleet.one.assigner.wake(NS)
    await running.advance(1)
    assert 5 <= passes <= 12
    await running.stop()
