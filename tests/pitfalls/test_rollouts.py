"""What naive rolling updates get wrong. Each test fails on the naive behaviour that it names."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drain_rules import Said, observed
from controlplane.domain.drains import Drain, DrainPhase, drain_key
from controlplane.domain.errors import InvalidTransition
from controlplane.domain.rollouts.analysis import freeze, judge
from controlplane.domain.rollouts.model import (
    Analysis,
    AnalysisKind,
    Counts,
    PauseReason,
    Phase,
    Plan,
    Verdict,
)
from tests.fakes.fleet import FakeBeat, Fleet
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, NEW, OLD, RolloutWorld


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


def verdict(plan: Plan, canary: Counts, stable: Counts = Counts()) -> Verdict:  # noqa: B008 - frozen
    times: dict[str, Any] = {"observed_ms": plan.observe_ms, "elapsed_ms": plan.observe_ms}
    return judge(plan, freeze(plan, Counts()), canary, stable, **times)[0]


async def test_24_a_rollout_goes_on_where_its_replica_died(world: RolloutWorld) -> None:
    """Two fresh reconcilers, as after a crash and on another replica, end what a third began."""
    await world.begun()
    world.reconciler = world.new_reconciler()
    await world.good_step()
    other = world.new_reconciler()
    await world.outcomes(new=(400, 0), old=(1_000, 5))
    async with asyncio.timeout(30):
        while world.now().phase is not Phase.DRAINING_OLD:
            world.clock.shift(0.5)
            await asyncio.gather(world.reconciler.tick(NS), other.tick(NS))
            await world.follow()
    events = await world.events()
    assert events.count("rollout.promoted") == 1, "two replicas move it once"
    assert world.weights() == {NEW: 10_000}


def test_25_one_early_error_aborts_nothing_and_no_data_passes_nothing() -> None:
    for plan in (Plan(), Plan(analysis=Analysis(kind=AnalysisKind.THRESHOLD, min_tasks=20))):
        assert verdict(plan, Counts()) not in {Verdict.PASS, Verdict.BREACH}
        for total in range(1, 20):
            assert verdict(plan, Counts(total=total, failed=1)) is not Verdict.BREACH


async def test_26_errors_from_before_the_step_do_not_count(world: RolloutWorld) -> None:
    await world.begun()
    await world.outcomes(new=(30, 1), old=(270, 3))
    await world.good_step()  # enters the next step, whose counters start at nothing
    rollout = await world.until(lambda one: one.step_index == 1 and not one.entering)
    assert (rollout.canary.total, rollout.canary.failed) == (0, 0)


async def test_27_an_incident_of_everybody_is_no_fault_of_the_new_version(
    world: RolloutWorld,
) -> None:
    await world.begun()
    await world.good_step()
    await world.outcomes(new=(100, 20), old=(400, 80))
    rollout = await world.until(lambda one: one.phase is Phase.PAUSED)
    assert rollout.pause is not None
    assert rollout.pause.reason is PauseReason.ENVIRONMENT


async def test_28_no_weight_goes_to_a_version_without_a_healthy_instance(
    world: RolloutWorld,
) -> None:
    await world.agent(OLD)
    await world.instance(f"agt-{OLD}")
    await world.start()
    for _ in range(20):
        await world.tick()
    assert world.now().weight_bp == 0
    assert world.weights().get(NEW, 0) == 0


async def test_29_the_old_version_is_drained_and_not_killed_at_weight_zero(
    world: RolloutWorld,
) -> None:
    await world.begun()
    await world.good_step()
    await world.good_step()
    await world.until(lambda one: one.phase is Phase.DRAINING_OLD)
    for _ in range(20):  # its long task goes on
        await world.tick()
    assert world.status(OLD) is AgentStatus.ACTIVE
    await world.finish_drain(f"agt-{OLD}")
    await world.until(lambda one: one.phase is Phase.SUCCEEDED)
    assert world.status(OLD) is AgentStatus.INACTIVE


def test_30_one_look_at_nothing_in_flight_ends_no_drain() -> None:
    start = 1_000_000
    drain = Drain(agent_id="a", started_at_ms=start, deadline_at_ms=start + 60_000)
    once = observed(drain, 0, [Said(heard_at_ms=start + 500, outside=0)], start + 600)
    assert once.phase is DrainPhase.DRAINING
    # A task that was accepted in that moment is seen before the second look.
    held = observed(once, 1, [Said(heard_at_ms=start + 1_600, outside=0)], start + 1_700)
    assert (held.phase, held.quiet_since_ms) == (DrainPhase.DRAINING, 0)


async def test_31_a_late_beat_brings_back_neither_a_retired_agent_nor_a_replaced_process() -> None:
    fleet = Fleet()
    old = (await fleet.register("a", "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", old))
    new = await fleet.join("a", "i")
    (fenced,) = await fleet.replica.beat(FakeBeat("i", old))
    assert str(fenced.outcome) == "FENCED"
    await fleet.change_agent("a", status=AgentStatus.DECOMMISSIONED)
    (gone,) = await fleet.replica.beat(FakeBeat("i", new))
    assert str(gone.outcome) == "GONE"
    assert (await fleet.agent("a")).status is AgentStatus.DECOMMISSIONED


async def test_32_what_has_ended_is_not_promoted_and_a_step_is_not_promoted_twice(
    world: RolloutWorld,
) -> None:
    rollout = await world.begun()
    kind: dict[str, Any] = {"full": False, "reason": "", "caller": ADA}
    await world.rollouts.promote(NS, rollout.rollout_id, expected_step_index=0, **kind)
    with pytest.raises(InvalidTransition):
        await world.rollouts.promote(NS, rollout.rollout_id, expected_step_index=0, **kind)
    await world.rollouts.abort(NS, rollout.rollout_id, reason="enough", caller=ADA)
    await world.follow()
    await world.until(lambda one: one.phase is Phase.DRAINING_NEW)
    await world.finish_drain(world.now().to_agent_id)
    await world.until(lambda one: one.phase is Phase.ROLLED_BACK)
    with pytest.raises(InvalidTransition):
        await world.rollouts.promote(NS, rollout.rollout_id, expected_step_index=None, **kind)
    assert drain_key(f"agt-{OLD}") not in world.view.work.drains
