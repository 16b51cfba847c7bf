"""Leases end with those who held them; what cannot be done any more fails, with a reason."""

import pytest

from controlplane.domain.agents import InstanceState
from controlplane.domain.errors import (
    StoreUnavailable,
)
from controlplane.domain.routes import SessionPin, pin_key
from controlplane.domain.tasks import TaskReason, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
)
from controlplane.services.ports import Collection, Put
from controlplane.services.tasks.recovery import SWEEP_LIMIT
from controlplane.services.tasks.upkeep import PER_COMMIT, REMOVED_AT_ONCE, SCAN_SECONDS
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.work_fleet import (
    ACCEPT_MS,
    AGENT,
    NS,
    PIN_MS,
    RETENTION_MS,
    WorkFleet,
)


@pytest.fixture
async def fleet():
    return WorkFleet()


async def last_hop(fleet: WorkFleet, task_id: str) -> TaskReason:
    return (await fleet.task(task_id)).hops[-1].reason


async def test_a_silent_holder_loses_its_task_to_another_with_the_checkpoint(fleet):
    await fleet.add_agent("worker", "w1")
    lease = await fleet.running()
    await fleet.one.leases.progress(
        NS, lease, progress=0.5, message="", checkpoint=b"half", caller=AGENT
    )
    await fleet.join("w2", "worker")
    await fleet.silence("w1")
    assert await fleet.one.sweep() == 1
    assert await fleet.one.assign() == 1
    task = await fleet.task(lease.task_id)
    assert (task.instance_id, task.attempts, task.checkpoint_bytes) == ("w2", 1, 4)
    assert await last_hop(fleet, lease.task_id) is TaskReason.LEASE_LOST
    assert await fleet.one.data.checkpoint(NS, lease.task_id) == b"half"
    assert (await fleet.slots("w1"), await fleet.slots("w2")) == (0, 1)


async def test_who_wakes_up_too_late_is_fenced(fleet):
    await fleet.add_agent("worker", "w1", "w2")
    lease = await fleet.running()
    await fleet.silence(lease.instance_id)
    await fleet.one.sweep()
    await fleet.one.assign()
    await fleet.change_instance(lease.instance_id, state=InstanceState.FRESH)
    before = await fleet.task(lease.task_id)
    with pytest.raises(LeaseFenced):
        await fleet.one.leases.complete(NS, lease, result=b"late", caller=AGENT)
    with pytest.raises(LeaseFenced):
        await fleet.one.leases.progress(
            NS, lease, progress=1, message="", checkpoint=b"late", caller=AGENT
        )
    assert await fleet.task(lease.task_id) == before


async def test_a_newer_process_takes_the_leases_of_the_old_one_away(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    await fleet.join("w", "worker")
    assert await fleet.one.sweep() == 1
    assert await fleet.one.assign() == 1
    task = await fleet.task(lease.task_id)
    assert (task.instance_id, task.epoch > lease.epoch) == ("w", True)
    assert await last_hop(fleet, lease.task_id) is TaskReason.LEASE_LOST


async def test_who_leaves_loses_his_leases(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    await fleet.leave("w")
    await fleet.one.sweep()
    assert (await fleet.task(lease.task_id)).state is TaskState.PENDING


async def test_a_lost_lease_is_not_taken_from_who_came_back(fleet):
    """The copy of the replica that sweeps lags: the store refuses."""
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    await fleet.silence("w")
    late = fleet.add_replica()
    await late.follow()
    fleet.replicas.remove(late)
    await fleet.change_instance("w", state=InstanceState.FRESH)
    assert await late.recovery.sweep(NS) == 0
    assert (await fleet.task(lease.task_id)).state is TaskState.RUNNING


async def test_attempts_run_out_by_lost_leases(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running(max_attempts=1)
    await fleet.silence("w")
    await fleet.one.sweep()
    task = await fleet.task(lease.task_id)
    assert (task.state, task.reason) == (TaskState.FAILED, TaskReason.ATTEMPTS_EXHAUSTED)
    assert await fleet.slots("w") == 0


async def test_a_deadline_ends_a_task_wherever_it_is(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=2)
    running = (await fleet.running(deadline_ms=5_000)).task_id
    assigned = await fleet.submit(deadline_ms=5_000)
    await fleet.one.assign()
    waiting = await fleet.submit(deadline_ms=5_000)
    fleet.clock.shift(4.9)
    assert await fleet.one.sweep() == 0
    fleet.clock.shift(0.2)
    assert await fleet.one.sweep() == 3
    for task_id in (running, assigned, waiting):
        task = await fleet.task(task_id)
        assert (task.state, task.reason) == (TaskState.FAILED, TaskReason.DEADLINE_EXCEEDED)
    assert await fleet.slots("w") == 0
    assert await fleet.one.sweep() == 0


async def test_an_attempt_that_takes_too_long_is_charged_and_tried_again_after_a_pause(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running(attempt_timeout_ms=2_000)
    fleet.clock.shift(2.1)
    assert await fleet.one.sweep() == 1
    task = await fleet.task(lease.task_id)
    assert (task.state, task.reason, task.attempts) == (
        TaskState.PENDING,
        TaskReason.ATTEMPT_TIMEOUT,
        1,
    )
    assert task.not_before_ms == fleet.clock.store_ms() + 1_000


async def test_an_assignment_nobody_accepts_goes_back_uncharged(fleet):
    await fleet.add_agent("worker", "w")
    task_id = await fleet.submit()
    await fleet.one.assign()
    fleet.clock.shift((ACCEPT_MS - 100) / 1000)
    assert await fleet.one.sweep() == 0
    fleet.clock.shift(0.2)
    assert await fleet.one.sweep() == 1
    task = await fleet.task(task_id)
    assert (task.state, task.reason, task.attempts) == (
        TaskState.PENDING,
        TaskReason.NOT_ACCEPTED,
        0,
    )


async def test_sweeps_are_bounded_and_come_to_an_end(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=3 * SWEEP_LIMIT)
    await fleet.submit_many(2 * SWEEP_LIMIT + 30)
    assert await fleet.one.assign() == 2 * SWEEP_LIMIT + 30
    await fleet.leave("w")
    moved = [await fleet.one.sweep() for _ in range(4)]
    assert moved == [SWEEP_LIMIT, SWEEP_LIMIT, 30, 0]
    assert await fleet.slots("w") == 0


async def test_the_oldest_deadlines_come_first(fleet):
    late = await fleet.submit_many(SWEEP_LIMIT, deadline_ms=9_000)
    early = await fleet.submit(deadline_ms=1_000)
    fleet.clock.shift(20)
    await fleet.one.sweep()
    assert (await fleet.task(early)).state is TaskState.FAILED
    assert sum(fleet.states()[one] is TaskState.FAILED for one in late) == SWEEP_LIMIT - 1


async def test_a_move_that_the_store_did_not_answer_is_made_by_the_next_sweep(fleet):
    faulty: list[FaultyLedger] = []

    def wrap(ledger):
        faulty.append(FaultyLedger(ledger))
        return faulty[0]

    await fleet.add_agent("worker", "w")
    await fleet.running()
    replica = fleet.add_replica(wrap)
    await replica.sweep()
    await fleet.silence("w")
    faulty[0].fail_next()
    with pytest.raises(StoreUnavailable):
        await replica.sweep()
    assert await replica.sweep() == 1


async def test_recovery_wakes_the_assigner_for_free_slots_and_waiting_tasks(fleet):
    await fleet.add_agent("worker", "w")
    await fleet.running()
    await fleet.silence("w")
    await fleet.one.sweep()
    assert await fleet.one.assigner.next_woken() == NS


async def test_ended_tasks_are_removed_with_their_data_when_they_were_kept_long_enough(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=500)
    lease = await fleet.running(payload=b"data")
    await fleet.one.leases.complete(NS, lease, result=b"result", caller=AGENT)
    others = [await fleet.running() for _ in range(PER_COMMIT + 3)]
    for other in others:
        await fleet.complete(other)
    waiting = await fleet.submit("absent")
    fleet.clock.shift(RETENTION_MS / 1000 - 0.1)
    await fleet.one.sweep()
    assert len(fleet.states()) == PER_COMMIT + 5
    fleet.clock.shift(2)
    await fleet.one.sweep()
    assert list(fleet.states()) == [waiting]
    keys = list(fleet.store.namespaces[NS].records[Collection.TASK_DATA])
    assert keys == []
    assert len(fleet.one.view.work.tasks.ended) == 0


async def test_two_replicas_remove_old_tasks_together(fleet):
    other = fleet.add_replica()
    ids = await fleet.submit_many(REMOVED_AT_ONCE + 200, "absent", deadline_ms=1_000)
    fleet.clock.shift(2)
    for _ in range(20):
        await fleet.one.sweep()
    assert all(fleet.states()[one] is TaskState.FAILED for one in ids)
    await other.follow()
    fleet.clock.shift(RETENTION_MS / 1000)
    for _ in range(3):
        fleet.clock.shift(2)
        await other.recovery.sweep(NS)
        await fleet.one.sweep()
        await other.follow()
    assert fleet.states() == {}


async def test_pins_of_sessions_that_are_over_are_swept(fleet):
    now = fleet.clock.store_ms()
    for session in ("idle", "busy"):
        pin = SessionPin(name="worker", session_id=session, agent_id="worker", used_at_ms=now)
        await fleet.commit(Put(Collection.SESSION_PINS, pin_key("worker", session), pin))
    await fleet.submit(session_id="busy")
    fleet.clock.shift(PIN_MS / 1000 - 1)
    await fleet.one.sweep()
    assert len(fleet.one.view.work.pins) == 2
    fleet.clock.shift(2 * SCAN_SECONDS)
    await fleet.one.sweep()
    assert list(fleet.one.view.work.pins) == [pin_key("worker", "busy")]


async def test_streams_of_processes_that_are_gone_are_swept(fleet):
    await fleet.add_agent("worker", "gone", "newer", "here")
    await fleet.leave("gone")
    await fleet.join("newer", "worker", stream=False)
    await fleet.one.sweep()
    assert list(fleet.one.view.work.task_streams) == ["here"]


async def test_leases_are_looked_at_again_after_the_whole_copy_was_replaced(fleet):
    await fleet.add_agent("worker", "w")
    await fleet.running()
    await fleet.one.sweep()
    await fleet.silence("w")
    replica = fleet.one
    fresh = replica.read_model.new_view(NS)
    async for position, batch in replica.feed.load(NS):
        fresh.apply(batch, position)
    replica.read_model.swap(fresh)
    assert await replica.sweep() == 1
