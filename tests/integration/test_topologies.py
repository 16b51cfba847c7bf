"""The whole daemon on every kind of store: Sentinel, Cluster, and one that refuses to be asked."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

import pytest

from fleetplane import DeadlineExceeded, EffectiveConfig, FleetClient, Scope, Unavailable
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import CONFIG_RENAMED, sentinel_group, valkey_cluster, valkey_server
from tests.fault.load import Statuses, Writers, crew

pytestmark = [pytest.mark.fault, pytest.mark.timeout(60)]

CREW = 10
NAMESPACES = tuple(f"team-{n}" for n in range(9))
"""Their slots lie on all three nodes of the Cluster."""

Held = dict[str, dict[Scope, EffectiveConfig]]
"""The newest configuration that a watch delivered, by namespace and scope."""


@contextlib.asynccontextmanager
async def plane(store: str) -> AsyncIterator[tuple[Daemon, FleetClient]]:
    with running_daemon(
        store=store,
        heartbeat_interval_seconds=0.5,
        # Far above any fail-over here: whoever is called silent was not.
        degraded_after_seconds=15.0,
        lost_after_seconds=30.0,
        grace_seconds=1.0,
    ) as daemon:
        async with FleetClient(daemon.address) as client:
            yield daemon, client


@contextlib.asynccontextmanager
async def watched(clients: list[FleetClient], *scopes: Scope) -> AsyncIterator[Held]:
    """Follow the scopes in the namespace of every client."""
    held: Held = {client.namespace: {} for client in clients}

    async def follow(client: FleetClient) -> None:
        async with client.watch_config(scopes or (Scope(),)) as updates:
            async for update in updates:
                held[client.namespace][update.scope] = update.config

    tasks = [asyncio.create_task(follow(client)) for client in clients]
    try:
        yield held
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


def _has_temperature(configs: dict[Scope, EffectiveConfig], value: float) -> bool:
    return [config.temperature for config in configs.values()] == [pytest.approx(value)]


async def test_a_sentinel_fail_over_under_load_stops_nobody_for_long() -> None:
    async with (
        sentinel_group() as group,
        plane(group.url) as (_, client),
        Statuses(client).watching() as statuses,
        crew(client, CREW) as agents,
        Writers([client]).running() as writers,
        watched([client], *writers.scopes) as held,
    ):
        await eventually("the crew is ACTIVE", lambda: statuses.all_active(CREW))
        await writers.more(100)
        group.primary.kill()
        async with asyncio.timeout(15):
            await group.replica_promoted()
        await writers.more(100)
        await writers.finish()
        # An acknowledged write may be lost with the primary that had not replicated it; what the
        # new primary has is what everybody sees.
        newest = {
            scope: (await client.get_config(scope)).extra["value"] for scope in writers.scopes
        }
        await eventually(
            "the watch delivered the newest configuration",
            lambda: {s: held["default"][s].extra["value"] for s in writers.scopes} == newest,
        )
        for scope, values in writers.acknowledged.items():
            # The last write may have happened without an answer.
            assert newest[scope] in (values[-1], values[-1] + 1)
        assert all(agent.may_work for agent in agents)
        assert statuses.all_active(CREW)
        statuses.assert_nobody_was_ever_silent()


async def test_a_cluster_carries_many_namespaces_and_survives_a_node() -> None:
    async with (
        valkey_cluster(persistent=True) as cluster,
        plane(cluster.url) as (daemon, client),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [
            await stack.enter_async_context(FleetClient(daemon.address, namespace=name))
            for name in NAMESPACES
        ]
        held = await stack.enter_async_context(watched(clients))
        agents = [(await stack.enter_async_context(crew(one, 1)))[0] for one in (client, *clients)]
        statuses = [
            await stack.enter_async_context(Statuses(one).watching()) for one in (client, *clients)
        ]

        async def everywhere(value: float) -> None:
            await asyncio.gather(*(one.update_config({"temperature": value}) for one in clients))
            await eventually(
                f"every watch delivered {value}",
                lambda: all(_has_temperature(configs, value) for configs in held.values()),
            )

        await everywhere(0.1)
        lost = cluster.nodes[1]
        lost.kill()
        outcomes = await asyncio.gather(
            *(one.update_config({"temperature": 0.2}, timeout=1.5) for one in clients),
            return_exceptions=True,
        )
        refused = [o for o in outcomes if isinstance(o, BaseException)]
        assert refused, "nobody lived on the lost node"
        # On a busy machine the caller's deadline may pass before the store's answer is missed.
        assert all(isinstance(o, (Unavailable, DeadlineExceeded)) for o in refused), refused
        await lost.start()
        await cluster.ready()
        await everywhere(0.3)
        assert all(agent.may_work for agent in agents)
        for seen in statuses:
            await eventually("the agent is ACTIVE", functools.partial(seen.all_active, 1))
            seen.assert_nobody_was_ever_silent()


async def test_a_store_with_a_password_that_forbids_config_is_polled() -> None:
    password = ("--requirepass", "p@ss word")
    async with (
        valkey_server(*password, *CONFIG_RENAMED, tcp=True) as server,
        plane(server.url.replace("//", "//:p%40ss%20word@")) as (daemon, client),
        crew(client, 2) as agents,
        watched([client]) as held,
    ):
        for value in (0.1, 0.2):
            await client.update_config({"temperature": value})
            await eventually(
                "the watch delivered the newest configuration",
                functools.partial(_has_temperature, held["default"], value),
            )
        assert all(agent.may_work for agent in agents)
        # The server was never told to notify, and whatever was logged about that is no secret.
        assert "following the store" in daemon.log
        assert "p@ss" not in daemon.log
        assert "p%40ss" not in daemon.log
