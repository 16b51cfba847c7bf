"""8: the daemon is killed and started again under many heartbeat streams."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import grpc

from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as pb
from tests.bench.fleet import REGISTRY, Member, beats, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import Server, daemon
from tests.bench.wire import exchange, next_reply

STREAMS_PER_CHANNEL = 100
BACK_SECONDS = 120.0
OPENING = 500


async def run(plan: Plan) -> list[Row]:
    """Kill the daemon, start another one on its data, reconnect everybody at once."""
    size = plan.sized(10_000, 200)
    data_dir = Path(mkdtemp(prefix="fp-bench-", dir="/tmp"))
    try:
        async with daemon(data_dir=data_dir) as server, AsyncExitStack() as stack:
            members = await living_fleet(server.channel, size)
            await _beat_once(server, members, stack)
            server.process.kill()
        async with daemon(data_dir=data_dir) as server, AsyncExitStack() as stack:
            before = server.cpu_seconds()
            began = time.perf_counter()
            longest = await _beat_once(server, members, stack)
            took = time.perf_counter() - began
            cpu = server.cpu_seconds()[0] - before[0]
            statuses = await _statuses(server)
    finally:
        rmtree(data_dir, ignore_errors=True)
    active = statuses.pop(agent_pb2.AGENT_STATUS_ACTIVE, 0)
    return [
        Row(
            workload=8,
            what=f"{size:,} streams after a kill: all back, nobody falsely silent",
            target="all ACTIVE",
            measured=f"{active:,} ACTIVE, {sum(statuses.values())} not, {took:.1f} s,"
            f" longest wait {longest:.1f} s",
            verdict=judged(active == size),
            rate=size / took,
            server_us=cpu / size * 1e6,
        )
    ]


async def _beat_once(server: Server, members: list[Member], stack: AsyncExitStack) -> float:
    """Open every stream and beat; return the longest wait for an answer in seconds."""
    longest = 0.0
    channels = [
        await stack.enter_async_context(server.new_channel())
        for _ in range(0, len(members), STREAMS_PER_CHANNEL)
    ]
    opening = asyncio.Semaphore(OPENING)

    async def beat(channel: grpc.aio.Channel, member: Member) -> None:
        nonlocal longest
        async with opening:
            began = time.perf_counter()
            stream = exchange(channel, f"{REGISTRY}Heartbeat")
            stack.callback(stream.cancel)
            await stream.write(beats([member]).SerializeToString())
            reply = pb.HeartbeatResponse.FromString(await next_reply(stream))
            if reply.results:
                raise RuntimeError(f"a beat was refused: {reply.results[0]}")
            longest = max(longest, time.perf_counter() - began)

    async with asyncio.timeout(BACK_SECONDS), asyncio.TaskGroup() as group:
        for number, member in enumerate(members):
            group.create_task(beat(channels[number // STREAMS_PER_CHANNEL], member))
    return longest


async def _statuses(server: Server) -> "Counter[agent_pb2.AgentStatus.ValueType]":
    call = server.channel.unary_unary(
        f"{REGISTRY}ListAgents",
        request_serializer=pb.ListAgentsRequest.SerializeToString,
        response_deserializer=pb.ListAgentsResponse.FromString,
    )
    statuses: Counter[agent_pb2.AgentStatus.ValueType] = Counter()
    token = ""
    while True:
        page = await call(pb.ListAgentsRequest(page_size=1000, page_token=token))
        statuses.update(agent.status for agent in page.agents)
        token = page.next_page_token
        if not token:
            return statuses
