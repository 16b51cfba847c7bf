import asyncio
from dataclasses import replace

import pytest

from controlplane.domain.agents import AgentSpec, AgentStatus
from controlplane.domain.drains import DrainPhase, drain_key
from controlplane.domain.errors import (
    AgentNotFound,
    InvalidArgument,
    InvalidTransition,
    StoreUnavailable,
)
from controlplane.domain.rollouts.model import PauseReason, Phase, Plan, Rollout, Step
from controlplane.domain.routes import Route, Share
from controlplane.domain.work_refusals import (
    RolloutActive,
    RolloutNotFound,
)
from controlplane.services.ports import Collection, Put, RequestKey
from controlplane.services.rollouts.rollouts import RolloutOrder, Rollouts
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, BRIEF, NAME, NEW, OLD, RolloutWorld

OLD_ID, NEW_ID = f"agt-{OLD}", f"agt-{NEW}"
ORDER = RolloutOrder(name=NAME, to_version=NEW, plan=BRIEF)


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


async def test_a_start_registers_the_version_and_keeps_it_from_work(world):
    await world.agent(OLD)
    rollout = await world.start(reason="faster")
    assert (rollout.phase, rollout.reason, rollout.started_by) == (Phase.PENDING, "faster", "ada")
    assert world.view.agent_id_of[f"{NAME}@{NEW}"] == rollout.to_agent_id
    route = world.view.work.routes[NAME]
    assert (world.weights(), route.rollout_id) == ({OLD: 10_000}, rollout.rollout_id)
    assert route.salt == f"rollout:{NAME}:{rollout.rollout_id}"
    assert world.now() == rollout


async def test_a_version_that_is_registered_already_is_taken_as_it_is(world):
    await world.agent(OLD)
    await world.agent(NEW, status=AgentStatus.REGISTERED, capabilities=("other",))
    rollout = await world.start()
    assert rollout.to_agent_id == NEW_ID


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to_version": "not a version"}, "to_version"),
        ({"to_version": OLD}, "to_version"),
        ({"plan": replace(BRIEF, bake_ms=-1)}, "plan.bake"),
        ({"canary": AgentSpec(name="", version="", max_concurrency=-1)}, "canary.max_concurrency"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_by_field(world, changes, field):
    await world.agent(OLD)
    with pytest.raises(InvalidArgument) as refusal:
        await world.start(**changes)
    assert refusal.value.violations[0].field == field
    assert not world.view.work.rollouts


async def test_a_declaration_that_differs_from_what_is_registered_is_refused(world):
    await world.agent(OLD)
    await world.agent(NEW)
    with pytest.raises(InvalidArgument, match="canary"):
        await world.start(from_version=OLD, canary=AgentSpec(name="", version="", owner="me"))


async def test_which_version_goes_must_be_clear(world):
    with pytest.raises(InvalidArgument, match="from_version"):
        await world.start()
    await world.agent(OLD)
    await world.agent("1.1.0")
    with pytest.raises(InvalidArgument, match="from_version"):
        await world.start()
    share = Share(agent_id="agt-1.1.0", version="1.1.0", weight_bp=10_000)
    await world.write(Put(Collection.ROUTES, NAME, Route(name=NAME, shares=(share,), salt="s")))
    assert (await world.start()).from_version == "1.1.0"


async def test_a_version_that_is_not_there_cannot_go(world):
    await world.agent(OLD)
    with pytest.raises(AgentNotFound):
        await world.start(from_version="0.9.0")


@pytest.mark.parametrize("status", [AgentStatus.REGISTERED, AgentStatus.INACTIVE])
async def test_a_version_that_does_not_work_cannot_be_rolled_back_to(world, status):
    await world.agent(OLD, status=status)
    with pytest.raises(InvalidTransition):
        await world.start(from_version=OLD)


async def test_a_retired_version_does_not_come_back(world):
    await world.agent(OLD)
    await world.agent(NEW, status=AgentStatus.DECOMMISSIONED)
    with pytest.raises(InvalidTransition):
        await world.start()


async def test_there_is_one_rollout_per_name(world):
    await world.agent(OLD)
    first = await world.start()
    with pytest.raises(RolloutActive, match=first.rollout_id):
        await world.start(to_version="3.0.0")


async def test_two_starts_at_once_make_one_rollout(world):
    await world.agent(OLD)
    outcomes = await asyncio.gather(
        *(
            world.rollouts.start(
                NS, replace(ORDER, to_version=f"{major}.0.0"), request=None, caller=ADA
            )
            for major in (2, 3, 4)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Rollout) for one in outcomes) == 1
    assert sum(isinstance(one, RolloutActive) for one in outcomes) == 2


async def test_a_repeated_start_is_answered_with_the_first_rollout(world):
    await world.agent(OLD)
    key = RequestKey("req-1", "digest")
    first = await world.rollouts.start(NS, ORDER, request=key, caller=ADA)
    again = await world.rollouts.start(NS, ORDER, request=key, caller=ADA)
    assert again == first


async def test_superseding_drains_the_version_that_was_coming_and_begins_anew(world):
    first = await world.begun()
    second = await world.start(to_version="3.0.0", supersede=True)
    ended = world.view.work.rollouts[first.rollout_id]
    assert (ended.phase, ended.superseded_by) == (Phase.SUPERSEDED, second.rollout_id)
    assert ended.ended_at_ms > 0
    assert (second.from_version, second.step_index, second.phase) == (OLD, 0, Phase.PENDING)
    *_, (_, _, entry) = await world.direct.read_audit(NS, limit=1_000)
    assert entry.details["superseded"] == first.rollout_id
    assert world.weights() == {OLD: 10_000}
    assert world.view.work.active_rollouts == {NAME: second.rollout_id}
    drain = world.view.work.drains[drain_key(first.to_agent_id)]
    assert drain.phase is DrainPhase.DRAINING
    assert drain.deadline_at_ms == world.clock.store_ms() + BRIEF.drain_deadline_ms
    await world.arrive()
    await world.until(lambda one: one.phase is Phase.PROGRESSING)
    assert world.weights() == {"3.0.0": 1_000, OLD: 9_000}


async def test_superseding_before_the_version_came_to_work_leaves_it_inactive(world):
    await world.agent(OLD)
    first = await world.start()
    await world.start(to_version="3.0.0", supersede=True)
    assert world.status(NEW) is AgentStatus.INACTIVE
    assert world.view.work.rollouts[first.rollout_id].phase is Phase.SUPERSEDED


async def test_superseding_with_the_same_version_keeps_it(world):
    await world.begun()
    again = await world.start(supersede=True)
    assert world.status(NEW) is AgentStatus.ACTIVE
    await world.until(lambda one: one.phase is Phase.PROGRESSING)
    assert world.now().rollout_id == again.rollout_id


async def test_a_rollout_that_drains_the_old_version_is_not_superseded(world):
    await to_draining_old(world)
    with pytest.raises(InvalidTransition, match="DRAINING_OLD"):
        await world.start(to_version="3.0.0", supersede=True)


async def to_draining_old(world: RolloutWorld) -> Rollout:
    rollout = await world.begun()
    await promote(world, full=True)
    assert rollout.rollout_id == world.now().rollout_id
    return await world.until(lambda one: one.phase is Phase.DRAINING_OLD)


async def promote(world: RolloutWorld, *, full: bool = False, seen: int | None = None) -> Rollout:
    return await world.rollouts.promote(
        NS, world.now().rollout_id, full=full, expected_step_index=seen, reason="go", caller=ADA
    )


async def test_an_abort_while_the_old_version_drains_takes_it_back(world):
    rollout = await to_draining_old(world)
    await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)
    agent = world.view.agents[OLD_ID].agent
    assert (agent.status, agent.draining) == (AgentStatus.ACTIVE, False)
    assert world.view.work.drains[drain_key(OLD_ID)].phase is DrainPhase.CANCELLED
    assert world.weights() == {OLD: 10_000}
    await world.until(lambda one: one.phase is Phase.DRAINING_NEW)


async def test_an_abort_after_the_old_version_has_left_is_refused(world):
    rollout = await to_draining_old(world)
    await world.finish_drain(OLD_ID)
    with pytest.raises(InvalidTransition):
        await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)


async def test_an_abort_is_idempotent_until_and_after_the_end(world):
    rollout = await world.begun()
    first = await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)
    again = await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)
    assert (first.phase, again) == (Phase.ABORTING, first)
    await world.until(lambda one: one.phase is Phase.DRAINING_NEW)
    await world.finish_drain(rollout.to_agent_id)
    ended = await world.until(lambda one: one.phase is Phase.ROLLED_BACK)
    last = await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)
    assert last == ended


async def test_a_pause_keeps_the_weight_and_a_resume_enters_the_step_anew(world):
    rollout = await world.begun()
    await world.outcomes(new=(10, 0))
    paused = await world.rollouts.pause(NS, rollout.rollout_id, reason="lunch", caller=ADA)
    assert paused.pause is not None
    assert (paused.pause.reason, paused.pause.by) == (PauseReason.OPERATOR, "ada")
    again = await world.rollouts.pause(NS, rollout.rollout_id, reason="tea", caller=ADA)
    assert again == paused
    for _ in range(3):
        await world.tick()
    assert world.weights() == {NEW: 1_000, OLD: 9_000}
    await world.rollouts.resume(NS, rollout.rollout_id, reason="back", caller=ADA)
    resumed = await world.until(lambda one: not one.entering and one.phase is Phase.PROGRESSING)
    assert (resumed.step_index, resumed.step_token, resumed.canary.total) == (0, 2, 0)
    unchanged = await world.rollouts.resume(NS, rollout.rollout_id, reason="", caller=ADA)
    assert unchanged == resumed


async def test_a_pause_before_the_first_step_goes_back_to_waiting(world):
    await world.agent(OLD)
    rollout = await world.start()
    await world.rollouts.pause(NS, rollout.rollout_id, reason="", caller=ADA)
    await world.arrive()
    await world.tick()
    assert world.now().phase is Phase.PAUSED
    await world.rollouts.resume(NS, rollout.rollout_id, reason="", caller=ADA)
    await world.until(lambda one: one.phase is Phase.PROGRESSING)


@pytest.mark.parametrize("method", ["pause", "resume"])
async def test_what_has_been_decided_is_neither_paused_nor_resumed(world, method):
    rollout = await world.begun()
    await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)
    with pytest.raises(InvalidTransition, match="ABORTING"):
        await getattr(world.rollouts, method)(NS, rollout.rollout_id, reason="", caller=ADA)


async def test_promoting_goes_on_by_one_step_without_a_verdict(world):
    await world.begun()
    await promote(world, seen=0)
    rollout = await world.until(lambda one: not one.entering)
    assert (rollout.step_index, world.weights()) == (1, {NEW: 10_000, OLD: 0})


async def test_two_callers_who_saw_the_same_step_do_not_skip_two(world):
    await world.begun()
    await promote(world, seen=0)
    with pytest.raises(InvalidTransition):
        await promote(world, seen=0)


async def test_promoting_right_after_resuming_means_the_step_after_the_one_resumed(world):
    rollout = await world.begun()
    await world.rollouts.pause(NS, rollout.rollout_id, reason="", caller=ADA)
    await world.rollouts.resume(NS, rollout.rollout_id, reason="", caller=ADA)
    await world.follow()
    promoting = asyncio.create_task(promote(world), name="promoting")
    await world.until(lambda one: not one.entering)
    await promoting
    rollout = await world.until(lambda one: not one.entering)
    assert (rollout.step_index, world.weights()) == (1, {NEW: 10_000, OLD: 0})


async def test_promoting_the_last_step_still_bakes(world):
    plan = replace(BRIEF, steps=(Step(weight_bp=10_000),), bake_ms=60_000)
    await world.begun(plan)
    await promote(world)
    await world.until(lambda one: one.phase is Phase.PROMOTING)
    await world.tick(50)
    assert world.now().phase is Phase.PROMOTING
    await promote(world)
    await world.tick()
    assert world.now().phase is Phase.DRAINING_OLD


async def test_promoting_all_the_way_out_of_a_pause_ends_it(world):
    rollout = await world.begun()
    await world.rollouts.pause(NS, rollout.rollout_id, reason="", caller=ADA)
    await promote(world, full=True)
    await world.until(lambda one: one.phase is Phase.DRAINING_OLD)
    assert world.weights() == {NEW: 10_000}


async def test_even_all_the_way_takes_a_fresh_instance(world):
    await world.agent(OLD)
    await world.start()
    await promote(world, full=True)
    await world.tick()
    assert world.now().phase is Phase.PENDING
    with pytest.raises(InvalidTransition):
        await promote(world)
    await world.arrive()
    await world.until(lambda one: one.phase is Phase.DRAINING_OLD)


async def test_a_rollout_that_was_rolled_back_is_retried_with_the_same_plan(world):
    rollout = await world.begun()
    await world.rollouts.abort(NS, rollout.rollout_id, reason="no", caller=ADA)
    await world.until(lambda one: one.phase is Phase.DRAINING_NEW)
    with pytest.raises(InvalidTransition):
        await retry(world, rollout.rollout_id)
    await world.finish_drain(rollout.to_agent_id)
    await world.until(lambda one: one.phase is Phase.ROLLED_BACK)
    again = await retry(world, rollout.rollout_id)
    assert (again.retry_of, again.plan) == (rollout.rollout_id, rollout.plan)
    assert again.rollout_id != rollout.rollout_id
    await world.until(lambda one: one.phase is Phase.PROGRESSING)
    assert world.status(NEW) is AgentStatus.ACTIVE
    assert not world.view.agents[rollout.to_agent_id].agent.draining


async def retry(world: RolloutWorld, rollout_id: str) -> Rollout:
    again = await world.rollouts.retry(NS, rollout_id, reason="", request=None, caller=ADA)
    await world.follow()
    return again


async def test_a_rollout_that_succeeded_is_not_retried(world):
    rollout = await to_draining_old(world)
    await world.finish_drain(OLD_ID)
    await world.until(lambda one: one.phase is Phase.SUCCEEDED)
    with pytest.raises(InvalidTransition, match="SUCCEEDED"):
        await retry(world, rollout.rollout_id)


@pytest.mark.parametrize("method", ["pause", "resume", "abort"])
async def test_a_rollout_that_nobody_knows_is_not_found(world, method):
    with pytest.raises(RolloutNotFound):
        await getattr(world.rollouts, method)(NS, "rol-none", reason="", caller=ADA)


async def test_a_store_that_is_away_is_said_to_be(world):
    await world.agent(OLD)
    faults = FaultyLedger(world.direct)
    rollouts = Rollouts(faults, world.plane.read_model, world.rollouts._ids, world.clock)
    faults.fail_next()
    with pytest.raises(StoreUnavailable):
        await rollouts.start(NS, ORDER, request=None, caller=ADA)


def test_an_order_has_every_default_but_its_versions():
    assert RolloutOrder(name=NAME, to_version=NEW).plan == Plan()
