"""Watches across reconnects: no event twice, none lost."""

import asyncio

import grpc
import pytest

from fleetplane import (
    AgentsChanged,
    AgentsEvent,
    AgentsSnapshot,
    AgentsUnchanged,
    AgentWatch,
    ConfigUpdate,
    FleetClient,
    InvalidArgument,
    Scope,
)
from fleetplane.v1 import registry_service_pb2, watch_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane, Refusal
from tests.fakes.fleet_server import FleetServer


async def test_a_watch_starts_with_one_complete_snapshot(client: FleetClient, plane: Plane) -> None:
    for number in range(5):
        plane.put_agent(f"a{number}")
    async with client.watch_agents() as watch:
        event = await anext(watch)
        assert isinstance(event, AgentsSnapshot)
        assert [agent.agent_id for agent in event.agents] == ["a0", "a1", "a2", "a3", "a4"]
        assert watch.position.revision == 5


async def test_changes_and_removals_follow(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("a")
    async with client.watch_agents() as watch:
        await anext(watch)
        plane.put_agent("b")
        event = await anext(watch)
        assert isinstance(event, AgentsChanged)
        assert [agent.agent_id for agent in event.agents] == ["b"]
        plane.remove_agent("a")
        event = await anext(watch)
        assert isinstance(event, AgentsChanged)
        assert event.removed_agent_ids == ("a",)


async def test_a_watch_goes_on_where_it_was_when_the_server_dies(
    server: FleetServer, client: FleetClient, plane: Plane
) -> None:
    seen: list[tuple[str, int]] = []
    snapshots = 0

    async def follow() -> None:
        nonlocal snapshots
        async for event in client.watch_agents():
            if isinstance(event, AgentsSnapshot):
                snapshots += 1
            elif isinstance(event, AgentsChanged):
                seen.extend((agent.agent_id, agent.revision) for agent in event.agents)
                if seen[-1][0] == "last":
                    return

    plane.put_agent("first")
    following = asyncio.create_task(follow())
    await plane.until(lambda: plane.streams["WatchAgents"])
    for turn in range(5):
        for number in range(3):
            plane.put_agent(f"{turn}-{number}")
            await asyncio.sleep(0)
        await server.stop()
        plane.put_agent(f"{turn}-away")
        await server.start()
    plane.put_agent("last")
    async with asyncio.timeout(10):
        await following
    assert snapshots == 1
    names = [name for name, _ in seen]
    assert len(names) == len(set(names)), "an event came twice"
    expected = {f"{turn}-{part}" for turn in range(5) for part in (0, 1, 2, "away")} | {"last"}
    known_from_snapshot = expected - set(names)
    assert set(names) <= expected
    assert known_from_snapshot <= {"0-0", "0-1", "0-2"}, "an event was lost"
    revisions = [revision for _, revision in seen]
    assert revisions == sorted(revisions)


async def test_a_watch_that_is_sent_away_resumes(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("a")
    async with client.watch_agents() as watch:
        await anext(watch)
        plane.send_everybody_away()
        plane.put_agent("b")
        event = await anext(watch)
        assert isinstance(event, AgentsChanged)
        assert [agent.agent_id for agent in event.agents] == ["b"]


async def test_another_epoch_brings_a_snapshot(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("a")
    async with client.watch_agents() as watch:
        await anext(watch)
        plane.new_history("epoch-2")
        event = await anext(watch)
        assert isinstance(event, AgentsSnapshot)
        assert event.position.epoch == "epoch-2"


async def test_cancelling_the_wait_for_an_event_loses_nothing(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("a")
    async with client.watch_agents() as watch:
        await anext(watch)
        waiting = asyncio.create_task(watch.__anext__())
        await plane.until(lambda: plane.streams["WatchAgents"])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        plane.put_agent("b")
        event = await anext(watch)
        assert isinstance(event, AgentsChanged)
        assert [agent.agent_id for agent in event.agents] == ["b"]


async def test_a_watch_is_opened_again_while_the_plane_is_not_ready(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("a")
    plane.failures["WatchAgents"].extend([UNAVAILABLE] * 3)
    async with client.watch_agents() as watch:
        assert isinstance(await anext(watch), AgentsSnapshot)
    assert plane.calls["WatchAgents"] == 4


async def test_a_refused_watch_ends_with_the_refusal(client: FleetClient, plane: Plane) -> None:
    plane.failures["WatchAgents"].append(
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "bad filter")
    )
    watch = client.watch_agents(name="?")
    with pytest.raises(InvalidArgument, match="bad filter"):
        await anext(watch)
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_a_silent_stream_is_given_up_and_resumed(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("a")
    watch = AgentWatch(
        lambda held: client.connection.registry.WatchAgents(
            registry_service_pb2.WatchAgentsRequest(resume_from=held)
        ),
        max_silence=0.1,
    )
    await anext(watch)
    waiting = asyncio.create_task(watch.__anext__())
    await plane.until(lambda: plane.opened["WatchAgents"] >= 3)
    plane.put_agent("b")
    event = await waiting
    assert isinstance(event, AgentsChanged)
    await watch.aclose()


def test_an_event_that_was_delivered_before_is_dropped() -> None:
    message = registry_service_pb2.WatchAgentsResponse
    watch = AgentWatch(lambda _: None)
    position = watch_pb2.WatchPosition(epoch="e", revision=4)
    snapshot = message(snapshot=message.Snapshot(complete=True), position=position)
    assert watch._receive(snapshot) is None
    delivered: list[AgentsEvent] = list(watch._ready)
    watch._deliver(watch._ready.popleft())
    watch._receive(message(delta=message.Delta(removed_agent_ids=["x"]), position=position))
    assert not watch._ready
    watch._receive(message(bookmark=message.Bookmark(), position=position))
    delivered.extend(watch._ready)
    assert [type(event) for event in delivered] == [AgentsSnapshot, AgentsUnchanged]


async def test_configurations_of_many_scopes_come_on_one_stream(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_config(("id", "a"), temperature=0.1)
    scopes = [Scope(agent_id="a"), Scope(agent_id="b")]
    async with client.watch_config(scopes) as watch:
        first = [await anext(watch), await anext(watch)]
        assert {update.scope.agent_id: update.config.temperature for update in first} == {
            "a": 0.1,
            "b": 0.7,
        }
        plane.put_config(("id", "b"), temperature=0.2)
        update = await anext(watch)
        assert (update.scope, update.config.temperature) == (Scope(agent_id="b"), 0.2)
        assert watch.synced
    assert plane.opened["WatchConfig"] == 1


async def test_a_config_watch_misses_no_change_and_repeats_none_over_restarts(
    server: FleetServer, client: FleetClient, plane: Plane
) -> None:
    seen: list[ConfigUpdate] = []
    plane.put_config(max_tokens=1)

    async def follow() -> None:
        async for update in client.watch_config(Scope(agent_name="x")):
            seen.append(update)
            if update.config.max_tokens == 100:
                return

    following = asyncio.create_task(follow())
    await plane.until(lambda: plane.streams["WatchConfig"])
    for turn in range(2, 6):
        plane.put_config(max_tokens=turn)
        await server.restart()
    plane.put_config(max_tokens=100)
    async with asyncio.timeout(10):
        await following
    revisions = [update.config.revision for update in seen]
    assert revisions == sorted(set(revisions))
    assert seen[-1].config.revision == plane.revision


async def test_scopes_can_be_added_and_removed(client: FleetClient, plane: Plane) -> None:
    async with client.watch_config(Scope(agent_id="a")) as watch:
        await anext(watch)
        watch.change_scopes(add=[Scope(agent_id="b")], remove=[Scope(agent_id="a")])
        assert (await anext(watch)).scope == Scope(agent_id="b")
        assert watch.scopes == (Scope(agent_id="b"),)
        with pytest.raises(KeyError):
            watch.position(Scope(agent_id="a"))
    assert [one.scope.agent_id for one in plane.watched[-1].scopes] == ["b"]
