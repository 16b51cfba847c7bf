"""Leases end with those who held them; what cannot be done any more fails, with a reason."""

from inspect import iscoroutinefunction
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.errors import LeaseFenced, StoreUnavailable
from controlplane.domain.routes import SessionPin, pin_key
from controlplane.domain.tasks import TaskReason, TaskState
from controlplane.services.ports import Collection, Put
from controlplane.services.task_recovery import SWEEP_LIMIT, HandedOver
from controlplane.services.task_upkeep import PER_COMMIT, REMOVED_AT_ONCE, SCAN_SECONDS
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.work_fleet import (
    ACCEPT_MS,
    AGENT,
    NS,
    PIN_MS,
    RETENTION_MS,
    WorkFleet,
    WorkReplica,
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


async def test_tasks_of_a_stopped_agent_go_to_another_with_the_capabilities(fleet):
    await fleet.add_agent("worker", "w", capabilities=("c", "d"), max_concurrency=2)
    held = await fleet.running(capabilities=("c",))
    assigned = await fleet.submit(capabilities=("d", "c"))
    await fleet.one.assign()
    waiting = await fleet.submit(capabilities=("c",))
    await fleet.add_agent("other", "o", capabilities=("c", "d"), max_concurrency=9)
    await fleet.stop_agent("worker", "too expensive")
    over = await fleet.one.recovery.hand_over(NS, "worker", reason="too expensive", actor="ada")
    assert over == HandedOver(requeued=3, failed=0)
    await fleet.follow()
    assert await fleet.one.assign() == 3
    for task_id in (held.task_id, assigned, waiting):
        task = await fleet.task(task_id)
        assert (task.agent_id, task.attempts) == ("other", 0)
    assert await last_hop(fleet, held.task_id) is TaskReason.DEACTIVATED
    audit = [entry for _, _, entry in await fleet.admin.read_audit(NS, limit=1_000)]
    assert [e.reason for e in audit if e.actor == "ada"][-3:] == ["too expensive"] * 3
    with pytest.raises(LeaseFenced):
        await fleet.one.leases.complete(NS, held, result=b"", caller=AGENT)


async def test_tasks_of_a_stopped_agent_that_nobody_else_can_do_fail_with_its_reason(fleet):
    await fleet.add_agent("worker", "w", capabilities=("c",), max_concurrency=1)
    held = await fleet.running()
    named = await fleet.submit()
    capable = await fleet.submit("", capabilities=("c",))
    elsewhere = await fleet.submit("somebody-else")
    unheard_of = await fleet.submit("", capabilities=("telepathy",))
    await fleet.stop_agent("worker", "too expensive")
    over = await fleet.one.recovery.hand_over(NS, "worker", reason="too expensive", actor="ada")
    assert over == HandedOver(requeued=0, failed=3)
    for task_id in (held.task_id, named, capable):
        task = await fleet.task(task_id)
        assert (task.state, task.reason) == (TaskState.FAILED, TaskReason.NO_AGENT)
        assert "too expensive" in task.detail
    for task_id in (elsewhere, unheard_of):
        assert (await fleet.task(task_id)).state is TaskState.PENDING
    assert await fleet.slots("w") == 0


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (AgentStatus.REGISTERED, ""),
        (AgentStatus.DEGRADED, ""),
        (AgentStatus.INACTIVE, "LOST"),
        (AgentStatus.INACTIVE, "STOPPED"),
    ],
)
async def test_tasks_wait_for_an_agent_that_may_come_back(fleet, status, reason):
    await fleet.add_agent("old", name="worker", version="1.0.0", capabilities=("c",))
    await fleet.add_agent("new", name="worker", version="2.0.0", capabilities=("c",))
    await fleet.change_agent("new", status=status, status_reason=reason)
    tasks = [await fleet.submit(), await fleet.submit("", capabilities=("c",))]
    await fleet.stop_agent("old")
    assert await fleet.one.recovery.hand_over(NS, "old", reason="", actor="ada") == HandedOver()
    assert await fleet.one.sweep() == 0
    for task_id in tasks:
        assert (await fleet.task(task_id)).state is TaskState.PENDING


async def test_an_agent_that_was_not_stopped_is_not_handed_over(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    for agent_id in ("worker", "unknown"):
        over = await fleet.one.recovery.hand_over(NS, agent_id, reason="", actor="ada")
        assert over == HandedOver()
    assert (await fleet.task(lease.task_id)).state is TaskState.RUNNING


async def test_a_sweep_finishes_the_hand_over_of_a_replica_that_died(fleet):
    await fleet.add_agent("worker", "w", capabilities=("c",))
    held = await fleet.running(capabilities=("c",))
    waiting = await fleet.submit()
    await fleet.add_agent("other", "o", capabilities=("c",))
    await fleet.one.sweep()
    await fleet.stop_agent("worker", "too expensive")
    assert await fleet.one.sweep() == 2
    assert (await fleet.task(held.task_id)).spec.agent_name == ""
    failed = await fleet.task(waiting)
    assert (failed.state, failed.reason) == (TaskState.FAILED, TaskReason.NO_AGENT)
    assert await fleet.one.sweep() == 0


async def test_a_paused_task_of_a_stopped_agent_fails_too(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    await fleet.one.leases.fail(
        NS, lease, detail="boom", permanent=False, release=False, caller=AGENT
    )
    await fleet.stop_agent("worker")
    assert await fleet.one.sweep() == 1
    assert (await fleet.task(lease.task_id)).reason is TaskReason.NO_AGENT


async def test_a_hand_over_meets_tasks_that_end_meanwhile(fleet):
    """The replica decides on old copies of the tasks, and then on what the store has."""
    await fleet.add_agent("worker", "w", max_concurrency=3)
    leases = [await fleet.running() for _ in range(3)]
    await fleet.stop_agent("worker")
    lagging = fleet.add_replica()
    await lagging.follow()
    fleet.replicas.remove(lagging)
    await fleet.complete(leases[0])
    await fleet.one.leases.progress(
        NS, leases[1], progress=0.1, message="", checkpoint=b"x", caller=AGENT
    )
    over = await lagging.recovery.hand_over(NS, "worker", reason="stop", actor="ada")
    assert over == HandedOver(requeued=0, failed=2)
    assert (await fleet.task(leases[0].task_id)).state is TaskState.SUCCEEDED


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


class Chaos:
    """Everything that can happen to a small fleet with two replicas, one of which lags."""

    def __init__(self, fleet: WorkFleet, random: Random) -> None:
        self.fleet = fleet
        self.random = random
        self.lagging = fleet.add_replica()
        fleet.replicas.remove(self.lagging)

    @property
    def agent_id(self) -> str:
        return self.random.choice("ab")

    @property
    def present(self) -> list[str]:
        return sorted(self.fleet.one.view.instances)

    @property
    def replica(self) -> WorkReplica:
        return self.random.choice((self.fleet.one, self.lagging))

    def tasks(self, state: TaskState) -> list[str]:
        return [task_id for task_id, now in self.fleet.states().items() if now is state]

    async def submit(self) -> None:
        name = self.random.choice(("a", ""))
        await self.fleet.submit(name, capabilities=("c",), deadline_ms=60_000)

    async def assign(self) -> None:
        await self.replica.assigner.assign(NS)

    async def accept(self) -> None:
        for task_id in self.tasks(TaskState.ASSIGNED)[:1]:
            await self.fleet.accept(task_id)

    async def complete(self) -> None:
        for task_id in self.tasks(TaskState.RUNNING)[:1]:
            await self.fleet.complete(await self.fleet.lease(task_id))

    async def silence(self) -> None:
        for name in self.present[:1]:
            await self.fleet.silence(name)

    async def beat(self) -> None:
        for name in self.present:
            await self.fleet.change_instance(name, state=InstanceState.FRESH)

    async def replace(self) -> None:
        agent_id = self.agent_id
        await self.fleet.join(f"{agent_id}1", agent_id)

    async def leave(self) -> None:
        for name in self.present[:1]:
            await self.fleet.leave(name)

    async def stop(self) -> None:
        agent_id, replica = self.agent_id, self.replica
        await self.fleet.stop_agent(agent_id)
        await replica.follow()
        await replica.recovery.hand_over(NS, agent_id, reason="r", actor="ada")

    async def start(self) -> None:
        await self.fleet.change_agent(self.agent_id, status=AgentStatus.ACTIVE, status_reason="")

    async def sweep(self) -> None:
        await self.replica.recovery.sweep(NS)

    async def time(self) -> None:
        self.fleet.clock.shift(self.random.uniform(0, 12))

    async def follow(self) -> None:
        await self.lagging.follow()


ACTIONS = sorted(name for name, what in vars(Chaos).items() if iscoroutinefunction(what))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.randoms(use_true_random=False))
async def test_whatever_happens_slots_match_leases_and_every_task_ends(actions, random):
    fleet = WorkFleet()
    chaos = Chaos(fleet, random)
    for agent_id in ("a", "b"):
        await fleet.add_agent(agent_id, f"{agent_id}1", max_concurrency=2, capabilities=("c",))
    for action in actions:
        await getattr(chaos, action)()
        await fleet.follow()
        for instance_id in ("a1", "b1"):
            assert len(fleet.held(instance_id)) == await fleet.slots(instance_id) <= 2
    fleet.clock.shift(61)
    await chaos.lagging.sweep()
    await fleet.one.sweep()
    assert all(state.is_terminal for state in fleet.states().values())
    for task in [await fleet.task(task_id) for task_id in fleet.states()]:
        epochs = [hop.epoch for hop in task.hops]
        assert epochs == sorted(set(epochs)), "no lease ended twice"
        successes = [hop for hop in task.hops if hop.reason is TaskReason.NONE]
        assert len(successes) == (task.state is TaskState.SUCCEEDED)
