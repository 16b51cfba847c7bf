"""How the version that goes leaves: its sessions, its drain, and what is kept of the rollout."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drains import DrainPhase, drain_key
from controlplane.domain.rollouts.model import Phase, outcome_counter
from controlplane.domain.routes import pin_key
from controlplane.services.ports import Collection, Count, Put
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, BRIEF, NAME, OLD, RolloutWorld

OLD_ID = f"agt-{OLD}"


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


def in_phase(phase: Phase):
    return lambda one: one.phase is phase


async def test_pinned_sessions_finish_on_a_version_that_is_rolled_back(world):
    await world.begun()
    agent_id = world.now().to_agent_id
    await world.pin("chat", agent_id)
    await world.task("tsk-1", "chat")
    await world.rollouts.abort(NS, world.now().rollout_id, reason="no", caller=ADA)
    await world.follow()
    for _ in range(4):
        await world.tick(5)
    assert world.now().phase is Phase.ABORTING
    await world.forget_task("tsk-1")
    await world.tick()
    assert world.now().phase is Phase.DRAINING_NEW
    assert pin_key(NAME, "chat") not in world.view.work.pins


async def test_pinned_sessions_finish_no_longer_than_the_drain_deadline(world):
    await world.begun()
    await world.pin("chat", world.now().to_agent_id)
    await world.task("tsk-1", "chat")
    await world.rollouts.abort(NS, world.now().rollout_id, reason="no", caller=ADA)
    await world.follow()
    await world.tick(31)
    assert world.now().phase is Phase.DRAINING_NEW


async def test_pinned_sessions_leave_at_once_if_the_plan_says_so(world):
    await world.begun(replace(BRIEF, evict_on_abort=True))
    await world.pin("chat", world.now().to_agent_id)
    await world.task("tsk-1", "chat")
    await world.rollouts.abort(NS, world.now().rollout_id, reason="no", caller=ADA)
    await world.follow()
    await world.tick()
    assert world.now().phase is Phase.DRAINING_NEW


async def test_sessions_of_the_retired_old_version_are_freed_and_others_stay(world):
    rollout = await world.begun()
    await world.pin("old-chat", OLD_ID)
    await world.pin("new-chat", rollout.to_agent_id)
    await world.rollouts.promote(
        NS, rollout.rollout_id, full=True, expected_step_index=None, reason="go", caller=ADA
    )
    await world.follow()
    await world.until(in_phase(Phase.DRAINING_OLD))
    assert set(world.view.work.pins) == {pin_key(NAME, "new-chat")}


async def test_only_twenty_ended_rollouts_are_kept_and_their_counters_go_with_them(world):
    await world.agent(OLD)
    await world.instance(OLD_ID)
    first = await world.start()
    await world.write(Count(outcome_counter(f"{first.rollout_id}/1", OLD_ID, "ok"), 3))
    await world.write(
        Put(Collection.ROLLOUTS, first.rollout_id, replace(world.now(), step_token=1))
    )
    for number in range(22):
        if number:
            await world.start()
        await world.rollouts.abort(NS, world.now().rollout_id, reason="", caller=ADA)
        await world.follow()
        await world.until(lambda one: one.phase.is_terminal)
    assert len(world.view.work.rollouts) == 20
    assert first.rollout_id not in world.view.work.rollouts
    counter = outcome_counter(f"{first.rollout_id}/1", OLD_ID, "ok")
    assert await world.direct.read_counts(NS, [counter]) == [0]


async def test_a_cancelled_drain_ends_the_rollout_and_the_version_stays(world):
    rollout = await world.begun()
    await world.rollouts.promote(
        NS, rollout.rollout_id, full=True, expected_step_index=None, reason="go", caller=ADA
    )
    await world.follow()
    await world.until(in_phase(Phase.DRAINING_OLD))
    drain = world.view.work.drains[drain_key(OLD_ID)]
    await world.write(Put(Collection.DRAINS, drain.key, replace(drain, phase=DrainPhase.CANCELLED)))
    await world.change_agent(OLD_ID, draining=False)
    await world.tick()
    assert world.now().phase is Phase.SUCCEEDED
    assert world.status(OLD) is AgentStatus.ACTIVE
