"""What becomes of the tasks of an agent that an operator has stopped."""

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.tasks import DrainAction, TaskReason, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
)
from controlplane.services.tasks.recovery import HandedOver
from tests.fakes.work_fleet import AGENT, NS, WorkFleet


@pytest.fixture
async def fleet():
    return WorkFleet()


async def last_hop(fleet: WorkFleet, task_id: str) -> TaskReason:
    return (await fleet.task(task_id)).hops[-1].reason


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


async def test_a_task_that_must_not_be_started_twice_is_not_handed_over_once_it_runs(fleet):
    await fleet.add_agent("worker", "w", capabilities=("c",), max_concurrency=2)
    once = DrainAction.FAIL
    begun = await fleet.running(capabilities=("c",), on_drain=once)
    assigned = await fleet.submit(capabilities=("c",), on_drain=once)
    await fleet.one.assign()
    await fleet.add_agent("other", "o", capabilities=("c",), max_concurrency=9)
    await fleet.stop_agent("worker", "too expensive")
    over = await fleet.one.recovery.hand_over(NS, "worker", reason="too expensive", actor="ada")
    assert over == HandedOver(requeued=1, failed=1)
    task = await fleet.task(begun.task_id)
    assert (task.state, task.reason) == (TaskState.FAILED, TaskReason.DEACTIVATED)
    assert "too expensive" in task.detail
    assert (await fleet.task(assigned)).state is TaskState.PENDING
    assert await fleet.slots("w") == 0


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
