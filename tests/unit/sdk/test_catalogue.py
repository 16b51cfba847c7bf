"""The watched copy of the registry."""

import grpc
import pytest

from fleetplane import AgentsSnapshot, AgentStatus, Catalogue, FleetClient, InvalidArgument
from fleetplane._config import Position
from fleetplane.v1 import agent_pb2
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.fleet_server import FleetServer


async def test_a_catalogue_answers_from_its_copy_and_follows_changes(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("b", capabilities=["x", "y"], tags={"tier": "gold"}, owner="me")
    plane.put_agent("a", capabilities=["x"], model="m", tools=["t"])
    async with Catalogue(client) as catalogue:
        assert catalogue.age == float("inf")
        await catalogue.ready()
        assert len(catalogue) == 2
        assert [one.agent_id for one in catalogue.discover(capabilities="x")] == ["a", "b"]
        assert [one.agent_id for one in catalogue.discover(capabilities=["x", "y"])] == ["b"]
        assert [one.agent_id for one in catalogue.discover(tags={"tier": "gold"})] == ["b"]
        assert [one.agent_id for one in catalogue.discover(model="m", tool="t")] == ["a"]
        assert [one.agent_id for one in catalogue.discover(owner="me", name="b")] == ["b"]
        assert catalogue.discover(capabilities=["x", "z"]) == []
        assert catalogue.discover(statuses=[AgentStatus.INACTIVE]) == []
        assert len(catalogue.discover()) == 2
        plane.put_agent("b", capabilities=["z"])
        plane.remove_agent("a")
        await catalogue.reached(plane.revision, timeout=5)
        assert [one.agent_id for one in catalogue.discover(capabilities=["z"])] == ["b"]
        assert catalogue.discover(capabilities=["x"]) == []
        assert catalogue.get("a") is None
        assert catalogue.age < 5
    assert catalogue.get("b") is not None, "what was known stays readable"


async def test_a_catalogue_survives_a_restart_without_a_new_snapshot(
    server: FleetServer, client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("a")
    async with Catalogue(client) as catalogue:
        await catalogue.ready()
        await server.stop()
        assert catalogue.get("a") is not None
        plane.put_agent("b")
        await server.start()
        await catalogue.reached(plane.revision, timeout=5)
        assert catalogue.get("b") is not None
        assert plane.opened["WatchAgents"] == 2
        with pytest.raises(TimeoutError):
            await catalogue.reached(plane.revision + 1, timeout=0.01)


async def test_a_refused_catalogue_says_so(client: FleetClient, plane: Plane) -> None:
    plane.failures["WatchAgents"].append(Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"))
    async with Catalogue(client, name="?") as catalogue:
        with pytest.raises(InvalidArgument):
            await catalogue.ready()
        with pytest.raises(InvalidArgument):
            await catalogue.reached(1)


async def test_a_new_snapshot_replaces_everything(client: FleetClient) -> None:
    catalogue = Catalogue(client)
    for names in ({"a", "b"}, {"c"}):
        agents = tuple(
            agent_pb2.Agent(agent_id=name, status=agent_pb2.AGENT_STATUS_ACTIVE)
            for name in sorted(names)
        )
        catalogue._apply(AgentsSnapshot(agents, Position("e", 1)))
        assert {agent.agent_id for agent in catalogue.discover()} == names
