"""Silence: who expires, how fast, and who does not."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.mass_expiry import MassState
from controlplane.services.ports import SetDeadline
from tests.fakes.fleet import NAMESPACE, FakeBeat, Fleet


@pytest.fixture
async def fleet():
    fleet = Fleet()
    await fleet.commit()
    await fleet.replica.follow()
    await watch(fleet, 31)  # the first look begins with a grace
    return fleet


async def watch(fleet: Fleet, seconds: int, beating: Sequence[FakeBeat] = ()) -> None:
    await fleet.pass_time(seconds, beating=beating)


async def alive(fleet: Fleet, agent_id: str, *instance_ids: str, **spec: Any) -> list[FakeBeat]:
    generations = await fleet.register(agent_id, *instance_ids, **spec)
    beats = [FakeBeat(name, generation) for name, generation in generations.items()]
    await fleet.replica.beat(*beats)
    await fleet.replica.flush()
    return beats


def census(fleet: Fleet) -> dict[str, int]:
    states = [live.instance.state for live in fleet.replica.view.instances.values()]
    return {str(state): states.count(state) for state in set(states)}


async def test_silence_makes_an_agent_degraded_then_inactive_then_forgets_the_instance(fleet):
    await alive(fleet, "a", "i")
    await watch(fleet, 29)
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    await watch(fleet, 1)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED
    assert (await fleet.instance("i")).state is InstanceState.SILENT
    await watch(fleet, 269)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED
    await watch(fleet, 1)
    agent = await fleet.agent("a")
    assert (agent.status, agent.status_reason) == (AgentStatus.INACTIVE, "LOST")
    assert await fleet.events() == ["agent.activated", "agent.degraded", "agent.deactivated"]
    fleet.clock.shift(fleet.settings.forget_after_ms / 1000)
    await watch(fleet, 31)
    assert await fleet.instance("i") is None
    assert fleet.deadline_of("i") is None


async def test_a_beat_brings_the_lost_back(fleet):
    beats = await alive(fleet, "a", "i")
    await watch(fleet, 301)
    assert (await fleet.instance("i")).state is InstanceState.LOST
    assert await fleet.replica.beat(*beats) == []
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert fleet.deadline_of("i") == 30_000


async def test_one_fresh_instance_of_two_keeps_the_agent_active(fleet):
    beats = await alive(fleet, "a", "i", "j")
    await watch(fleet, 60, beating=beats[:1])
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert (await fleet.instance("j")).state is InstanceState.SILENT


async def test_a_process_that_never_beat_is_lost_without_harming_its_agent(fleet):
    await fleet.register("a", "i")
    await watch(fleet, 299)
    assert (await fleet.instance("i")).state is InstanceState.STARTING
    await watch(fleet, 2)
    assert (await fleet.instance("i")).state is InstanceState.LOST
    assert (await fleet.agent("a")).status is AgentStatus.REGISTERED


async def test_thresholds_of_the_agent_win(fleet):
    await alive(fleet, "a", "i", degraded_after_ms=2_000, lost_after_ms=4_000)
    await watch(fleet, 2)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED
    await watch(fleet, 2)
    assert (await fleet.agent("a")).status is AgentStatus.INACTIVE


async def test_two_instances_due_together_degrade_the_agent_once(fleet):
    await alive(fleet, "a", "i", "j")
    await watch(fleet, 31)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED
    assert (await fleet.events()).count("agent.degraded") == 1


async def test_sweeps_of_two_replicas_at_once_agree(fleet):
    await alive(fleet, "a", "i", "j")
    await watch(fleet, 20)
    other = fleet.add_replica("two")
    await other.follow()
    await watch(fleet, 8)
    fleet.clock.shift(2)
    await asyncio.gather(fleet.replica.expiry.sweep(NAMESPACE), other.expiry.sweep(NAMESPACE))
    assert (await fleet.events()).count("agent.degraded") == 1
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED


async def test_replicas_that_expire_one_instance_each_do_not_leave_the_agent_active(fleet):
    """Write skew: each sees the other instance fresh, and both are wrong."""
    beats = await alive(fleet, "a", "i", "j")
    lagging = fleet.add_replica("two")
    await lagging.follow()
    await watch(fleet, 20)
    await fleet.replica.beat(beats[1])
    await fleet.replica.flush()
    await watch(fleet, 10)  # i is due, j is not
    assert (await fleet.instance("i")).state is InstanceState.SILENT
    await fleet.commit(SetDeadline("j", 1))
    fleet.clock.shift(1)
    swept = await lagging.expiry.sweep(NAMESPACE)  # still sees i fresh
    assert swept.moved == 1
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED


async def test_a_beat_between_the_look_and_the_write_wins(fleet):
    beats = await alive(fleet, "a", "i")
    await watch(fleet, 29)
    fleet.clock.shift(1)
    commit_many = fleet.replica.ledger.commit_many

    async def beat_first(transactions):
        fleet.replica.intake.accept(fleet.replica.view, beats)
        await fleet.replica.flush()
        return await commit_many(transactions)

    fleet.replica.ledger.commit_many = beat_first
    assert (await fleet.replica.expiry.sweep(NAMESPACE)).moved == 0
    assert (await fleet.instance("i")).state is InstanceState.FRESH


async def test_a_zombies_expiry_cannot_touch_the_process_that_replaced_it(fleet):
    await alive(fleet, "a", "i")
    lagging = fleet.add_replica("two")
    await lagging.follow()
    await watch(fleet, 29)
    generation = await fleet.join("a", "i")
    fleet.clock.shift(1)
    await lagging.expiry.sweep(NAMESPACE)
    instance = await fleet.instance("i")
    assert (instance.generation, instance.state) == (generation, InstanceState.STARTING)


async def test_nobody_expires_because_the_plane_was_away(fleet):
    beats = await alive(fleet, "a", "i")
    await watch(fleet, 10)
    fleet.clock.shift(3600)  # nobody swept, nobody could beat
    await watch(fleet, 5)
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    await watch(fleet, 40, beating=beats)
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert "agent.degraded" not in await fleet.events()


async def test_an_outage_of_a_few_seconds_is_noticed_as_well(fleet):
    beats = await alive(fleet, "a", "i", degraded_after_ms=6_000, lost_after_ms=60_000)
    await watch(fleet, 2)
    fleet.clock.shift(4.5)  # a restart
    await watch(fleet, 2)
    await watch(fleet, 8, beating=beats)
    assert "agent.degraded" not in await fleet.events()


async def test_the_silent_expire_after_the_grace_of_an_outage(fleet):
    await alive(fleet, "a", "i")
    fleet.clock.shift(3600)
    await watch(fleet, 32)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED


async def test_a_deadline_of_nobody_is_cleared(fleet):
    await fleet.commit(SetDeadline("ghost", 1))
    await watch(fleet, 1)
    assert fleet.deadline_of("ghost") is None


async def test_a_replica_that_lags_judges_nobody_it_has_not_heard_of(fleet, monkeypatch):
    monkeypatch.setattr("controlplane.services.families.CATCH_UP_SECONDS", 0.001)
    lagging = fleet.add_replica("two")
    await lagging.follow()
    await alive(fleet, "a", "i")
    for _ in range(31):
        fleet.clock.shift(1)
        await lagging.expiry.sweep(NAMESPACE)
    assert (await fleet.instance("i")).state is InstanceState.FRESH
    await lagging.follow()
    await lagging.expiry.sweep(NAMESPACE)
    assert (await fleet.instance("i")).state is InstanceState.SILENT


async def test_a_sweep_waits_to_hear_of_an_instance_that_has_just_come_to_life(fleet):
    await alive(fleet, "a", "i")
    await watch(fleet, 29)
    lagging = fleet.add_replica("two")
    await lagging.follow()
    newcomer = await fleet.join("a", "j")
    await fleet.replica.beat(FakeBeat("j", newcomer))
    fleet.clock.shift(1)
    sweep = asyncio.create_task(lagging.expiry.sweep(NAMESPACE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await lagging.follow()
    assert (await sweep).moved == 1
    assert (await fleet.instance("i")).state is InstanceState.SILENT
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert "agent.degraded" not in await fleet.events()


async def test_a_newcomer_between_the_look_and_the_write_saves_the_agent(fleet):
    await alive(fleet, "a", "i")
    await watch(fleet, 29)
    fleet.clock.shift(1)
    lagging = fleet.add_replica("two")
    await lagging.follow()
    commit_many = lagging.ledger.commit_many
    arrivals: list[Any] = []

    async def arrive_first(transactions):
        if not arrivals:
            arrivals.append(await fleet.join("a", "j"))
            await fleet.replica.beat(FakeBeat("j", arrivals[0]))
            await lagging.follow()
        return await commit_many(transactions)

    lagging.ledger.commit_many = arrive_first
    assert (await lagging.expiry.sweep(NAMESPACE)).moved == 1
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert "agent.degraded" not in await fleet.events()


async def fleet_of(fleet: Fleet, count: int, zone: str = "") -> list[FakeBeat]:
    tags = {"zone": zone} if zone else {}
    beats: list[FakeBeat] = []
    for number in range(count):
        beats += await alive(fleet, f"a{zone}{number}", f"i{zone}{number}", tags=tags)
    return beats


async def test_mass_silence_stops_expiry_before_its_first_victim_and_raises_one_alarm(fleet):
    await fleet_of(fleet, 40)
    await watch(fleet, 600)
    assert census(fleet) == {"FRESH": 40}
    assert fleet.replica.expiry.mass_states() == {(NAMESPACE, ""): MassState.STOPPED}
    assert fleet.replica.expiry.alarms == 1


async def test_after_mass_silence_everybody_has_the_time_to_come_back(fleet):
    beats = await fleet_of(fleet, 40)
    await watch(fleet, 120)
    await watch(fleet, 10, beating=beats[:20])  # half are quick
    assert fleet.replica.expiry.mass_states() == {(NAMESPACE, ""): MassState.RECOVERING}
    await watch(fleet, 60, beating=beats)
    assert census(fleet) == {"FRESH": 40}
    assert fleet.replica.expiry.mass_states() == {}
    assert "agent.degraded" not in await fleet.events()


async def test_the_silence_of_most_is_slowed_to_a_trickle(fleet):
    beats = await fleet_of(fleet, 40)
    await watch(fleet, 34, beating=beats[:16])  # 60 % are silent
    assert fleet.replica.expiry.mass_states() == {(NAMESPACE, ""): MassState.SLOWED}
    silent = census(fleet).get("SILENT", 0)
    assert 1 <= silent <= 6  # one a second
    await watch(fleet, 40, beating=beats[:16])
    assert census(fleet)["SILENT"] == 24


async def test_a_zone_that_falls_silent_does_not_hold_up_the_others(fleet):
    dark = await fleet_of(fleet, 20, zone="dark")
    bright = await fleet_of(fleet, 60, zone="bright")
    await watch(fleet, 60, beating=bright[5:])  # five of the bright ones die as well
    assert fleet.replica.expiry.mass_states() == {(NAMESPACE, "dark"): MassState.STOPPED}
    dark_states = {(await fleet.instance(beat.instance_id)).state for beat in dark}
    assert dark_states == {InstanceState.FRESH}
    for beat in bright[:5]:
        assert (await fleet.instance(beat.instance_id)).state is InstanceState.SILENT


async def test_the_death_of_a_few_is_never_held_up(fleet):
    await fleet_of(fleet, 9)
    await watch(fleet, 31)
    assert census(fleet) == {"SILENT": 9}


async def test_an_operators_inactive_agent_stays_inactive_when_it_falls_silent(fleet):
    await alive(fleet, "a", "i")
    await fleet.change_agent("a", status=AgentStatus.INACTIVE, status_reason="maintenance")
    await watch(fleet, 310)
    agent = await fleet.agent("a")
    assert (agent.status, agent.status_reason) == (AgentStatus.INACTIVE, "maintenance")
    assert (await fleet.instance("i")).state is InstanceState.LOST
