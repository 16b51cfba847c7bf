"""Drains: nothing new, then quiet, then done; carried on by whoever is there."""

import asyncio

import pytest

from controlplane.domain.agents import STOPPED, AgentStatus
from controlplane.domain.drains import DrainPhase, DrainThen
from controlplane.domain.errors import (
    AgentNotFound,
    InstanceNotFound,
    InvalidArgument,
    InvalidTransition,
)
from controlplane.domain.task_rules import Lease, completed
from controlplane.domain.tasks import DrainAction, TaskReason, TaskState
from controlplane.domain.work_refusals import (
    DrainNotFound,
)
from controlplane.services.lifecycle.drain_progress import KEPT_MS
from controlplane.services.ports import RequestKey
from controlplane.services.tasks.steps import task_steps
from tests.fakes.fleet import NAMESPACE, FakeBeat
from tests.fakes.lifecycle_plane import LifecyclePlane

S = AgentStatus


@pytest.fixture
def plane():
    return LifecyclePlane()


async def quiet(plane: LifecyclePlane, *beats: FakeBeat, seconds: int = 4) -> None:
    """Let instances beat every second and the drain be looked at twice as often."""
    for _ in range(seconds):
        plane.clock.shift(1.0)
        await plane.replica.beat(*beats)
        await plane.ops.tick()
        await plane.ops.tick()


async def finish(plane: LifecyclePlane, task_id: str, instance_id: str) -> None:
    before = await plane.task(task_id)
    lease = Lease(task_id=task_id, instance_id=instance_id, epoch=before.epoch)
    after = completed(before, lease, result_bytes=0, now_ms=plane.clock.store_ms())
    await plane.commit(*task_steps(before, after))
    await plane.replica.follow()


async def test_a_drain_takes_the_target_out_of_service_at_once(plane):
    await plane.active("a", "i")
    report = await plane.ops.drain()
    assert (report.drain.phase, report.safe_to_stop) == (DrainPhase.DRAINING, False)
    assert (await plane.agent("a")).draining
    instance = await plane.instance("i")
    assert instance is not None
    assert not instance.draining
    await plane.ops.drain("", "i")
    instance = await plane.instance("i")
    assert instance is not None
    assert instance.draining


async def test_a_drain_of_an_idle_agent_is_done_after_two_beats(plane):
    generations = await plane.active("a", "i")
    await plane.ops.drain()
    plane.clock.shift(1.0)
    await plane.replica.beat(FakeBeat("i", generations["i"]))
    await plane.ops.tick()
    assert not (await plane.ops.look()).safe_to_stop
    plane.clock.shift(1.0)
    await plane.replica.beat(FakeBeat("i", generations["i"]))
    await plane.ops.tick()
    report = await plane.ops.look()
    assert (report.safe_to_stop, report.drain.phase) == (True, DrainPhase.DRAINED)
    assert (await plane.agent("a")).draining  # it stays so until it is undone
    assert len(await plane.audits("drain.started")) == 1
    assert len(await plane.audits("drain.completed")) == 1


async def test_a_drain_waits_for_leases_and_for_other_work(plane):
    generations = await plane.active("a", "i")
    await plane.hold("a", "i", "t1", "t2")
    await plane.ops.drain()
    beat = FakeBeat("i", generations["i"], in_flight=3)
    await quiet(plane, beat)
    report = await plane.ops.look()
    assert (report.tasks_in_flight, report.other_in_flight) == (2, 1)
    await finish(plane, "t1", "i")
    await finish(plane, "t2", "i")
    beat.in_flight = 1
    await quiet(plane, beat)
    report = await plane.ops.look()
    assert (report.safe_to_stop, report.other_in_flight, report.drain.completed) == (False, 1, 2)
    beat.in_flight = 0
    await quiet(plane, beat)
    report = await plane.ops.look()
    assert (report.safe_to_stop, report.drain.completed) == (True, 2)


async def test_at_the_deadline_a_task_that_has_not_begun_goes_elsewhere_whatever_its_class(plane):
    generations = await plane.active("a", "i")
    for action in DrainAction:
        await plane.hold("a", "i", action, state=TaskState.ASSIGNED, on_drain=action)
    await plane.ops.drain(deadline_ms=5_000)
    await quiet(plane, FakeBeat("i", generations["i"], in_flight=0), seconds=6)
    for action in DrainAction:
        task = await plane.task(action)
        assert (task.state, task.reason) == (TaskState.PENDING, TaskReason.DRAINED)


async def test_the_deadline_lets_the_class_of_each_task_decide(plane):
    generations = await plane.active("a", "i")
    for name, action in [("r", "REQUEUE"), ("f", "FAIL"), ("e", "EXTEND")]:
        await plane.hold("a", "i", name, on_drain=DrainAction(action))
    await plane.ops.drain(deadline_ms=5_000)
    beat = FakeBeat("i", generations["i"], in_flight=3)
    await quiet(plane, beat, seconds=4)
    assert (await plane.task("r")).state is TaskState.RUNNING
    await quiet(plane, beat, seconds=2)
    requeued, failed = await plane.task("r"), await plane.task("f")
    assert (requeued.state, requeued.reason, requeued.attempts) == (
        TaskState.PENDING,
        TaskReason.DRAINED,
        0,
    )
    assert (failed.state, failed.reason) == (TaskState.FAILED, TaskReason.DRAINED)
    assert (await plane.task("e")).state is TaskState.RUNNING
    report = await plane.ops.look()
    drain = report.drain
    assert (drain.forced, drain.requeued, drain.failed, drain.extended) == (True, 1, 1, 1)
    assert (report.safe_to_stop, report.tasks_in_flight) == (False, 1)
    await finish(plane, "e", "i")
    beat.in_flight = 0
    await quiet(plane, beat)
    report = await plane.ops.look()
    assert (report.safe_to_stop, report.drain.completed) == (True, 1)
    assert await plane.ops.replica.ledger.read_counts(NAMESPACE, ["slots/i"]) == [0]


async def test_an_extension_ends_after_an_hour(plane):
    await plane.active("a", "i")
    await plane.hold("a", "i", "e", on_drain=DrainAction.EXTEND)
    await plane.ops.drain(deadline_ms=5_000)
    plane.clock.shift(5 + 3_600)
    await plane.ops.tick()
    assert (await plane.task("e")).state is TaskState.PENDING


async def test_many_tasks_are_taken_back_together_and_one_that_ended_holds_up_none(plane):
    await plane.active("a", "i")
    await plane.hold("a", "i", *(f"t{n}" for n in range(120)))
    await plane.ops.drain(deadline_ms=1_000)
    # It ends without this replica hearing of it before the deadline.
    before = await plane.task("t60")
    lease = Lease(task_id="t60", instance_id="i", epoch=before.epoch)
    after = completed(before, lease, result_bytes=0, now_ms=plane.clock.store_ms())
    await plane.commit(*task_steps(before, after))
    plane.clock.shift(2)
    await plane.ops.tick()
    await plane.ops.tick()
    states = [(await plane.task(f"t{n}")).state for n in range(120)]
    assert states.count(TaskState.PENDING) == 119
    report = await plane.ops.look()
    assert report.drain.requeued == 119
    assert report.drain.completed == 1


async def test_another_replica_carries_a_drain_on(plane):
    generations = await plane.active("a", "i")
    await plane.hold("a", "i", "t")
    await plane.ops.drain(deadline_ms=5_000, then=DrainThen.DEACTIVATE)
    heir = await plane.another("two")
    beat = FakeBeat("i", generations["i"])
    for _ in range(8):
        plane.clock.shift(1.0)
        await heir.replica.beat(beat)
        await heir.tick()
    assert (await plane.task("t")).state is TaskState.PENDING
    agent = await plane.agent("a")
    assert (agent.status, agent.status_reason, agent.draining) == (
        S.INACTIVE,
        "new release",
        False,
    )
    assert heir.handed.asked == [("a", "new release", "ada")]
    assert (await heir.look()).safe_to_stop


async def test_replicas_that_look_at_once_end_a_lease_once(plane):
    await plane.active("a", "i")
    await plane.hold("a", "i", *(f"t{n}" for n in range(8)))
    await plane.ops.drain(deadline_ms=1_000)
    other = await plane.another("two")
    plane.clock.shift(2)
    await asyncio.gather(plane.ops.tick(), other.tick())
    await plane.ops.tick()
    drain = await plane.drain_record("agent/a")
    assert drain is not None
    assert drain.requeued == 8
    assert {(await plane.task(f"t{n}")).hop_count for n in range(8)} == {1}


async def test_a_deactivation_may_wait_for_a_drain(plane):
    generations = await plane.active("a", "i")
    outcome = await plane.ops.deactivate("a", drain_ms=60_000)
    assert (outcome.agent.status, outcome.agent.draining) == (S.ACTIVE, True)
    assert outcome.drain is not None
    assert outcome.drain.drain.then is DrainThen.DEACTIVATE
    await quiet(plane, FakeBeat("i", generations["i"]))
    agent = await plane.agent("a")
    assert (agent.status, agent.status_reason) == (S.INACTIVE, "night")
    (entry,) = await plane.audits("agent.deactivated")
    assert entry.actor == "ada"
    assert plane.ops.handed.asked == [("a", "night", "ada")]


async def test_a_deactivation_holds_although_the_processes_leave_before_the_drain_is_done(plane):
    generations = await plane.active("a", "i")
    await plane.ops.deactivate("a", drain_ms=60_000)
    await plane.replica.beat(FakeBeat("i", generations["i"], goodbye=True))
    assert (await plane.agent("a")).status_reason == STOPPED
    await plane.ops.tick()
    again = await plane.join("a", "i")
    await plane.replica.beat(FakeBeat("i", again))
    agent = await plane.agent("a")
    assert (agent.status, agent.status_reason, agent.draining) == (S.INACTIVE, "night", False)


async def test_other_work_does_not_hold_a_deactivation_beyond_the_deadline(plane):
    generations = await plane.active("a", "i")
    await plane.ops.deactivate("a", drain_ms=2_000)
    await quiet(plane, FakeBeat("i", generations["i"], in_flight=1), seconds=3)
    assert (await plane.agent("a")).status is S.INACTIVE
    # But nobody says that it is safe to stop what still works.
    assert not (await plane.ops.look()).safe_to_stop


async def test_what_takes_no_work_is_deactivated_without_a_drain(plane):
    await plane.register("a")
    outcome = await plane.ops.deactivate("a", drain_ms=60_000)
    assert (outcome.agent.status, outcome.drain) == (S.INACTIVE, None)


async def test_a_repeated_start_moves_the_deadline(plane):
    await plane.active("a", "i")
    first = await plane.ops.drain(deadline_ms=60_000, request=RequestKey("r", "d"))
    plane.clock.shift(10)
    again = await plane.ops.drain(deadline_ms=60_000, request=RequestKey("r", "d"))
    assert again.drain.deadline_at_ms == first.drain.deadline_at_ms
    second = await plane.ops.drain(deadline_ms=5_000, then=DrainThen.DEACTIVATE)
    assert second.drain.started_at_ms == first.drain.started_at_ms
    assert second.drain.deadline_at_ms == plane.clock.store_ms() + 5_000
    third = await plane.ops.drain(deadline_ms=5_000)
    assert third.drain.then is DrainThen.DEACTIVATE
    assert len(await plane.audits("drain.started")) == 1


async def test_an_undone_drain_gives_work_again(plane):
    await plane.active("a", "i")
    await plane.ops.drain()
    report = await plane.ops.cancel()
    assert (report.drain.phase, report.safe_to_stop) == (DrainPhase.CANCELLED, False)
    assert not (await plane.agent("a")).draining
    assert (await plane.ops.cancel()).drain.phase is DrainPhase.CANCELLED
    assert await plane.ops.tick() == 0
    assert (await plane.ops.drain()).drain.phase is DrainPhase.DRAINING


async def test_a_drain_of_an_agent_that_left_active_is_not_undone(plane):
    await plane.active("a", "i")
    await plane.ops.drain()
    await plane.ops.deactivate("a")
    with pytest.raises(InvalidTransition):
        await plane.ops.cancel()


async def test_a_drain_says_nothing_about_the_next_life_of_its_agent(plane):
    generations = await plane.active("a", "i")
    await plane.ops.deactivate("a", drain_ms=10_000)
    await quiet(plane, FakeBeat("i", generations["i"]))
    assert (await plane.ops.look()).safe_to_stop
    await plane.ops.activate("a")
    with pytest.raises(DrainNotFound):
        await plane.ops.look()
    with pytest.raises(DrainNotFound):
        await plane.ops.cancel()


async def test_an_instance_that_leaves_is_drained(plane):
    generations = await plane.active("a", "i", "j")
    await plane.ops.drain("", "i")
    await plane.replica.beat(FakeBeat("i", generations["i"], goodbye=True))
    assert (await plane.ops.look("", "i")).safe_to_stop
    await plane.ops.tick()
    report = await plane.ops.look("", "i")
    assert (report.drain.phase, report.safe_to_stop) == (DrainPhase.DRAINED, True)
    with pytest.raises(InvalidTransition):
        await plane.ops.cancel("", "i")


async def test_a_new_process_is_not_drained(plane):
    await plane.active("a", "i")
    await plane.ops.drain("", "i")
    await plane.join("a", "i")
    instance = await plane.instance("i")
    assert instance is not None
    assert not instance.draining
    for call in (plane.ops.look, plane.ops.cancel):
        with pytest.raises(DrainNotFound):
            await call("", "i")
    await plane.ops.tick()
    assert await plane.drain_record("instance/i") is None


async def test_old_drains_are_forgotten_unless_they_still_hold(plane):
    generations = await plane.active("a", "i", "j")
    await plane.ops.drain("", "i")
    await plane.ops.drain("", "j")
    await plane.replica.beat(FakeBeat("i", generations["i"], goodbye=True))
    await quiet(plane, FakeBeat("j", generations["j"]))
    plane.clock.shift(KEPT_MS / 1000 + 10)
    await plane.ops.tick()
    assert await plane.drain_record("instance/i") is None
    assert await plane.drain_record("instance/j") is not None


async def test_a_wait_ends_when_it_is_safe_to_stop(plane):
    generations = await plane.active("a", "i")
    await plane.ops.drain()
    waiting = asyncio.ensure_future(plane.ops.look(wait_ms=30_000))
    await quiet(plane, FakeBeat("i", generations["i"]))
    async with asyncio.timeout(5):
        assert (await waiting).safe_to_stop


async def test_a_wait_ends_in_time_and_when_the_drain_is_undone(plane):
    await plane.active("a", "i")
    await plane.ops.drain()
    assert not (await plane.ops.look(wait_ms=20)).safe_to_stop
    waiting = asyncio.ensure_future(plane.ops.look(wait_ms=30_000))
    await asyncio.sleep(0)
    await plane.ops.cancel()
    async with asyncio.timeout(5):
        assert (await waiting).drain.phase is DrainPhase.CANCELLED


async def test_a_drain_started_elsewhere_is_found_before_this_replica_follows(plane):
    await plane.active("a", "i")
    other = await plane.another("two")
    await plane.ops.drain()
    found = asyncio.ensure_future(other.look())
    await asyncio.sleep(0.01)
    await other.replica.follow()
    assert (await found).drain.phase is DrainPhase.DRAINING


async def test_a_start_is_repeated_at_a_replica_that_has_not_heard_of_it(plane):
    await plane.active("a", "i")
    other = await plane.another("two")
    first = await plane.ops.drain(request=RequestKey("r", "d"))
    repeated = asyncio.ensure_future(other.drain(request=RequestKey("r", "d")))
    await asyncio.sleep(0.01)
    await other.replica.follow()
    assert (await repeated).drain == first.drain


async def test_wrong_targets_are_refused(plane):
    await plane.active("a", "i")
    await plane.active("b", "k")
    with pytest.raises(AgentNotFound):
        await plane.ops.drain("ghost")
    with pytest.raises(InstanceNotFound):
        await plane.ops.drain("", "ghost")
    with pytest.raises(InstanceNotFound):
        await plane.ops.drain("b", "i")
    with pytest.raises(InvalidArgument):
        await plane.ops.drain("")
    with pytest.raises(InvalidArgument):
        await plane.ops.look("")
    with pytest.raises(DrainNotFound):
        await plane.ops.look("a")
    with pytest.raises(DrainNotFound):
        await plane.ops.cancel("a")
    await plane.ops.deactivate("a")
    with pytest.raises(InvalidTransition):
        await plane.ops.drain("a")
    # A process is drained whatever its agent may do: its hook wants to know when to stop.
    assert (await plane.ops.drain("", "i")).drain.phase is DrainPhase.DRAINING
