"""The implementations that every suite in this folder is run against.

A suite takes the fixture `world` and never asks which one it got.

Redis is whatever server the environment variable FLEETPLANE_TEST_STORE_BINARY names, by default the
bundled Valkey. To see whether another version of Redis or Valkey is fit to be a store:

    FLEETPLANE_TEST_STORE_BINARY=/path/to/redis-server pytest tests/contracts tests/integration
"""

from collections.abc import AsyncIterator

import pytest

from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.store_world import CHANGES_KEEP, MemoryWorld, RedisWorld, World
from tests.fakes.valkey import valkey_server


@pytest.fixture(params=["memory", "redis"])
async def world(request) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    async with (
        valkey_server(persistent=False) as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection, changes_keep=CHANGES_KEEP) as ledger,
    ):
        yield RedisWorld(connection, ledger)
