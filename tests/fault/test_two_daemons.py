"""Two replicas over one store: what one knows the other knows, and either may die at any moment."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from fleetplane import AgentSpec, ChannelConfig, FleetClient, NotFound, RetryPolicy, Scope
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import ValkeyServer, valkey_server
from tests.fault.load import Statuses, Writers, crew

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("two daemons"), pytest.mark.timeout(120)]

# Beats every half second. Silence counts from 10 s, far above any restart on a busy machine:
# whoever is called silent was not.
PULSE = {"heartbeat_interval_seconds": 0.5, "degraded_after_seconds": 10.0}


@dataclass
class Pair:
    """Two daemons, a client of each, and one that uses whichever answers."""

    store: ValkeyServer
    first: Daemon
    second: Daemon
    on_first: FleetClient
    on_second: FleetClient
    on_either: FleetClient


@asynccontextmanager
async def two_daemons() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey_server())
        first, second = (
            stack.enter_context(running_daemon(store=store.url, grace_seconds=1.0, **PULSE))
            for _ in range(2)
        )
        clients = [
            await stack.enter_async_context(FleetClient(target, channel_config=PATIENT))
            for target in (
                first.address,
                second.address,
                f"ipv4:{first.address},{second.address}",
            )
        ]
        yield Pair(store, first, second, *clients)


# Retries go on for as long as the deadline of a call: an operator's patience, not a program's.
PATIENT = ChannelConfig(retry=RetryPolicy(max_attempts=100), max_reconnect_backoff=0.5)


async def test_what_is_registered_on_one_is_found_on_the_other_within_a_second() -> None:
    async with two_daemons() as pair:
        took = []
        for i in range(20):
            spec = AgentSpec(name=f"agent-{i}", version="1.0.0", capabilities=["see"])
            registered = (await pair.on_first.register(spec)).agent
            started = time.monotonic()

            async def known(agent_id: str = registered.agent_id) -> bool:
                try:
                    return bool(await pair.on_second.get_agent(agent_id))
                except NotFound:
                    return False

            await eventually("the other replica knows the agent", known)
            took.append(time.monotonic() - started)
        assert max(took) < 1.0, took
        # A reader who must not wait for luck names the revision it has seen.
        change = await pair.on_first.update_config({"temperature": 0.1})
        config = await pair.on_second.get_config(min_revision=change.layer.revision)
        assert config.temperature == pytest.approx(0.1)


async def test_a_change_on_one_reaches_the_watchers_of_the_other() -> None:
    async with two_daemons() as pair, pair.on_second.watch_config() as watch:
        async with asyncio.timeout(20):
            assert (await anext(watch)).config.temperature == pytest.approx(0.7)
            took = []
            for value in (0.1, 0.2, 0.3, 0.4, 0.5):
                started = time.monotonic()
                await pair.on_first.update_config({"temperature": value})
                assert (await anext(watch)).config.temperature == pytest.approx(value)
                took.append(time.monotonic() - started)
        shown = " ".join(f"{1000 * t:.1f}" for t in sorted(took))
        print(f"update to watcher across replicas, ms: {shown}")  # noqa: T201 - a measurement
        assert sorted(took)[len(took) // 2] < 0.5, took


async def test_a_replica_that_is_killed_under_load_loses_no_acknowledged_write() -> None:
    """`kill -9`, twice, under writers on both and agents that can only use the dead one."""
    async with (
        two_daemons() as pair,
        Statuses(pair.on_second).watching() as statuses,
        crew(pair.on_first, 20) as agents,
        Writers([pair.on_first, pair.on_second, pair.on_either]).running() as writers,
    ):
        await eventually("the crew is ACTIVE", lambda: statuses.all_active(len(agents)))
        for _ in range(2):
            await writers.more(100)
            pair.first.kill()
            await writers.more(30)  # the other replica goes on alone
            await pair.first.astart()
            await writers.more(100)
        beaten = time.time()

        async def all_beat_again() -> bool:
            return all(
                [
                    agent.last_heartbeat.ToDatetime().timestamp() > beaten
                    async for agent in pair.on_second.list_agents()
                ]
            )

        await eventually("every agent beats again, by itself", all_beat_again)
        assert all(agent.may_work for agent in agents)
        statuses.assert_nobody_was_ever_silent()
        await writers.finish()
        await writers.verify(pair.on_first)
        await writers.verify(pair.on_second)


async def test_agents_of_a_dead_replica_go_on_with_the_other_one() -> None:
    """With two addresses nobody waits for the restart, not even for reads and watches."""
    async with (
        two_daemons() as pair,
        Statuses(pair.on_second).watching() as statuses,
        crew(pair.on_either, 10) as agents,
        pair.on_either.watch_config(Scope(agent_name="worker-0")) as watch,
    ):
        await eventually("the crew is ACTIVE", lambda: statuses.all_active(len(agents)))
        async with asyncio.timeout(20):
            await anext(watch)
        pair.first.kill()
        change = await pair.on_either.update_config({"max_tokens": 77})
        async with asyncio.timeout(20):
            assert (await anext(watch)).config.revision == change.layer.revision
        converged = await pair.on_either.wait_for_convergence(change.layer.revision, timeout=20.0)
        assert converged.converged
        assert converged.converged_instances == len(agents)
        statuses.assert_nobody_was_ever_silent()
