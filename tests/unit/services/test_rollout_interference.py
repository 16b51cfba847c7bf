"""What operators and processes do to the two versions while a rollout is under way."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import STOPPED, AgentStatus
from controlplane.domain.drains import EmergencyStop
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.rollouts.model import PauseReason, Phase
from controlplane.services.lifecycle.activation import ActivationVerdict
from controlplane.services.ports import Collection, Delete, Put
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, BRIEF, NEW, OLD, RolloutWorld

NEW_ID, OLD_ID = f"agt-{NEW}", f"agt-{OLD}"
WANTED = ActivationVerdict(
    allowed=False, decision="REQUIRE_APPROVAL", policies=("p",), detail="ask", config_digest="d"
)


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


def in_phase(phase: Phase):
    return lambda one: one.phase is phase


async def leave(world: RolloutWorld, agent_id: str) -> None:
    """Let every process of a version say goodbye."""
    entry = world.view.agents[agent_id]
    await world.write(*(Delete(Collection.INSTANCES, name) for name in entry.instances))
    await world.change_agent(agent_id, status=AgentStatus.INACTIVE, status_reason=STOPPED)


async def come_back(world: RolloutWorld, agent_id: str) -> None:
    await world.instance(agent_id)
    await world.change_agent(agent_id, status=AgentStatus.ACTIVE, status_reason="")


async def test_superseding_never_makes_the_version_that_was_coming_the_one_to_go_back_to(world):
    await world.begun()
    with pytest.raises(InvalidArgument) as refusal:
        await world.start(to_version="3.0.0", from_version=NEW, supersede=True)
    assert refusal.value.violations[0].field == "from_version"
    await world.start(to_version="3.0.0", from_version=OLD, supersede=True)
    assert world.weights() == {OLD: 10_000}


async def test_a_version_that_is_stopped_while_it_is_waited_for_stays_stopped(world):
    await world.agent(OLD)
    rollout = await world.start()
    await world.stop_agent(rollout.to_agent_id)
    await world.arrive()
    ended = await world.until(in_phase(Phase.FAILED))
    assert "stopped by an operator" in ended.message
    assert world.status(NEW) is AgentStatus.INACTIVE


async def test_an_emergency_stop_is_not_undone_by_a_rollout_that_began_before_it(world):
    await world.agent(OLD)
    await world.agent(NEW)
    await world.stop_agent(NEW_ID)
    await world.start()
    stop = EmergencyStop(
        stop_id="stp-1", agent_ids=(OLD_ID, NEW_ID), started_at_ms=world.clock.store_ms()
    )
    await world.write(Put(Collection.STOPS, stop.stop_id, stop))
    await world.arrive()
    await world.until(in_phase(Phase.FAILED))
    assert world.status(NEW) is AgentStatus.INACTIVE


async def test_a_version_that_was_stopped_before_is_brought_back_by_its_rollout(world):
    await world.agent(OLD)
    await world.agent(NEW)
    await world.stop_agent(NEW_ID)
    await world.start()
    await world.arrive()
    await world.until(in_phase(Phase.PROGRESSING))
    assert world.status(NEW) is AgentStatus.ACTIVE


async def test_an_activation_that_is_taken_back_is_not_parked_again(world):
    await world.agent(OLD)
    world.verdicts.verdict = WANTED
    rollout = await world.start()
    await world.arrive()
    await world.tick()
    assert world.view.agents[rollout.to_agent_id].agent.pending is not None
    await world.stop_agent(rollout.to_agent_id)
    await world.until(in_phase(Phase.FAILED))
    assert world.view.agents[rollout.to_agent_id].agent.pending is None


async def test_the_progress_deadline_stands_still_while_an_approval_is_awaited(world):
    await world.agent(OLD)
    world.verdicts.verdict = WANTED
    rollout = await world.start()
    await world.arrive()
    await world.tick(BRIEF.progress_deadline_ms / 1_000 - 5)
    await world.tick(BRIEF.max_pause_ms / 1_000 - 1)
    assert world.now().phase is Phase.PENDING
    # An operator confirms; then its processes are gone, and have as long as before to come back.
    await leave(world, rollout.to_agent_id)
    await world.change_agent(
        rollout.to_agent_id, status=AgentStatus.ACTIVE, status_reason="", pending=None
    )
    await world.tick()
    await world.tick(BRIEF.progress_deadline_ms / 1_000 - 1)
    assert world.now().phase is Phase.PENDING
    await come_back(world, rollout.to_agent_id)
    await world.until(in_phase(Phase.PROGRESSING))


async def test_an_approval_that_nobody_gives_ends_the_rollout_like_a_pause(world):
    await world.agent(OLD)
    world.verdicts.verdict = WANTED
    await world.start()
    await world.arrive()
    await world.tick()
    await world.tick(BRIEF.max_pause_ms / 1_000)
    ended = await world.until(in_phase(Phase.FAILED))
    assert "its approval is being opened" in ended.message


async def test_a_breach_without_anybody_to_go_back_to_waits_until_there_is(world):
    await world.begun()
    await leave(world, OLD_ID)
    await world.outcomes(new=(20, 15), old=(180, 2))
    paused = await world.until(in_phase(Phase.PAUSED))
    assert paused.pause is not None
    assert paused.pause.reason is PauseReason.INCONCLUSIVE
    assert "no fresh instance to go back to" in paused.message
    assert world.weights() == {NEW: 1_000, OLD: 9_000}
    await world.tick()
    assert world.now().phase is Phase.PAUSED
    await come_back(world, OLD_ID)
    await world.until(in_phase(Phase.ABORTING))


async def test_a_version_whose_processes_have_left_is_not_promoted(world):
    await world.begun()
    await world.good_step()
    await leave(world, world.now().to_agent_id)
    await world.outcomes(new=(400, 0), old=(1_000, 5))
    await world.tick(2)
    await world.tick(2)
    assert world.now().phase is Phase.PROGRESSING
    await come_back(world, world.now().to_agent_id)
    await world.until(in_phase(Phase.DRAINING_OLD))


async def test_the_old_version_is_kept_while_the_new_one_is_gone_and_for_good_if_it_stays(world):
    await world.begun(replace(BRIEF, bake_ms=10_000))
    await world.good_step()
    await world.outcomes(new=(400, 0), old=(1_000, 5))
    await world.until(in_phase(Phase.PROMOTING))
    await leave(world, world.now().to_agent_id)
    await world.tick(15)
    assert world.now().phase is Phase.PROMOTING
    assert not world.view.agents[OLD_ID].agent.draining
    await world.tick(BRIEF.progress_deadline_ms / 1_000)
    await world.until(in_phase(Phase.ROLLED_BACK))
    assert (world.weights(), world.status(OLD)) == ({OLD: 10_000}, AgentStatus.ACTIVE)


async def test_stopping_the_new_version_while_the_old_one_drains_takes_the_old_one_back(world):
    await world.begun()
    await world.good_step()
    await world.good_step()
    await world.until(in_phase(Phase.DRAINING_OLD))
    assert world.view.agents[OLD_ID].agent.draining
    await world.stop_agent(world.now().to_agent_id)
    await world.until(in_phase(Phase.ROLLED_BACK))
    assert not world.view.agents[OLD_ID].agent.draining
    assert (world.weights(), world.status(OLD)) == ({OLD: 10_000}, AgentStatus.ACTIVE)


async def test_a_pause_takes_back_the_wish_to_go_all_the_way(world):
    rollout = await world.begun()
    orders = {"reason": "", "caller": ADA}
    await world.rollouts.promote(
        NS, rollout.rollout_id, full=True, expected_step_index=None, **orders
    )
    await world.rollouts.pause(NS, rollout.rollout_id, **orders)
    await world.rollouts.resume(NS, rollout.rollout_id, **orders)
    await world.follow()
    await world.tick()
    assert (world.now().phase, world.now().weight_bp) == (Phase.PROGRESSING, 1_000)
