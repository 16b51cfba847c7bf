"""The store dies, and stalls: agents notice nothing, readers go on, writers are told to retry."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleetplane import FleetClient, Reason, Unavailable
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import ValkeyServer, valkey_server
from tests.fault.load import Statuses, Writers, crew

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("store faults"), pytest.mark.timeout(120)]

STALL_SECONDS = 3.0
"""How long the store is stopped: longer than the daemon's patience, shorter than its clients'."""


@asynccontextmanager
async def plane(**settings: float) -> AsyncIterator[tuple[ValkeyServer, Daemon, FleetClient]]:
    async with valkey_server() as store:
        with running_daemon(
            store=store.url,
            heartbeat_interval_seconds=0.5,
            # Far above any pause here: whoever is called silent was not.
            degraded_after_seconds=10.0,
            grace_seconds=1.0,
            **settings,
        ) as daemon:
            async with FleetClient(daemon.address) as client:
                yield store, daemon, client


async def test_a_store_that_is_killed_under_load_loses_no_acknowledged_write() -> None:
    async with (
        plane() as (store, daemon, client),
        Statuses(client).watching() as statuses,
        crew(client, 20) as agents,
        Writers([client]).running() as writers,
    ):
        await eventually("the crew is ACTIVE", lambda: statuses.all_active(len(agents)))
        for _ in range(3):
            await writers.more(100)
            await store.restart()
        await writers.more(100)
        assert all(agent.may_work for agent in agents)
        await writers.finish()
        await writers.verify(client)
        statuses.assert_nobody_was_ever_silent()
        # What the daemon has in memory is what it would load: a fresh one agrees.
        layers = {scope: await client.get_config(scope) for scope in writers.scopes}
        await daemon.arestart()
        again = {scope: await client.get_config(scope) for scope in writers.scopes}
        assert {s: c.digest for s, c in again.items()} == {s: c.digest for s, c in layers.items()}


async def test_a_store_that_stalls_takes_the_daemon_out_of_balancing_and_back() -> None:
    async with (
        plane(unready_after_seconds=1.0) as (store, daemon, client),
        grpc.aio.insecure_channel(daemon.address) as channel,
        Statuses(client).watching() as statuses,
        crew(client, 10) as agents,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING

        async def ready() -> bool:
            return (await health.Check(health_pb2.HealthCheckRequest())).status == serving

        await eventually("the crew is ACTIVE", lambda: statuses.all_active(len(agents)))
        await client.update_config({"temperature": 0.3})
        assert await ready()

        store.pause()
        try:
            stalled = time.monotonic()
            writing = asyncio.create_task(client.update_config({"temperature": 0.4}, timeout=20.0))
            while time.monotonic() - stalled < STALL_SECONDS:
                await _reads_go_on(client, agents[0].agent_id)
                assert all(agent.may_work for agent in agents), "beats are answered from memory"
            assert not await ready()
            assert not writing.done()
        finally:
            store.resume()
        await writing  # the SDK repeated it under one request_id
        assert (await client.get_config()).temperature == pytest.approx(0.4)
        history = [layer async for layer in client.list_config_revisions()]
        assert [layer.values["temperature"] for layer in history] == [0.4, 0.3]
        await eventually("the daemon is ready again", ready)
        statuses.assert_nobody_was_ever_silent()


async def _reads_go_on(client: FleetClient, agent_id: str) -> None:
    """Read everything that is answered from memory, quickly."""
    started = time.monotonic()
    found = [agent.agent_id async for agent in client.discover(capabilities=["work"])]
    assert agent_id in found
    assert (await client.get_config()).temperature == pytest.approx(0.3)
    assert await client.evaluate_policy(agent_id, "read")
    assert (await client.find_best_agent(capabilities=["work"])).agent.agent_id in found
    assert time.monotonic() - started < 1.0


async def test_a_write_that_the_store_does_not_answer_says_so_and_when_to_retry() -> None:
    async with plane() as (store, _, client):
        await client.update_config({"temperature": 0.3})
        store.kill()
        with pytest.raises(Unavailable) as refused:
            await client.update_config({"temperature": 0.4}, timeout=1.0)
        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        assert refused.value.retry_after is not None
        assert (await client.get_config()).temperature == pytest.approx(0.3)
        await store.start()
        await client.update_config({"temperature": 0.5})
        assert (await client.get_config()).temperature == pytest.approx(0.5)
