import asyncio
from collections.abc import AsyncIterator

import pytest

from fleetplane import ChannelConfig, FleetClient
from tests.fakes.fleet_plane import Plane
from tests.fakes.fleet_server import FleetServer
from tests.fakes.fleet_tasks import TaskDesk


@pytest.fixture
async def server() -> AsyncIterator[FleetServer]:
    async with FleetServer() as running:
        yield running


@pytest.fixture
def plane(server: FleetServer) -> Plane:
    return server.plane


@pytest.fixture
def desk(server: FleetServer) -> TaskDesk:
    return server.desk


@pytest.fixture
def channel_config() -> ChannelConfig:
    return ChannelConfig(max_reconnect_backoff=0.2)


@pytest.fixture
async def client(server: FleetServer, channel_config: ChannelConfig) -> AsyncIterator[FleetClient]:
    async with FleetClient(server.target, channel_config=channel_config) as opened:
        yield opened


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    left = [
        task.get_name()
        for task in asyncio.all_tasks()
        if task.get_name().startswith("fleetplane-") and not task.done()
    ]
    assert left == []
