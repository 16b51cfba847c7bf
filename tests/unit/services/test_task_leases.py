"""What the holder of a lease says: one commit each, and nothing once the lease has ended."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import (
    InvalidArgument,
    InvalidTransition,
    StoreUnavailable,
)
from controlplane.domain.rollouts.model import outcome_counter
from controlplane.domain.routes import Route, SessionPin, Share, pin_key
from controlplane.domain.task_rules import Lease
from controlplane.domain.tasks import TaskReason, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
    TaskNotFound,
)
from controlplane.services.ports import Collection, ConditionFailed, Delete, Put, Transaction
from tests.fakes.plane import CALLER, NS
from tests.fakes.task_plane import AGENT, AUDIT, PIN_MS, TaskPlane


@pytest.fixture
def plane() -> TaskPlane:
    return TaskPlane()


async def accept(plane, lease):
    return await plane.leases.accept(NS, lease, caller=AGENT)


async def progress(plane, lease, checkpoint=None, message="m"):
    return await plane.leases.progress(
        NS, lease, progress=0.5, message=message, checkpoint=checkpoint, caller=AGENT
    )


async def commit(plane, *steps):
    await plane.ledger.commit(Transaction(namespace=NS, steps=steps, audit=AUDIT))
    await plane.follow()


async def assigned(plane, **spec):
    lease = await plane.assign((await plane.submit(**spec)).task_id)
    await plane.follow()
    return lease


async def test_each_call_on_the_good_path_is_one_commit(plane):
    lease = await assigned(plane, session_id="s")
    plane.calls.clear()
    await accept(plane, lease)
    await plane.follow()
    await progress(plane, lease, b"half")
    await plane.follow()
    done = await plane.complete(lease, b"out")
    assert plane.calls == ["commit"] * 3
    assert done == await plane.stored(lease.task_id)
    assert plane.assigner.rung == 2  # submission and completion


async def test_a_lease_that_memory_has_not_heard_of_is_looked_up_before_it_is_refused(plane):
    task = await plane.submit()
    lease = await plane.assign(task.task_id)
    running = await accept(plane, lease)
    assert running.state is TaskState.RUNNING
    assert (await progress(plane, lease)).progress_message == "m"
    assert (await plane.complete(lease)).state is TaskState.SUCCEEDED


async def test_a_task_that_memory_has_not_heard_of_is_looked_up(plane):
    task = await plane.submit(follow=False)
    lease = await plane.assign(task.task_id)
    assert (await accept(plane, lease)).attempts == 1


async def test_accepting_again_begins_no_second_attempt(plane):
    lease = await assigned(plane)
    first = await accept(plane, lease)
    assert await accept(plane, lease) == first
    await plane.follow()
    assert await accept(plane, lease) == first


async def test_completing_again_keeps_the_first_result(plane):
    lease = await plane.running()
    done = await plane.complete(lease, b"first")
    assert await plane.complete(lease, b"second") == done
    await plane.follow()
    assert await plane.complete(lease, b"third") == done
    assert (await plane.tasks.contents(NS, lease.task_id)).result == b"first"
    assert await plane.slots() == 0


async def test_a_retry_after_an_answer_that_was_lost_finds_its_work_done(plane):
    lease = await plane.running()

    async def first_try_succeeds():
        await plane.complete(lease, b"out")

    plane.ledger.before_commit = first_try_succeeds
    done = await plane.complete(lease, b"out")
    assert (done.state, done.hop_count) == (TaskState.SUCCEEDED, 1)


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    "say",
    [
        accept,
        progress,
        lambda plane, lease: plane.complete(lease),
        lambda plane, lease: plane.fail(lease),
    ],
)
async def test_late_words_are_fenced_and_change_nothing(plane, say, follow):
    old = await plane.running()
    await plane.take_back(old.task_id)
    newer = await plane.assign(old.task_id, "j")
    if follow:
        await plane.follow()
    before = await plane.stored(old.task_id)
    with pytest.raises(LeaseFenced) as refusal:
        await say(plane, old)
    assert refusal.value.metadata["current_epoch"] == str(newer.epoch)
    assert await plane.stored(old.task_id) == before
    assert (await plane.slots("i"), await plane.slots("j")) == (0, 1)


async def test_a_lease_that_ends_between_decision_and_commit_is_fenced(plane):
    lease = await plane.running()

    async def cancel():
        await plane.tasks.cancel(NS, lease.task_id, reason="", caller=CALLER)

    plane.ledger.before_commit = cancel
    with pytest.raises(LeaseFenced):
        await plane.complete(lease, b"late")
    assert (await plane.tasks.contents(NS, lease.task_id)).result == b""


async def test_words_about_no_task_or_no_lease_are_refused(plane):
    with pytest.raises(TaskNotFound):
        await accept(plane, Lease(task_id="tsk-none", instance_id="i", epoch=1))
    with pytest.raises(InvalidArgument, match=r"lease\.epoch"):
        await accept(plane, Lease(task_id="t", instance_id="i", epoch=0))


async def test_words_that_are_too_large_are_refused(plane):
    lease = await plane.running()
    large = b"x" * (256 * 1_024 + 1)
    with pytest.raises(InvalidArgument, match="result"):
        await plane.complete(lease, large)
    with pytest.raises(InvalidArgument, match="checkpoint"):
        await progress(plane, lease, large)
    with pytest.raises(InvalidArgument, match="message"):
        await progress(plane, lease, message="x" * 1_025)
    with pytest.raises(InvalidArgument, match="detail"):
        await plane.fail(lease, detail="x" * 1_025)
    with pytest.raises(InvalidArgument, match="release"):
        await plane.fail(lease, permanent=True, release=True)


async def test_what_was_not_accepted_cannot_be_completed(plane):
    lease = await assigned(plane)
    with pytest.raises(InvalidTransition):
        await plane.complete(lease)


async def test_a_checkpoint_survives_the_attempt_that_made_it(plane):
    lease = await plane.running()
    await progress(plane, lease, b"one")
    task = await progress(plane, lease)  # without one, the last stays
    assert task.checkpoint_bytes == 3
    await plane.take_back(lease.task_id)
    newer = await plane.assign(lease.task_id, "j")
    assert await plane.data.checkpoint(NS, lease.task_id) == b"one"
    await accept(plane, newer)
    await progress(plane, newer, b"two-")
    assert await plane.data.checkpoint(NS, lease.task_id) == b"two-"
    assert (await progress(plane, newer, b"")).checkpoint_bytes == 0
    assert await plane.data.checkpoint(NS, lease.task_id) == b""


async def test_a_failure_is_tried_again_and_wakes_the_assigner(plane):
    lease = await plane.running()
    rung = plane.assigner.rung
    task = await plane.fail(lease)
    assert (task.state, task.reason) == (TaskState.PENDING, TaskReason.AGENT_FAILED)
    assert task.not_before_ms == plane.clock.store_ms() + 1_000
    assert plane.assigner.rung == rung + 1
    assert await plane.slots() == 0
    with pytest.raises(LeaseFenced):
        await plane.fail(lease)


async def test_a_release_and_a_refusal_are_told_apart(plane):
    released = await plane.fail(await plane.running(), release=True)
    assert (released.state, released.attempts) == (TaskState.PENDING, 0)
    refused = await plane.fail(await plane.running(), permanent=True)
    assert (refused.state, refused.reason) == (TaskState.FAILED, TaskReason.AGENT_REFUSED)


async def test_slots_are_bounded_by_the_commit(plane):
    first, second = await plane.submit(), await plane.submit()
    lease = await plane.assign(first.task_id, slots=1)
    with pytest.raises(ConditionFailed) as refusal:
        await plane.assign(second.task_id, slots=1)
    assert refusal.value.step == 1
    await accept(plane, lease)
    await plane.complete(lease)
    await plane.assign(second.task_id, slots=1)


async def test_a_task_changed_by_too_many_says_so(plane):
    lease = await plane.running()

    async def intrude():
        await plane.write(*[await plane.stored(lease.task_id)] * 2)
        plane.ledger.before_commit = intrude

    plane.ledger.before_commit = intrude
    with pytest.raises(StoreUnavailable, match="too many"):
        await plane.complete(lease)


async def test_every_call_is_audited(plane):
    lease = await plane.running()
    await progress(plane, lease)
    await plane.fail(lease, detail="boom")
    task = await plane.submit()
    await plane.tasks.cancel(NS, task.task_id, reason="enough", caller=CALLER)
    entries = [entry for _, _, entry in await plane.ledger.read_audit(NS)]
    told = [(e.method, e.event, e.actor, e.reason) for e in entries if e.method != "Test"]
    assert told == [
        ("SubmitTask", "task.submitted", "ada", ""),
        ("AcceptTask", "task.accepted", "agent", ""),
        ("ReportProgress", "task.progressed", "agent", ""),
        ("FailTask", "task.requeued", "agent", "boom"),
        ("SubmitTask", "task.submitted", "ada", ""),
        ("CancelTask", "task.cancelled", "ada", "enough"),
    ]
    assert entries[0].object == f"tasks/{lease.task_id}"


# Rollouts count attempts by the step that was current when they began.


async def set_route(plane, cohort, *agent_ids):
    shares = tuple(
        Share(agent_id=agent_id, version="1", weight_bp=10_000 // len(agent_ids))
        for agent_id in agent_ids
    )
    route = Route(name="researcher", shares=shares, salt="s", cohort=cohort)
    await commit(plane, Put(Collection.ROUTES, "researcher", route))


async def outcomes(plane, cohort, agent_id):
    counters = [outcome_counter(cohort, agent_id, name) for name in ("ok", "failed")]
    return await plane.ledger.read_counts(NS, counters)


async def test_attempts_count_for_the_step_they_began_in(plane):
    agent_id = (await plane.register()).agent.agent_id
    await set_route(plane, "r1/10", agent_id)
    leases = []
    for _ in range(4):
        lease = await plane.assign((await plane.submit()).task_id, "i", agent_id)
        await plane.follow()
        await accept(plane, lease)
        leases.append(lease)
    await set_route(plane, "r1/50", agent_id)
    await plane.complete(leases[0])
    await plane.fail(leases[1])
    await plane.fail(leases[2], release=True)
    await plane.take_back(leases[3].task_id)
    assert await outcomes(plane, "r1/10", agent_id) == [1, 2]
    assert await outcomes(plane, "r1/50", agent_id) == [0, 0]


async def test_attempts_of_a_version_without_a_share_count_for_no_step(plane):
    agent_id = (await plane.register()).agent.agent_id
    await set_route(plane, "r1/10", "another")
    lease = await plane.assign((await plane.submit()).task_id, "i", agent_id)
    assert (await accept(plane, lease)).cohort == ""


# A session stays with the version that accepted its first task.


async def active_agent(plane, version="1.0.0"):
    agent = (await plane.register(version=version)).agent
    await set_status(plane, agent, AgentStatus.ACTIVE)
    return agent


async def set_status(plane, agent, status):
    await commit(plane, Put(Collection.AGENTS, agent.agent_id, replace(agent, status=status)))


async def accept_for(plane, agent, session_id="s", *, follow=True):
    lease = await plane.assign(
        (await plane.submit(session_id=session_id)).task_id, "i", agent.agent_id
    )
    await accept(plane, lease)
    if follow:
        await plane.follow()


async def pin(plane, session_id="s") -> SessionPin:
    (record,) = await plane.ledger.read(
        NS, Collection.SESSION_PINS, (pin_key("researcher", session_id),)
    )
    assert record is not None
    pinned: SessionPin = record.value
    return pinned


async def test_the_first_acceptance_pins_the_session(plane):
    one, two = await active_agent(plane), await active_agent(plane, "2.0.0")
    await accept_for(plane, one)
    await accept_for(plane, two)
    await accept_for(plane, two, "other")
    pinned = await pin(plane)
    assert (pinned.agent_id, pinned.used_at_ms) == (one.agent_id, plane.clock.store_ms())
    assert (await pin(plane, "other")).agent_id == two.agent_id


async def test_the_pin_of_another_replica_stays(plane):
    one, two = await active_agent(plane), await active_agent(plane, "2.0.0")
    task = await plane.submit(session_id="s")
    lease = await plane.assign(task.task_id, "j", two.agent_id)
    await plane.follow()
    await accept_for(plane, one, follow=False)
    assert (await accept(plane, lease)).state is TaskState.RUNNING
    assert (await pin(plane)).agent_id == one.agent_id


async def test_a_pin_is_confirmed_when_half_its_time_has_passed(plane):
    agent = await active_agent(plane)
    await accept_for(plane, agent)
    first = await pin(plane)
    plane.clock.shift(PIN_MS / 2_000 - 1)
    await accept_for(plane, agent)
    assert await pin(plane) == first
    plane.clock.shift(1)
    await accept_for(plane, agent)
    assert (await pin(plane)).used_at_ms == plane.clock.store_ms()


async def test_a_pin_to_a_version_that_is_retired_is_replaced(plane):
    one, two = await active_agent(plane), await active_agent(plane, "2.0.0")
    await accept_for(plane, one)
    await set_status(plane, one, AgentStatus.INACTIVE)
    await accept_for(plane, two)
    assert (await pin(plane)).agent_id == two.agent_id


async def test_a_pin_nobody_confirmed_in_time_is_replaced(plane):
    one, two = await active_agent(plane), await active_agent(plane, "2.0.0")
    await accept_for(plane, one)
    plane.clock.shift(PIN_MS / 1_000)
    await accept_for(plane, two)
    assert (await pin(plane)).agent_id == two.agent_id


async def test_a_pin_that_was_evicted_is_made_anew(plane):
    one, two = await active_agent(plane), await active_agent(plane, "2.0.0")
    await accept_for(plane, one)
    await commit(plane, Delete(Collection.SESSION_PINS, pin_key("researcher", "s")))
    await accept_for(plane, two)
    assert (await pin(plane)).agent_id == two.agent_id


async def test_tasks_of_no_session_pin_nothing(plane):
    agent = await active_agent(plane)
    await accept_for(plane, agent, "")
    assert plane.read_model.view(NS).work.pins == {}
