"""6: one change of a namespace's default to 10,000 watching agents."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from statistics import median

from fleetplane.v1 import config_service_pb2 as pb
from tests.bench.fleet import Member, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, Server, can, daemon, floor
from tests.bench.wire import Replies, next_reply, subscribe, unary
from tests.bench.workloads.config_latency import CONFIG, change, watch

PER_CHANNEL = 100
AGENTS_PER_STREAM = 100
BOOKMARK_BYTES = 64
"""Longest bookmark; a configuration is several times as long. Parsing each would cost the client
more than the daemon takes to send it."""

ARRIVAL_SECONDS = 60.0
OF_FLOOR = 1.25
SHARED_MS = 60.0


async def run(plan: Plan) -> list[Row]:
    """Measure a stream for each agent against the floor, then streams of 100 agents."""
    size = plan.sized(10_000, 200)
    rounds = max(plan.rounds, 3)
    numbers = count(1)
    async with daemon(CALM) as server, floor() as bare:
        members = await living_fleet(server.channel, size)
        async with AsyncExitStack() as stack:
            # First, because it changes something: no stream may have news waiting.
            await can(bare, f"{CONFIG}WatchConfig", await _one_message(server, members[0]))
            streams = await _open(server, [[member] for member in members], stack)
            floors = await _open(bare, [[member] for member in members], stack, synced=False)
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(await _last(server, streams, next(numbers)))
                theirs.append(await _last(bare, floors, next(numbers)))
        async with AsyncExitStack() as stack:
            groups = [members[n : n + AGENTS_PER_STREAM] for n in range(0, size, AGENTS_PER_STREAM)]
            streams = await _open(server, groups, stack)
            shared = [await _last(server, streams, next(numbers)) for _ in range(rounds * 2)]
    ratio = median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
    seconds, cpu, store = (median(values) for values in zip(*ours, strict=True))
    floor_seconds, floor_cpu, _ = (median(values) for values in zip(*theirs, strict=True))
    shared_seconds, shared_cpu, shared_store = (median(v) for v in zip(*shared, strict=True))
    return [
        Row(
            workload=6,
            what=f"one change to {size:,} streams: the last one",
            target=f"<= {OF_FLOOR:g}x the floor",
            measured=f"{ratio:.2f}x ({seconds * 1000:,.0f} ms / {floor_seconds * 1000:,.0f} ms)",
            verdict=judged(ratio <= OF_FLOOR),
            rate=size / seconds,
            server_us=cpu / size * 1e6,
            store_us=store / size * 1e6,
            details={"ratio": ratio, "floor_server_us": floor_cpu / size * 1e6},
        ),
        Row(
            workload=6,
            what=f"one change to {size:,} agents on {len(groups)} streams: the last one",
            target=f"<= {SHARED_MS:g} ms",
            measured=f"{shared_seconds * 1000:,.0f} ms",
            verdict=judged(shared_seconds * 1000 <= SHARED_MS),
            rate=size / shared_seconds,
            server_us=shared_cpu / size * 1e6,
            store_us=shared_store / size * 1e6,
        ),
    ]


async def _open(
    server: Server,
    groups: Sequence[Sequence[Member]],
    stack: AsyncExitStack,
    *,
    synced: bool = True,
) -> list[Replies]:
    """Open a stream for each group; read until each has what there is."""
    streams: list[Replies] = []
    for start in range(0, len(groups), PER_CHANNEL):
        channel = await stack.enter_async_context(server.new_channel())
        opened: list[Replies] = []
        for group in groups[start : start + PER_CHANNEL]:
            wanted = watch([member.agent_id for member in group])
            stream = subscribe(channel, f"{CONFIG}WatchConfig", wanted)
            stack.callback(stream.cancel)
            opened.append(stream)
        # Not all at once: grpc refuses calls while more than 1,000 wait to be accepted.
        async with asyncio.timeout(ARRIVAL_SECONDS):
            await asyncio.gather(*(_read_all(stream, synced=synced) for stream in opened))
        streams += opened
    return streams


async def _read_all(stream: Replies, *, synced: bool) -> None:
    while not pb.WatchConfigResponse.FromString(await next_reply(stream)).synced and synced:
        pass


async def _one_message(server: Server, member: Member) -> bytes:
    """Return what a watcher of one agent is sent."""
    await unary(server.channel, f"{CONFIG}UpdateConfig")(change(0))
    stream = subscribe(server.channel, f"{CONFIG}WatchConfig", watch([member.agent_id]))
    message = await next_reply(stream)
    stream.cancel()
    return message


async def _last(
    server: Server, streams: Sequence[Replies], number: int
) -> tuple[float, float, float]:
    """Return seconds until the last stream heard of a change, and CPU of server and store."""
    listening = [asyncio.ensure_future(_news(stream)) for stream in streams]
    await asyncio.sleep(0.1)
    server_before, store_before = server.cpu_seconds()
    began = time.perf_counter()
    await unary(server.channel, f"{CONFIG}UpdateConfig")(change(number))
    async with asyncio.timeout(ARRIVAL_SECONDS):
        await asyncio.gather(*listening)
    took = time.perf_counter() - began
    server_after, store_after = server.cpu_seconds()
    return took, server_after - server_before, store_after - store_before


async def _news(stream: Replies) -> None:
    """Wait for something that is no bookmark; those are small."""
    while True:
        if len(await next_reply(stream)) > BOOKMARK_BYTES:
            return
