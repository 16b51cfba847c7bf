"""Several processes on one port: all answer, one that dies is replaced, and none is left behind."""

import asyncio
import os
import signal
from typing import Any

import grpc
import psutil
import pytest

from fleetplane import AgentSpec, FleetClient
from fleetplane.v1 import registry_service_pb2, registry_service_pb2_grpc
from tests.fakes.daemon import Daemon, is_running, running_daemon
from tests.fakes.eventually import eventually

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("workers"), pytest.mark.timeout(120)]


def workers_of(daemon: Daemon) -> list[int]:
    """Return the process ids of its workers, not of its store."""
    children = psutil.Process(daemon.pid).children()
    return sorted(child.pid for child in children if "--worker" in child.cmdline())


def connections_of(pid: int) -> int:
    """How many callers are connected to a process."""
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return sum(1 for one in connections if one.status == psutil.CONN_ESTABLISHED)


async def _connected(address: str, number: int) -> grpc.aio.Channel:
    """Return a channel with a connection of its own, after a call on it."""
    # Channels with equal options share a connection.
    channel = grpc.aio.insecure_channel(address, options=[("fleetplane.test", number)])
    stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
    await stub.ListAgents(registry_service_pb2.ListAgentsRequest(), wait_for_ready=True)
    return channel


async def test_both_workers_answer_and_know_the_same() -> None:
    with running_daemon(workers=2, grace_seconds=1.0) as daemon:
        workers = workers_of(daemon)
        assert len(workers) == 2
        channels = [await _connected(daemon.address, number) for number in range(16)]
        try:
            # The kernel spreads connections by hash: 16 on one side happen once in 32,768 runs.
            assert all(connections_of(pid) for pid in workers), list(map(connections_of, workers))
            async with FleetClient(daemon.address) as client:
                registered = await client.register(AgentSpec(name="shared", version="1.0.0"))
            known = [
                registry_service_pb2_grpc.RegistryServiceStub(channel).GetAgent(
                    registry_service_pb2.GetAgentRequest(
                        agent_id=registered.agent.agent_id,
                        min_revision=registered.agent.revision,
                    )
                )
                for channel in channels
            ]
            assert len(await asyncio.gather(*known)) == 16
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))


async def test_a_worker_that_is_killed_is_replaced_while_the_other_goes_on() -> None:
    with running_daemon(workers=2, grace_seconds=1.0) as daemon:
        workers = workers_of(daemon)
        async with FleetClient(daemon.address) as client:
            registered = await client.register(AgentSpec(name="steady", version="1.0.0"))
            agent_id, revision = registered.agent.agent_id, registered.agent.revision
            os.kill(workers[0], signal.SIGKILL)
            # Whichever worker the client was connected to: it notices at most a reconnect.
            assert await client.get_agent(agent_id, min_revision=revision)
            await eventually("there are two workers again", lambda: _replaced(daemon, workers))
            assert await client.get_agent(agent_id, min_revision=revision)
        assert workers[1] in workers_of(daemon)


def _replaced(daemon: Daemon, before: list[int]) -> bool:
    now = workers_of(daemon)
    return len(now) == len(before) and before[0] not in now


async def test_workers_and_store_end_with_the_daemon() -> None:
    with running_daemon(workers=2, grace_seconds=1.0) as daemon:
        family = psutil.Process(daemon.pid).children(recursive=True)
        assert len(family) == 3
        daemon.terminate()
        assert await daemon.await_end() == 0
        await eventually("nobody is left", lambda: not any(is_running(p.pid) for p in family))


async def test_workers_do_not_outlive_a_daemon_that_is_killed() -> None:
    with running_daemon(workers=2, grace_seconds=1.0) as daemon:
        family = psutil.Process(daemon.pid).children(recursive=True)
        daemon.kill()
        try:
            await eventually("nobody is left", lambda: not any(is_running(p.pid) for p in family))
        finally:
            for process in family:
                if is_running(process.pid):
                    process.kill()
