"""Beats bring instances and agents to life; goodbyes take them away."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.agents import Activation, AgentStatus, InstanceState
from controlplane.domain.errors import InstanceFenced, StoreUnavailable
from controlplane.domain.policies import Effect, Policy
from controlplane.services.beats import BeatOutcome
from controlplane.services.ports import Collection, Delete, Put, RequestKey
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.fleet import NAMESPACE, FakeBeat, Fleet


@pytest.fixture
async def fleet():
    return Fleet()


def outcomes(answers: list[BeatOutcome]) -> dict[str, str]:
    return {answer.instance_id: str(answer.outcome) for answer in answers}


async def test_the_first_beat_activates_an_agent(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    assert await fleet.replica.beat(FakeBeat("i", generation)) == []
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert (await fleet.instance("i")).state is InstanceState.FRESH
    assert await fleet.events() == ["agent.activated"]
    assert fleet.deadline_of("i") == 30_000


async def test_the_plane_itself_is_the_actor_in_the_audit(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", generation))
    entry = (await fleet.admin.read_audit(NAMESPACE))[-1][2]
    assert (entry.actor, entry.method, entry.object) == ("fleetplane", "Heartbeat", "agents/a")
    assert entry.details["before"] == "REGISTERED"


async def test_an_agent_activated_by_hand_waits_and_its_instance_counts(fleet):
    generation = (await fleet.register("a", "i", activation=Activation.MANUAL))["i"]
    for _ in range(2):
        assert outcomes(await fleet.replica.beat(FakeBeat("i", generation))) == {
            "i": "NOT_ACTIVATED"
        }
    assert (await fleet.instance("i")).state is InstanceState.FRESH
    assert (await fleet.agent("a")).status is AgentStatus.REGISTERED


async def test_a_policy_refuses_the_activation_until_it_is_withdrawn(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    deny = Policy(policy_id="p", action=Effect.DENY, conditions={"action": "activate"})
    await fleet.commit(Put(Collection.POLICIES, "p", deny))
    await fleet.replica.follow()
    (answer,) = await fleet.replica.beat(FakeBeat("i", generation))
    assert str(answer.outcome) == "NOT_ACTIVATED"
    assert answer.detail == "activation was answered DENY by p"
    assert (await fleet.agent("a")).status_reason == answer.detail
    revision = fleet.revision
    assert outcomes(await fleet.replica.beat(FakeBeat("i", generation))) == {"i": "NOT_ACTIVATED"}
    assert fleet.revision == revision  # a repeated refusal is not written again
    await fleet.commit(Delete(Collection.POLICIES, "p"))
    await fleet.replica.follow()
    fleet.clock.shift(2)
    assert await fleet.replica.beat(FakeBeat("i", generation)) == []
    agent = await fleet.agent("a")
    assert (agent.status, agent.status_reason) == (AgentStatus.ACTIVE, "")


async def test_an_operators_decision_is_never_undone_by_a_beat(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.change_agent("a", status=AgentStatus.INACTIVE, status_reason="maintenance")
    for _ in range(2):
        (answer,) = await fleet.replica.beat(FakeBeat("i", generation))
        assert (str(answer.outcome), answer.detail) == ("INACTIVE", "maintenance")
    assert (await fleet.agent("a")).status is AgentStatus.INACTIVE
    assert (await fleet.instance("i")).state is InstanceState.FRESH


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (AgentStatus.DEGRADED, ""),
        (AgentStatus.INACTIVE, "LOST"),
        (AgentStatus.INACTIVE, "STOPPED"),
    ],
)
async def test_a_beat_brings_an_agent_back(fleet, status, reason):
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.change_agent("a", status=status, status_reason=reason)
    assert await fleet.replica.beat(FakeBeat("i", generation)) == []
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_a_decommissioned_agent_is_gone(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.change_agent("a", status=AgentStatus.DECOMMISSIONED)
    revision = fleet.revision
    assert outcomes(await fleet.replica.beat(FakeBeat("i", generation))) == {"i": "GONE"}
    assert fleet.revision == revision


async def test_a_zombie_is_fenced_and_cannot_take_the_new_process_with_it(fleet):
    old = (await fleet.register("a", "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", old))
    new = await fleet.join("a", "i")
    await fleet.replica.beat(FakeBeat("i", new, in_flight=2))
    assert outcomes(await fleet.replica.beat(FakeBeat("i", old, in_flight=9))) == {"i": "FENCED"}
    assert outcomes(await fleet.replica.beat(FakeBeat("i", old, goodbye=True))) == {"i": "FENCED"}
    assert fleet.replica.view.instances["i"].in_flight == 2
    assert (await fleet.instance("i")).generation == new


async def test_a_beat_of_nobody_is_unknown(fleet):
    await fleet.register("a", "i")
    assert outcomes(await fleet.replica.beat(FakeBeat("ghost", 1))) == {"ghost": "UNKNOWN"}


@pytest.mark.parametrize(("name", "generation"), [("", 1), ("i", 0)])
async def test_a_beat_without_its_identity_is_invalid(fleet, name, generation):
    await fleet.register("a", "i")
    (answer,) = await fleet.replica.beat(FakeBeat(name, generation))
    assert str(answer.outcome) == "INVALID"


async def test_a_beat_waits_for_the_registration_this_replica_has_not_heard_of(fleet):
    other = fleet.add_replica("two")
    await other.follow()
    generation = (await fleet.register("a", "i"))["i"]
    unusual = other.intake.accept(other.view, [FakeBeat("i", generation, in_flight=4)])
    answer = asyncio.create_task(other.liveness.settle(NAMESPACE, unusual))
    await asyncio.sleep(0)
    assert not answer.done()
    await other.follow()
    assert await answer == []
    assert other.view.instances["i"].in_flight == 4
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_a_generation_the_store_has_lost_must_register_again(fleet, monkeypatch):
    monkeypatch.setattr("controlplane.services.families.CATCH_UP_SECONDS", 0.01)
    await fleet.register("a", "i")
    assert outcomes(await fleet.replica.beat(FakeBeat("i", 10**6))) == {"i": "UNKNOWN"}


async def test_a_storm_of_500_comes_back_in_one_round_trip_with_one_commit_per_agent(fleet):
    beats = []
    for number in range(50):
        names = [f"i{number}-{n}" for n in range(10)]
        generations = await fleet.register(f"a{number}", *names)
        beats += [FakeBeat(name, generation) for name, generation in generations.items()]
    calls = []
    commit_many = fleet.replica.ledger.commit_many

    async def counted(transactions):
        calls.append(len(transactions))
        return await commit_many(transactions)

    fleet.replica.ledger.commit_many = counted
    assert await fleet.replica.beat(*beats) == []
    assert calls == [50]
    states = {live.instance.state for live in fleet.replica.view.instances.values()}
    assert states == {InstanceState.FRESH}
    assert (await fleet.events()).count("agent.activated") == 50


async def test_instances_of_one_agent_on_many_streams_all_become_fresh(fleet):
    names = [f"i{n}" for n in range(20)]
    generations = await fleet.register("a", *names)
    view = fleet.replica.view
    streams = [
        fleet.replica.liveness.settle(
            NAMESPACE, fleet.replica.intake.accept(view, [FakeBeat(name, generation)])
        )
        for name, generation in generations.items()
    ]
    assert await asyncio.gather(*streams) == [[]] * 20
    await fleet.replica.follow()
    states = {live.instance.state for live in fleet.replica.view.instances.values()}
    assert states == {InstanceState.FRESH}
    assert (await fleet.events()).count("agent.activated") == 1


async def test_a_revival_is_not_committed_twice_while_the_copy_lags(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    view = fleet.replica.view
    for _ in range(3):
        unusual = fleet.replica.intake.accept(view, [FakeBeat("i", generation)])
        assert await fleet.replica.liveness.settle(NAMESPACE, unusual) == []
    assert (await fleet.events()).count("agent.activated") == 1
    assert fleet.revision == generation + 1


async def test_without_the_store_a_beat_counts_and_the_next_one_revives(fleet):
    faulty = []

    def wrap(ledger):
        faulty.append(FaultyLedger(ledger))
        return faulty[0]

    replica = fleet.add_replica("two", wrap=wrap)
    generation = (await fleet.register("a", "i"))["i"]
    await replica.follow()
    faulty[0].fail_next()
    assert await replica.beat(FakeBeat("i", generation)) == []
    assert replica.liveness.deferred == 1
    assert replica.view.instances["i"].last_beat_ms == fleet.clock.store_ms()
    assert (await fleet.instance("i")).state is InstanceState.STARTING
    assert await replica.beat(FakeBeat("i", generation)) == []
    assert (await fleet.instance("i")).state is InstanceState.FRESH


async def test_a_commit_that_happened_but_timed_out_is_found_out(fleet):
    faulty = []

    def wrap(ledger):
        faulty.append(FaultyLedger(ledger))
        return faulty[0]

    replica = fleet.add_replica("two", wrap=wrap)
    generation = (await fleet.register("a", "i"))["i"]
    await replica.follow()
    faulty[0].execute_then_fail()
    view = replica.view
    for _ in range(2):
        unusual = replica.intake.accept(view, [FakeBeat("i", generation)])
        assert await replica.liveness.settle(NAMESPACE, unusual) == []
    assert (await fleet.events()).count("agent.activated") == 1


async def test_a_goodbye_removes_the_instance_and_stops_the_agent(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", generation))
    goodbye = FakeBeat("i", generation, goodbye=True)
    assert outcomes(await fleet.replica.beat(goodbye)) == {"i": "REMOVED"}
    assert await fleet.instance("i") is None
    assert fleet.deadline_of("i") is None
    agent = await fleet.agent("a")
    assert (agent.status, agent.status_reason) == (AgentStatus.INACTIVE, "STOPPED")
    assert outcomes(await fleet.replica.beat(goodbye)) == {"i": "REMOVED"}  # a retry


async def test_a_goodbye_leaves_an_agent_with_a_fresh_instance_active(fleet):
    generations = await fleet.register("a", "i", "j")
    await fleet.replica.beat(*(FakeBeat(n, g) for n, g in generations.items()))
    await fleet.replica.beat(FakeBeat("i", generations["i"], goodbye=True))
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_departures_of_the_last_two_at_once_still_stop_the_agent(fleet):
    generations = await fleet.register("a", "i", "j")
    await fleet.replica.beat(*(FakeBeat(n, g) for n, g in generations.items()))
    removed = await asyncio.gather(
        fleet.replica.liveness.depart(NAMESPACE, "i"), fleet.replica.liveness.depart(NAMESPACE, "j")
    )
    assert all(removed)
    assert (await fleet.agent("a")).status is AgentStatus.INACTIVE


async def test_departing_is_fenced_idempotent_and_remembers_its_request(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    depart = fleet.replica.liveness.depart
    with pytest.raises(InstanceFenced):
        await depart(NAMESPACE, "i", generation + 1)
    request = RequestKey("r", "digest")
    assert await depart(NAMESPACE, "i", generation, actor="ops", reason="bye", request=request)
    assert await depart(NAMESPACE, "i", generation, request=request)
    assert not await depart(NAMESPACE, "i", generation)
    entry = (await fleet.admin.read_audit(NAMESPACE))[-1][2]
    assert (entry.actor, entry.reason, entry.request_id) == ("ops", "bye", "r")


async def test_a_goodbye_the_store_did_not_take_is_not_confirmed(fleet):
    faulty = []

    def wrap(ledger):
        faulty.append(FaultyLedger(ledger))
        return faulty[0]

    replica = fleet.add_replica("two", wrap=wrap)
    generation = (await fleet.register("a", "i"))["i"]
    await replica.follow()
    faulty[0].fail_next(StoreUnavailable(), times=10)
    assert await replica.beat(FakeBeat("i", generation, goodbye=True)) == []
    assert await fleet.instance("i") is not None


async def test_a_thousand_goodbyes_take_two_round_trips_and_one_commit_per_agent(fleet):
    beats = []
    for number in range(100):
        names = [f"i{number}-{n}" for n in range(10)]
        generations = await fleet.register(f"a{number}", *names)
        beats += [FakeBeat(name, generation) for name, generation in generations.items()]
    await fleet.replica.beat(*beats)
    ledger = fleet.replica.ledger
    calls: list[Any] = []
    for name in ("read", "commit", "commit_many"):
        _count_calls(ledger, name, calls)
    before = fleet.revision
    goodbyes = [FakeBeat(beat.instance_id, beat.generation, goodbye=True) for beat in beats]
    answers = await fleet.replica.beat(*goodbyes)
    assert set(outcomes(answers).values()) == {"REMOVED"}
    assert len(answers) == 1000
    assert calls == ["read", "commit_many"]
    assert fleet.revision == before + 100
    assert fleet.replica.view.instances == {}
    assert (await fleet.events())[-100:] == ["agent.deactivated"] * 100


def _count_calls(ledger, name, calls):
    method = getattr(ledger, name)

    async def counted(*args):
        calls.append(name)
        return await method(*args)

    setattr(ledger, name, counted)


async def test_goodbyes_of_one_message_are_answered_each_for_itself(fleet):
    generations = await fleet.register("a", "i", "j", "k")
    await fleet.replica.beat(*(FakeBeat(n, g) for n, g in generations.items()))
    newer = await fleet.join("a", "j")
    answers = await fleet.replica.beat(
        FakeBeat("i", generations["i"], goodbye=True),
        FakeBeat("j", generations["j"], goodbye=True),
        FakeBeat("ghost", 1, goodbye=True),
        FakeBeat("k", generations["k"]),
    )
    assert outcomes(answers) == {"i": "REMOVED", "j": "FENCED", "ghost": "REMOVED"}
    assert (await fleet.instance("j")).generation == newer
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_a_goodbye_waits_to_hear_of_an_instance_that_has_just_come_to_life(fleet):
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", generation))
    lagging = fleet.add_replica("two")
    await lagging.follow()
    newcomer = await fleet.join("a", "j")
    await fleet.replica.beat(FakeBeat("j", newcomer))
    farewell = FakeBeat("i", generation, goodbye=True)
    unusual = lagging.intake.accept(lagging.view, [farewell])
    answer = asyncio.create_task(lagging.liveness.settle(NAMESPACE, unusual))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await lagging.follow()
    assert outcomes(await answer) == {"i": "REMOVED"}
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE
    assert "agent.deactivated" not in await fleet.events()


async def test_a_replica_that_lags_leaves_a_goodbye_to_be_said_again(fleet, monkeypatch):
    monkeypatch.setattr("controlplane.services.families.CATCH_UP_SECONDS", 0.001)
    generation = (await fleet.register("a", "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", generation))
    lagging = fleet.add_replica("two")
    await lagging.follow()
    newcomer = await fleet.join("a", "j")
    await fleet.replica.beat(FakeBeat("j", newcomer))
    farewell = FakeBeat("i", generation, goodbye=True)
    unusual = lagging.intake.accept(lagging.view, [farewell])
    assert await lagging.liveness.settle(NAMESPACE, unusual) == []
    assert await fleet.instance("i") is not None
    assert outcomes(await fleet.replica.beat(farewell)) == {"i": "REMOVED"}
