"""A daemon that sheds for seconds, and the streams of an SDK that are turned away meanwhile."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Final

import pytest

from fleetplane import (
    Agent,
    ChannelConfig,
    FleetClient,
    FleetError,
    RetryPolicy,
    Scope,
    TaskContext,
    TaskState,
)
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

STOPPED_SECONDS: Final = 0.25
RUNNING_SECONDS: Final = 0.1
"""How long the daemon stands still and goes on, in turns: it is late every time it looks."""

SHED_SECONDS: Final = 2.0
BACK_SECONDS: Final = 15.0
"""The longest wait of the SDK is 5 s; the rest is a machine that runs other suites."""

AGENTS: Final = 8
"""Each with a connection of its own, and three streams."""

ONCE: Final = ChannelConfig(retry=RetryPolicy(max_attempts=1), default_timeout=5.0)


@contextlib.contextmanager
def staggering(daemon: Daemon) -> Iterator[None]:
    """Let the daemon stand still again and again."""
    over = threading.Event()

    def stagger() -> None:
        while not over.is_set():
            daemon.signal(signal.SIGSTOP)
            over.wait(STOPPED_SECONDS)
            daemon.signal(signal.SIGCONT)
            over.wait(RUNNING_SECONDS)

    thread = threading.Thread(target=stagger)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        daemon.signal(signal.SIGCONT)


async def is_shedding(client: FleetClient) -> bool:
    try:
        await client.list_agents_page()
    except FleetError as error:
        return error.reason == "OVERLOADED"
    return False


async def until_shedding(client: FleetClient) -> None:
    await eventually("calls are refused for the lag", lambda: is_shedding(client))


def an_agent(number: int, address: str) -> Agent:
    agent = Agent(f"worker-{number}", "1.0.0", capabilities=["echo"], target=address)

    @agent.task("echo")
    async def echo(task: TaskContext) -> bytes:
        return task.payload

    return agent


async def is_back(client: FleetClient, agent: Agent, model: str) -> None:
    """Return when an agent has heard of a new configuration and has done a new task."""
    name = agent.spec.name
    await client.update_config({"model": model}, scope=Scope(agent_name=name), reason="a test")
    task = await client.submit_task("echo", model, agent_name=name)

    async def is_done() -> bool:
        found = await client.get_task(task.task_id)
        return TaskState(found.task.state) is TaskState.SUCCEEDED

    await eventually("the configuration", lambda: agent.config.model == model, within=BACK_SECONDS)
    await eventually("the task", is_done, within=BACK_SECONDS)


async def test_streams_that_were_refused_for_the_lag_are_back_soon_after_it() -> None:
    with running_daemon(
        overload_lag_seconds=0.05, heartbeat_interval_seconds=0.5, degraded_after_seconds=10.0
    ) as daemon:
        async with contextlib.AsyncExitStack() as stack:
            agents = [an_agent(number, daemon.address) for number in range(AGENTS)]
            for agent in agents:
                await stack.enter_async_context(agent)
            once = await stack.enter_async_context(FleetClient(daemon.address, channel_config=ONCE))
            await daemon.arestart()
            with staggering(daemon):
                await until_shedding(once)
                newcomer = an_agent(AGENTS, daemon.address)
                coming = asyncio.create_task(stack.enter_async_context(newcomer))
                await asyncio.sleep(SHED_SECONDS)  # the length of an overload, no wait for an event
                await until_shedding(once)
            async with asyncio.timeout(BACK_SECONDS):
                await coming
            client = await stack.enter_async_context(FleetClient(daemon.address))
            await asyncio.gather(*(is_back(client, one, "after") for one in [*agents, newcomer]))
        assert "overloaded: calls that can wait are refused" in daemon.log
