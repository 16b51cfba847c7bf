import asyncio
import os
import signal

import pytest

from fleetplane import (
    Agent,
    AgentState,
    AlreadyExists,
    ApprovalRequired,
    ChannelConfig,
    ConfigStatus,
    EffectiveConfig,
    FailMode,
    FleetClient,
    InvalidArgument,
    PolicyAction,
    PolicyDenied,
    Unavailable,
)
from fleetplane.v1 import policy_service_pb2, registry_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane
from tests.fakes.fleet_server import FleetServer

Outcome = registry_service_pb2.BeatResult


async def test_an_agent_registers_beats_and_says_goodbye(client: FleetClient, plane: Plane) -> None:
    agent = Agent("worker", "1.2.0", client=client, capabilities=["x"], tags={"a": "b"})
    states, may_work = [agent.state], [agent.may_work]
    async with agent:
        states.append(agent.state)
        may_work.append(agent.may_work)
        assert agent.agent_id == "worker-1.2.0"
        assert agent.generation > 0
        assert list(plane.agents["worker-1.2.0"].spec.capabilities) == ["x"]
        assert agent.instance_id in plane.instances
    states.append(agent.state)
    assert states == [AgentState.NEW, AgentState.ACTIVE, AgentState.CLOSED]
    may_work.append(agent.may_work)
    assert may_work == [False, True, False]
    assert agent.instance_id not in plane.instances
    assert plane.beats[-1].goodbye


async def test_beats_follow_the_interval_and_count(client: FleetClient, plane: Plane) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        before = len(plane.beats)
        await plane.until(lambda: len(plane.beats) >= before + 3)
        sequence = [beat.seq for beat in plane.beats if beat.instance_id == agent.instance_id]
        assert sequence == sorted(set(sequence))


async def test_work_is_counted_timed_and_reported(client: FleetClient, plane: Plane) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:

        @agent.track
        async def double(value: int) -> int:
            assert agent.work.in_flight == 1
            return value * 2

        assert await double(21) == 42
        with pytest.raises(KeyError), agent.task():
            raise KeyError("x")
        with pytest.raises(asyncio.CancelledError), agent.task():
            raise asyncio.CancelledError
        await plane.until(lambda: plane.latest[agent.instance_id].failed == 1)
        beat = plane.latest[agent.instance_id]
        assert (beat.completed, beat.in_flight) == (1, 0)
        assert beat.latency_ms > 0
        assert not beat.progress_token
        with agent.task() as task:
            task.progress()
            await plane.until(lambda: plane.latest[agent.instance_id].progress_token)


async def test_an_unknown_instance_registers_again_and_goes_on(
    client: FleetClient, plane: Plane
) -> None:
    states: list[AgentState] = []
    async with Agent(
        "worker", "1.0.0", client=client, on_state=lambda state, _: states.append(state)
    ) as agent:
        generation = agent.generation
        plane.instances.clear()
        await plane.until(lambda: agent.instance_id in plane.instances)
        count = len(plane.beats)
        await plane.until(lambda: len(plane.beats) > count + 2)
        assert agent.generation > generation
        assert agent.may_work
    assert states == [
        AgentState.REGISTERING,
        AgentState.ACTIVE,
        AgentState.REGISTERING,
        AgentState.ACTIVE,
        AgentState.CLOSED,
    ]
    assert len(plane.request_ids) == len(set(plane.request_ids))


async def test_a_fenced_agent_stops_and_says_so(client: FleetClient, plane: Plane) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        plane.instances[agent.instance_id].generation += 1
        async with asyncio.timeout(5):
            assert await agent.wait_ended() is AgentState.FENCED
        assert not agent.may_work
        assert agent.detail == "says the fake"
    assert agent.state is AgentState.FENCED
    assert agent.instance_id in plane.instances, "a zombie must not remove its successor"


async def test_an_agent_that_is_decommissioned_stops(client: FleetClient, plane: Plane) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        plane.outcomes[agent.instance_id] = Outcome.OUTCOME_GONE
        async with asyncio.timeout(5):
            assert await agent.wait_ended() is AgentState.GONE


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.OUTCOME_INACTIVE, AgentState.INACTIVE),
        (Outcome.OUTCOME_NOT_ACTIVATED, AgentState.NOT_ACTIVATED),
    ],
)
async def test_an_agent_that_may_not_work_beats_on_and_comes_back(
    client: FleetClient,
    plane: Plane,
    outcome: registry_service_pb2.BeatResult.Outcome.ValueType,
    state: AgentState,
) -> None:
    seen: list[AgentState] = []
    async with Agent(
        "worker", "1.0.0", client=client, on_state=lambda new, _: seen.append(new)
    ) as agent:
        seen.clear()
        plane.outcomes[agent.instance_id] = outcome
        await plane.until(lambda: agent.state is state)
        beats = len(plane.beats)
        await plane.until(lambda: len(plane.beats) >= beats + 3)
        assert not agent.may_work
        assert not agent.expired
        assert seen == [state], "it must not flap with every beat"
        plane.outcomes.clear()
        await plane.until(lambda: agent.may_work)


async def test_commands_drain_and_stop(client: FleetClient, plane: Plane) -> None:
    states: list[AgentState] = []
    async with Agent("worker", "1.0.0", client=client) as agent:
        for kind in (
            registry_service_pb2.Command.KIND_DRAIN,
            registry_service_pb2.Command.KIND_STOP,
        ):
            plane.commands.append(
                registry_service_pb2.Command(instance_id=agent.instance_id, kind=kind)
            )
            before = agent.state
            await plane.until(lambda before=before: agent.state is not before)  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            states.append(agent.state)
            assert not agent.may_work
    assert states == [AgentState.DRAINING, AgentState.STOPPED]


async def test_two_hundred_agents_share_two_streams(client: FleetClient, plane: Plane) -> None:
    plane.interval = 0.5
    agents = [Agent("crew", f"1.0.{number}", client=client) for number in range(200)]
    await asyncio.gather(*(agent.__aenter__() for agent in agents))
    try:
        assert plane.streams["Heartbeat"] == 1
        assert plane.streams["WatchConfig"] == 1
        assert plane.calls["BatchRegister"] <= 4
        assert all(agent.may_work for agent in agents)
        plane.put_config(temperature=0.1)
        await plane.until(lambda: all(agent.config.temperature == 0.1 for agent in agents))
    finally:
        await asyncio.gather(*(agent.aclose() for agent in agents))
    assert not plane.instances


async def test_agents_of_one_target_share_one_client_and_leave_nothing(
    server: FleetServer, plane: Plane
) -> None:
    async with (
        Agent("one", "1.0.0", target=server.target),
        Agent("two", "1.0.0", target=server.target),
    ):
        assert plane.streams["Heartbeat"] == 1
    await plane.until(lambda: plane.streams["Heartbeat"] == 0 and not plane.streams["WatchConfig"])


async def test_a_configuration_is_applied_and_acknowledged(
    client: FleetClient, plane: Plane
) -> None:
    seen: list[float] = []

    async def apply(config: EffectiveConfig) -> None:
        seen.append(config.temperature)

    async with Agent("worker", "1.0.0", client=client, on_config=apply) as agent:
        assert seen == [0.7]
        revision = plane.put_config(("name", "worker"), temperature=0.2)
        await plane.until(
            lambda: plane.instances[agent.instance_id].config.running_revision == revision
        )
        assert seen == [0.7, 0.2]
        acknowledged = plane.instances[agent.instance_id].config
        assert acknowledged.status == ConfigStatus.APPLIED.value
        assert agent.config.revision == revision


async def test_a_refused_configuration_is_answered_failed_and_the_last_good_one_runs_on(
    client: FleetClient, plane: Plane
) -> None:
    def refuse_heat(config: EffectiveConfig) -> None:
        if config.temperature > 1:
            raise ValueError("too hot")

    async with Agent("worker", "1.0.0", client=client, on_config=refuse_heat) as agent:
        good = plane.put_config(temperature=0.5)
        await plane.until(lambda: agent.config.revision == good)
        bad = plane.put_config(temperature=1.5)
        acknowledged = plane.instances[agent.instance_id].config
        await plane.until(lambda: acknowledged.attempted_revision == bad)
        assert acknowledged.running_revision == good
        assert acknowledged.status == ConfigStatus.FAILED.value
        assert acknowledged.error == "ValueError: too hot"
        assert agent.config.temperature == 0.5
        assert isinstance(agent.config_error, ValueError)
        better = plane.put_config(temperature=0.9)
        await plane.until(lambda: acknowledged.running_revision == better)
        assert agent.config_error is None


async def test_an_agent_survives_a_restart_of_the_plane(
    server: FleetServer, client: FleetClient, plane: Plane
) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        plane.put_config(temperature=0.3)
        await plane.until(lambda: agent.config.temperature == 0.3)
        generation = agent.generation
        await server.stop()
        assert agent.config.temperature == 0.3
        plane.put_config(temperature=0.4)
        opened = plane.opened["Heartbeat"]
        await server.start()
        await plane.until(lambda: plane.opened["Heartbeat"] > opened)
        await plane.until(lambda: agent.config.temperature == 0.4)
        assert agent.generation == generation, "a reconnect is no new process"
        assert agent.may_work
        first = plane.beats[-1]
        assert first.generation == generation


async def test_an_agent_that_is_sent_away_comes_back_without_registering(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("worker", "1.0.0", client=client):
        registrations = plane.calls["BatchRegister"]
        plane.send_everybody_away()
        await plane.until(
            lambda: plane.opened["Heartbeat"] == 2 and plane.opened["WatchConfig"] >= 2
        )
        count = len(plane.beats)
        await plane.until(lambda: len(plane.beats) > count + 2)
        assert plane.calls["BatchRegister"] == registrations


async def test_an_agent_that_hears_nothing_expires_and_recovers(
    client: FleetClient, plane: Plane
) -> None:
    plane.ttl = 0.4
    async with Agent("worker", "1.0.0", client=client) as agent:
        plane.silent = True
        opened = plane.opened["Heartbeat"]
        await plane.until(lambda: agent.expired)
        assert not agent.may_work
        assert agent.state is AgentState.ACTIVE
        await plane.until(lambda: plane.opened["Heartbeat"] > opened)
        plane.silent = False
        await plane.until(lambda: agent.may_work)


async def test_an_agent_waits_at_its_start_for_a_plane_that_is_away(
    server: FleetServer, plane: Plane
) -> None:
    await server.stop()
    config = ChannelConfig(default_timeout=0.5, max_reconnect_backoff=0.2)
    agent = Agent("worker", "1.0.0", target=server.target, channel_config=config)
    starting = asyncio.create_task(agent.__aenter__())
    await asyncio.sleep(0)
    await server.start()
    await starting
    assert agent.may_work
    await agent.aclose()
    assert not plane.instances


async def test_an_agent_gives_up_its_start_at_the_deadline() -> None:
    config = ChannelConfig(default_timeout=0.1)
    agent = Agent("worker", "1.0.0", target="127.0.0.1:1", channel_config=config, start_timeout=0.4)
    with pytest.raises(Unavailable):
        await agent.__aenter__()


async def test_an_agent_with_other_content_is_refused(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("worker-1.0.0", name="worker")
    with pytest.raises(AlreadyExists) as caught:
        async with Agent("worker", "1.0.0", client=client, owner="somebody"):
            pass
    assert caught.value.metadata["agent_id"] == "worker-1.0.0"


async def test_a_malformed_agent_is_refused(client: FleetClient) -> None:
    with pytest.raises(InvalidArgument) as caught:
        async with Agent("worker", "", client=client):
            pass
    assert [one.field for one in caught.value.violations] == ["spec.version"]


async def test_registration_is_repeated_while_the_store_is_away(
    client: FleetClient, plane: Plane
) -> None:
    plane.failures["BatchRegister"].extend([UNAVAILABLE] * 3)
    async with Agent("worker", "1.0.0", client=client) as agent:
        assert agent.may_work
    assert plane.calls["BatchRegister"] == 4
    assert len(set(plane.request_ids)) == 1


async def test_rights_are_asked_for_and_required(client: FleetClient, plane: Plane) -> None:
    plane.verdicts["drop"] = policy_service_pb2.POLICY_ACTION_DENY
    plane.verdicts["pay"] = policy_service_pb2.POLICY_ACTION_REQUIRE_APPROVAL
    async with Agent("worker", "1.0.0", client=client) as agent:
        decision = await agent.check("read", tool="db", environment="test")
        assert PolicyAction(decision.action).permits
        assert decision.decision_id == "worker-1.0.0/db"
        assert (await agent.require("read", claims={"timeout": 3})).decision_id
        with pytest.raises(PolicyDenied) as denied:
            await agent.require("drop")
        assert denied.value.decision.message == "drop"
        with pytest.raises(ApprovalRequired):
            await agent.require("pay")


async def test_the_fail_mode_answers_while_the_plane_is_away(server: FleetServer) -> None:
    config = ChannelConfig(default_timeout=0.2)
    agent = Agent("worker", "1.0.0", target=server.target, channel_config=config, stop_timeout=0.1)
    async with agent:
        await server.stop()
        with pytest.raises(Unavailable):
            await agent.check("read")
        assert (await agent.require("read", on_unavailable=FailMode.ALLOW)).message
        with pytest.raises(PolicyDenied):
            await agent.require("read", on_unavailable=FailMode.DENY)


async def test_running_until_a_signal_ends_with_a_goodbye(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await agent.run_until_signal() is signal.SIGTERM
    assert plane.beats[-1].goodbye


async def test_a_failing_state_listener_does_not_end_the_heartbeat(
    client: FleetClient, plane: Plane
) -> None:
    def fail(state: AgentState, _: str) -> None:
        raise RuntimeError(state)

    async with Agent("worker", "1.0.0", client=client, on_state=fail) as agent:
        count = len(plane.beats)
        await plane.until(lambda: len(plane.beats) > count + 2)
        assert agent.may_work
