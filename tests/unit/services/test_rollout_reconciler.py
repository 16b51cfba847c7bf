from dataclasses import replace

import pytest

from controlplane.domain.agents import Activation, AgentSpec, AgentStatus, InstanceState
from controlplane.domain.drains import DrainPhase, DrainThen, drain_key
from controlplane.domain.rollouts.model import (
    Analysis,
    OnInconclusive,
    OutcomeSource,
    PauseReason,
    Phase,
    Step,
    Verdict,
)
from controlplane.domain.tasks import TaskState
from controlplane.services.lifecycle.activation import ActivationVerdict
from controlplane.services.ports import Collection, Put
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, BRIEF, NAME, NEW, OLD, RolloutWorld

NEW_ID, OLD_ID = f"agt-{NEW}", f"agt-{OLD}"


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


def in_phase(phase: Phase):
    return lambda one: one.phase is phase


async def test_a_good_version_takes_over_step_by_step_and_the_old_one_is_drained(world):
    rollout = await world.begun()
    assert rollout.weight_bp == 1_000
    assert world.weights() == {NEW: 1_000, OLD: 9_000}
    assert world.status(NEW) is AgentStatus.ACTIVE
    await world.good_step()
    assert world.weights() == {NEW: 10_000, OLD: 0}
    await world.good_step()
    await world.until(in_phase(Phase.DRAINING_OLD))
    assert world.weights() == {NEW: 10_000}
    drain = world.view.work.drains[drain_key(OLD_ID)]
    assert (drain.then, drain.phase) == (DrainThen.DEACTIVATE, DrainPhase.DRAINING)
    assert drain.deadline_at_ms == world.clock.store_ms() + BRIEF.drain_deadline_ms
    await world.finish_drain(OLD_ID)
    ended = await world.until(in_phase(Phase.SUCCEEDED))
    assert ended.ended_at_ms == world.clock.store_ms()
    assert world.status(OLD) is AgentStatus.INACTIVE
    route = world.view.work.routes[NAME]
    assert (world.weights(), route.cohort) == ({NEW: 10_000}, "")
    assert not world.view.work.active_rollouts
    assert await world.events() == [
        "rollout.started",
        "rollout.activated",
        "rollout.step_entered",
        "rollout.traffic_seen",
        "rollout.step_passed",
        "rollout.step_entered",
        "rollout.traffic_seen",
        "rollout.step_passed",
        "rollout.promoted",
        "rollout.old_draining",
        "rollout.succeeded",
    ]


async def test_a_bad_version_is_rolled_back_and_deactivated(world):
    await world.begun()
    await world.outcomes(new=(20, 15), old=(180, 2))
    rollout = await world.until(in_phase(Phase.ABORTING))
    assert rollout.measurements[-1].verdict is Verdict.BREACH
    assert world.weights() == {OLD: 10_000}
    await world.until(in_phase(Phase.DRAINING_NEW))
    agent_id = world.now().to_agent_id
    assert world.view.agents[agent_id].agent.draining
    await world.finish_drain(agent_id)
    ended = await world.until(in_phase(Phase.ROLLED_BACK))
    assert "15 of 20 failed" in ended.message
    assert world.status(NEW) is AgentStatus.INACTIVE
    assert world.status(OLD) is AgentStatus.ACTIVE
    assert (world.weights(), world.view.work.routes[NAME].cohort) == ({OLD: 10_000}, "")


async def test_an_incident_pauses_and_takes_the_weight_back_to_the_step_before(world):
    await world.begun()
    await world.good_step()
    await world.outcomes(new=(40, 12), old=(200, 60))
    rollout = await world.until(in_phase(Phase.PAUSED))
    assert rollout.pause is not None
    assert rollout.pause.reason is PauseReason.ENVIRONMENT
    assert world.weights() == {NEW: 1_000, OLD: 9_000}
    await world.rollouts.resume(NS, rollout.rollout_id, reason="over", caller=ADA)
    await world.follow()
    again = await world.until(lambda one: one.phase is Phase.PROGRESSING and not one.entering)
    assert (again.step_index, again.step_token) == (1, 3)
    assert (again.canary.total, world.weights()) == (0, {NEW: 10_000, OLD: 0})


async def test_no_data_pauses_and_never_promotes(world):
    await world.begun()
    rollout = await world.until(in_phase(Phase.PAUSED), ticks=2_000, seconds=1)
    assert rollout.pause is not None
    assert rollout.pause.reason is PauseReason.INCONCLUSIVE
    assert world.clock.store_ms() - rollout.step_entered_at_ms >= BRIEF.max_dwell_ms
    assert rollout.weight_bp == 1_000


async def test_without_data_a_plan_that_promotes_what_is_inconclusive_pauses_all_the_same(world):
    await world.begun(replace(BRIEF, on_inconclusive=OnInconclusive.PROMOTE))
    await world.until(in_phase(Phase.PAUSED), ticks=2_000, seconds=1)


@pytest.mark.parametrize(
    ("wanted", "phase", "step"),
    [
        (OnInconclusive.PAUSE, Phase.PAUSED, 0),
        (OnInconclusive.ROLLBACK, Phase.ABORTING, 0),
        (OnInconclusive.PROMOTE, Phase.PROGRESSING, 1),
    ],
)
async def test_a_step_without_a_verdict_ends_as_the_plan_says(world, wanted, phase, step):
    await world.begun(replace(BRIEF, on_inconclusive=wanted))
    await world.outcomes(new=(3, 0))
    await world.tick()
    rollout = await world.until(
        lambda one: one.phase is not Phase.PROGRESSING or one.step_index == 1, ticks=700, seconds=1
    )
    assert (rollout.phase, rollout.step_index) == (phase, step)


async def test_looks_are_kept_when_the_counts_have_changed_and_every_two_seconds(world):
    await world.begun()
    await world.outcomes(new=(5, 0))
    await world.tick()  # the first work is noted
    for _ in range(4):
        await world.tick(0.4)
    assert world.now().measurements == ()
    await world.tick(0.5)
    assert [look.canary.total for look in world.now().measurements] == [5]
    for _ in range(10):
        assert await world.tick(1) == 0


async def test_a_pause_that_nobody_ends_is_an_abort(world):
    rollout = await world.begun()
    await world.rollouts.pause(NS, rollout.rollout_id, reason="lunch", caller=ADA)
    await world.follow()
    await world.tick(119)
    assert world.now().phase is Phase.PAUSED
    assert world.weights() == {NEW: 1_000, OLD: 9_000}
    await world.tick(2)
    assert world.now().phase is Phase.ABORTING


async def test_a_breach_during_a_pause_is_acted_on(world):
    rollout = await world.begun()
    await world.rollouts.pause(NS, rollout.rollout_id, reason="lunch", caller=ADA)
    await world.outcomes(new=(20, 15), old=(180, 2))
    await world.until(in_phase(Phase.ABORTING), ticks=2)


async def test_a_step_that_asks_for_a_word_waits_for_it(world):
    steps = (Step(weight_bp=1_000, pause_after=True), Step(weight_bp=10_000))
    await world.begun(replace(BRIEF, steps=steps))
    await world.good_step()
    rollout = await world.until(in_phase(Phase.PAUSED))
    assert rollout.pause is not None
    assert rollout.pause.reason is PauseReason.STEP
    await world.rollouts.resume(NS, rollout.rollout_id, reason="fine", caller=ADA)
    await world.follow()
    await world.until(lambda one: one.step_index == 1 and not one.entering)


async def test_the_old_version_stays_warm_and_the_new_one_is_observed_while_it_bakes(world):
    await world.begun(replace(BRIEF, bake_ms=60_000))
    await world.good_step()
    await world.good_step()
    await world.until(in_phase(Phase.PROMOTING))
    assert world.weights() == {NEW: 10_000, OLD: 0}
    await world.tick(59)
    assert world.now().phase is Phase.PROMOTING
    await world.outcomes(new=(30, 20))
    await world.until(in_phase(Phase.ABORTING))
    assert world.weights() == {OLD: 10_000}


async def test_the_weight_is_not_raised_before_enough_instances_are_fresh(world):
    await world.agent(OLD)
    await world.start(replace(BRIEF, min_fresh_instances=2))
    await world.arrive(1)
    for _ in range(5):
        await world.tick()
    assert world.now().phase is Phase.PENDING
    assert "1 of 2" in world.now().message
    await world.arrive(2)
    await world.until(in_phase(Phase.PROGRESSING))


async def test_the_weight_is_not_raised_beyond_the_capacity_of_the_new_version(world):
    await world.agent(OLD)
    await world.agent(NEW, max_concurrency=1)
    for number in range(20):
        await world.task(f"tsk-{number}")
    await world.start(replace(BRIEF, progress_deadline_ms=600_000), from_version=OLD)
    await world.arrive(2)
    await world.until(lambda one: one.message.startswith("INSUFFICIENT_CAPACITY"))
    assert world.weights() == {OLD: 10_000}
    await world.arrive(3)
    await world.until(in_phase(Phase.PROGRESSING))


async def test_losing_most_instances_of_the_new_version_aborts_without_statistics(world):
    await world.begun()
    agent_id = world.now().to_agent_id
    await world.instance(agent_id, 1, InstanceState.SILENT)
    await world.tick()
    assert world.now().phase is Phase.PROGRESSING
    await world.instance(agent_id, 2, InstanceState.SILENT)
    await world.tick()
    assert (world.now().phase, world.now().evicting) == (Phase.ABORTING, True)


async def test_stopping_the_new_version_aborts(world):
    await world.begun()
    await world.stop_agent(world.now().to_agent_id)
    await world.tick()
    assert world.now().phase is Phase.ABORTING
    await world.tick()
    assert world.now().phase is Phase.ROLLED_BACK


async def test_nothing_moves_while_most_of_the_fleet_is_silent(world):
    await world.begun()
    world.silent = True
    agent_id = world.now().to_agent_id
    await world.instance(agent_id, 1, InstanceState.SILENT)
    await world.instance(agent_id, 2, InstanceState.SILENT)
    await world.outcomes(new=(20, 20))
    await world.tick()
    assert world.now().message.startswith("MASS_SILENCE")
    for _ in range(5):
        assert await world.tick(300) == 0
    assert world.now().phase is Phase.PROGRESSING
    rollout = await world.rollouts.abort(NS, world.now().rollout_id, reason="enough", caller=ADA)
    assert rollout.phase is Phase.ABORTING


async def test_an_old_version_that_is_down_does_not_keep_an_operator_from_promoting(world):
    rollout = await world.begun()
    await world.instance(OLD_ID, 1, InstanceState.LOST)
    await world.change_agent(OLD_ID, status=AgentStatus.INACTIVE, status_reason="LOST")
    await world.rollouts.promote(
        NS, rollout.rollout_id, full=True, expected_step_index=0, reason="it burns", caller=ADA
    )
    await world.follow()
    await world.until(in_phase(Phase.SUCCEEDED))
    assert world.weights() == {NEW: 10_000}
    assert world.view.agents[OLD_ID].agent.is_stopped


async def test_a_version_that_never_comes_to_work_fails_and_nothing_was_shifted(world):
    await world.agent(OLD)
    await world.start()
    rollout = await world.until(lambda one: one.phase.is_terminal, seconds=10)
    assert rollout.phase is Phase.FAILED
    assert world.weights() == {OLD: 10_000}
    assert not world.view.work.active_rollouts


async def test_a_refused_activation_fails_the_rollout(world):
    await world.agent(OLD)
    await world.start()
    world.verdicts.verdict = ActivationVerdict(
        allowed=False, decision="DENY", policies=("pol-1",), detail="answered DENY by pol-1"
    )
    await world.arrive()
    rollout = await world.until(lambda one: one.phase.is_terminal)
    assert (rollout.phase, rollout.message) == (Phase.FAILED, "answered DENY by pol-1")


async def test_an_activation_that_wants_an_approval_is_parked_and_named(world):
    await world.agent(OLD)
    await world.start()
    world.verdicts.verdict = ActivationVerdict(
        allowed=False,
        decision="REQUIRE_APPROVAL",
        policies=("pol-1",),
        detail="answered REQUIRE_APPROVAL by pol-1",
        config_digest="abc",
    )
    await world.arrive()
    await world.until(lambda one: "approval" in one.message)
    for _ in range(3):
        await world.tick()
    rollout = world.now()
    assert (rollout.phase, "pol-1" in rollout.message) == (Phase.PENDING, True)
    pending = world.view.agents[rollout.to_agent_id].agent.pending
    assert pending is not None
    assert (pending.policies, pending.config_digest) == (("pol-1",), "abc")
    await world.change_agent(rollout.to_agent_id, status=AgentStatus.ACTIVE, pending=None)
    await world.until(in_phase(Phase.PROGRESSING))


async def test_the_copy_of_the_old_version_is_what_its_own_process_would_register(world):
    old = await world.agent(OLD, capabilities=("write",), activation=Activation.AUTO)
    rollout = await world.start()
    spec = world.view.agents[rollout.to_agent_id].agent.spec
    assert spec == replace(old.spec, version=NEW)


async def test_the_observation_begins_with_the_first_lease_of_the_step(world):
    rollout = await world.begun()
    await world.tick()
    assert world.now().traffic_since_ms == 0
    await world.task(
        "tsk-1",
        state=TaskState.RUNNING,
        agent_id=rollout.to_agent_id,
        instance_id=f"ins-{rollout.to_agent_id}-1",
        cohort=rollout.cohort,
    )
    await world.tick()
    assert world.now().traffic_since_ms == world.clock.store_ms()


async def test_beats_count_for_agents_that_do_not_use_tasks(world):
    await world.agent(OLD)
    await world.start(replace(BRIEF, analysis=Analysis(source=OutcomeSource.AUTO)))
    await world.arrive()
    agent_id = world.now().to_agent_id
    first, second = (world.view.instances[f"ins-{agent_id}-{number}"] for number in (1, 2))
    first.seq, first.completed, first.failed = 9, 50, 50
    await world.until(in_phase(Phase.PROGRESSING))
    # What the first did before the step does not count; the second is heard only now.
    first.completed += 30
    second.seq, second.completed = 1, 7
    await world.tick(2)
    await world.tick(2)
    second.completed, second.failed = 207, 1
    await world.until(lambda one: one.step_index == 1)
    look = world.now().measurements[-1]
    assert look.verdict is Verdict.PASS
    assert (look.canary.total, look.canary.failed) == (30 + 201, 1)


async def test_outcomes_of_a_process_that_was_replaced_stay_counted(world):
    await world.agent(OLD)
    await world.start(replace(BRIEF, analysis=Analysis(source=OutcomeSource.BEATS)))
    await world.arrive()
    live = world.view.instances[f"ins-{world.now().to_agent_id}-1"]
    live.seq = 1
    await world.until(in_phase(Phase.PROGRESSING))
    live.completed = 40
    await world.tick(2)
    await world.tick(2)
    assert world.now().canary.total == 40
    restarted = replace(live.instance, generation=0, state=InstanceState.FRESH)
    await world.write(
        Put(Collection.INSTANCES, restarted.instance_id, restarted, fresh_generation=True)
    )
    live.seq, live.completed = 1, 5
    await world.tick(2)
    assert world.now().canary.total == 45


async def test_a_given_declaration_is_registered_as_the_new_version(world):
    await world.agent(OLD)
    canary = AgentSpec(name="", version="", capabilities=("read",), activation=Activation.MANUAL)
    rollout = await world.start(canary=canary)
    agent = world.view.agents[rollout.to_agent_id].agent
    assert agent.spec.name_version == f"{NAME}@{NEW}"
    assert agent.spec.capabilities == ("read",)
    assert world.view.agent_id_of[f"{NAME}@{NEW}"] == rollout.to_agent_id
