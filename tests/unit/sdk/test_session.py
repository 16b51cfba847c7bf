"""What the agents of one process share, and what happens when it is closed."""

import asyncio
from functools import partial

import pytest

from fleetplane import Agent, AgentState, EffectiveConfig, FleetClient, Scope, Unavailable
from fleetplane._subscriptions import ConfigSubscriptions
from fleetplane.v1 import registry_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane
from tests.fakes.fleet_server import FleetServer


async def test_more_than_a_thousand_scopes_take_a_second_stream(
    client: FleetClient, plane: Plane
) -> None:
    subscriptions = ConfigSubscriptions(lambda: client.watch_config(()))
    heard: dict[int, EffectiveConfig] = {}
    done = asyncio.Event()

    def listen(number: int, config: EffectiveConfig) -> None:
        heard[number] = config
        if len(heard) == 1100:
            done.set()

    try:
        for number in range(1100):
            subscriptions.subscribe(Scope(agent_id=f"a{number}"), partial(listen, number))
        async with asyncio.timeout(20):
            await done.wait()
        assert plane.streams["WatchConfig"] == 2
        assert sorted(len(request.scopes) for request in plane.watched) == [100, 1000]
    finally:
        await subscriptions.aclose()


async def test_a_late_listener_of_a_watched_scope_hears_the_latest_at_once(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_config(temperature=0.3)
    subscriptions = ConfigSubscriptions(lambda: client.watch_config(()))
    first: list[EffectiveConfig] = []
    second: list[EffectiveConfig] = []
    arrived = asyncio.Event()
    scope = Scope(agent_id="a")

    def listen(config: EffectiveConfig) -> None:
        first.append(config)
        arrived.set()

    try:
        subscriptions.subscribe(scope, listen)
        async with asyncio.timeout(5):
            await arrived.wait()
        subscriptions.subscribe(scope, second.append)
        assert [config.temperature for config in second] == [0.3]
        subscriptions.unsubscribe(scope, listen)
        subscriptions.unsubscribe(scope, second.append)
        await plane.until(lambda: plane.streams["WatchConfig"] == 0)
    finally:
        await subscriptions.aclose()


async def test_the_stream_ends_with_its_last_agent_and_opens_for_the_next(
    client: FleetClient, plane: Plane
) -> None:
    plane.interval = 30.0
    async with Agent("one", "1.0.0", client=client):
        assert plane.streams["Heartbeat"] == 1
    await plane.until(lambda: plane.streams["Heartbeat"] == 0)
    async with Agent("two", "1.0.0", client=client) as agent:
        assert agent.may_work
        assert plane.opened["Heartbeat"] == 2


async def test_an_agent_that_joins_late_is_part_of_the_next_rounds(
    client: FleetClient, plane: Plane
) -> None:
    def has_beaten(agent: Agent, seq: int) -> bool:
        return plane.latest[agent.instance_id].seq > seq

    async with Agent("one", "1.0.0", client=client) as one:
        async with Agent("two", "1.0.0", client=client) as two:
            for agent in (one, two):
                await plane.until(
                    partial(has_beaten, agent, plane.latest[agent.instance_id].seq + 3)
                )
        assert plane.opened["Heartbeat"] == 1


async def test_a_lone_urgent_beat_does_not_postpone_the_round(
    client: FleetClient, plane: Plane
) -> None:
    plane.interval = 0.2
    async with (
        Agent("one", "1.0.0", client=client) as one,
        Agent("two", "1.0.0", client=client) as two,
    ):
        seq = plane.latest[one.instance_id].seq

        async def nudge() -> None:
            while True:
                two._nudge()
                await asyncio.sleep(0.02)

        nudging = asyncio.create_task(nudge())
        await plane.until(lambda: plane.latest[one.instance_id].seq > seq + 2, within=3)
        nudging.cancel()


async def test_an_agent_whose_client_was_closed_first_ends_quietly(server: FleetServer) -> None:
    client = FleetClient(server.target)
    await client.__aenter__()
    agent = Agent("one", "1.0.0", client=client)
    await agent.__aenter__()
    await client.aclose()
    async with asyncio.timeout(1):
        await agent.aclose()
    assert agent.state is AgentState.CLOSED


async def test_a_goodbye_that_was_not_written_is_said_again(
    client: FleetClient, plane: Plane
) -> None:
    plane.interval = 30.0
    plane.goodbyes_to_lose = 2
    async with Agent("one", "1.0.0", client=client):
        pass
    assert not plane.instances
    assert sum(beat.goodbye for beat in plane.beats) == 3


async def test_closing_a_client_answers_who_waits(server: FleetServer) -> None:
    await server.stop()
    client = FleetClient(server.target)
    await client.__aenter__()
    waiting = asyncio.create_task(client.evaluate_policy("a", "read"))
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await waiting


async def test_registering_again_outlasts_a_store_that_is_away(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("one", "1.0.0", client=client) as agent:
        plane.failures["BatchRegister"].extend([UNAVAILABLE] * 3)
        plane.instances.clear()
        await plane.until(lambda: agent.instance_id in plane.instances)
        await plane.until(lambda: agent.may_work)


async def test_an_agent_that_may_not_register_again_is_refused(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("one", "1.0.0", client=client) as agent:
        plane.agents[agent.agent_id].spec.owner = "somebody else"
        plane.instances.clear()
        async with asyncio.timeout(5):
            assert await agent.wait_ended() is AgentState.REFUSED
        assert agent.error is not None
        assert agent.error.reason == "AGENT_EXISTS"


async def test_a_command_to_register_is_followed(client: FleetClient, plane: Plane) -> None:
    async with Agent("one", "1.0.0", client=client) as agent:
        calls = plane.calls["BatchRegister"]
        plane.commands.append(
            registry_service_pb2.Command(
                instance_id=agent.instance_id, kind=registry_service_pb2.Command.KIND_REGISTER
            )
        )
        await plane.until(lambda: plane.calls["BatchRegister"] > calls)
        await plane.until(lambda: agent.may_work)


async def test_a_malformed_beat_does_not_count(client: FleetClient, plane: Plane) -> None:
    plane.ttl = 0.3
    async with Agent("one", "1.0.0", client=client) as agent:
        plane.outcomes[agent.instance_id] = registry_service_pb2.BeatResult.OUTCOME_INVALID
        await plane.until(lambda: agent.expired)


async def test_an_agent_starts_once(client: FleetClient) -> None:
    agent = Agent("one", "1.0.0", client=client)
    with pytest.raises(RuntimeError, match="not running"):
        await agent.check("read")
    with pytest.raises(RuntimeError, match="not running"):
        await agent.wait_ended()
    async with agent:
        pass
    with pytest.raises(RuntimeError, match="starts once"):
        await agent.__aenter__()
    await agent.aclose()


async def test_cancelling_a_start_leaves_nothing(server: FleetServer, plane: Plane) -> None:
    plane.silent = True
    agent = Agent("one", "1.0.0", target=server.target, stop_timeout=0.1)
    starting = asyncio.create_task(agent.__aenter__())
    await plane.until(lambda: plane.beats)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert agent.state is AgentState.CLOSED
