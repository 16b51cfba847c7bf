"""17: beats with security on: many in a message, one in a message, and of agents by themselves."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import cycle
from typing import Final

import grpc

from fleetplane.v1 import registry_service_pb2 as pb
from tests.bench.driving import Load, Operation, closed_loop
from tests.bench.fleet import BATCH, Member, beats
from tests.bench.plan import Plan
from tests.bench.results import Row, Window, judged
from tests.bench.secure_sides import (
    NAMESPACE,
    OWN,
    SecureSides,
    Side,
    secure_rows,
    turns_of,
)
from tests.bench.servers import Server, can, open_channel
from tests.bench.wire import Metadata, ask_once, exchange, next_reply
from tests.bench.workloads.beats_multiplexed import (
    BEATS_PER_SECOND,
    CPU_US,
    METHOD,
    STREAMS,
    batches_of,
)
from tests.bench.workloads.beats_single import STREAMS_PER_CHANNEL

MEMBERS: Final = 10_000
SINGLE_STREAMS: Final = 2_000
AGENTS: Final = 50
"""Agents with a certificate, a connection and a stream of their own."""


async def run(plan: Plan) -> list[Row]:
    """Measure the three shapes."""
    async with AsyncExitStack() as stack:
        sides = SecureSides(stack, plan.sized(MEMBERS, 4_000))
        await sides.open()
        rows = await _batched(plan, (sides.plain, sides.token, sides.certificate))
        rows += await _single(plan, (sides.plain, sides.certificate))
        rows += await _alone(plan, sides)
    return rows


async def _batched(plan: Plan, sides: Sequence[Side]) -> list[Row]:
    """Let eight streams carry the beats of all; held to the targets of workload 1."""
    async with AsyncExitStack() as streams:

        def load(server: Server, members: Sequence[Member]) -> Load:
            callers = [
                _caller(server.channel, batches_of(members[n::STREAMS]), streams, server.metadata)
                for n in range(STREAMS)
            ]
            return _load(server, callers, BATCH)

        await _teach(sides[0], beats(sides[0].members[:BATCH]))
        turns = await turns_of(
            plan,
            [
                (side, load(side.daemon, side.members), load(side.floor, side.members))
                for side in sides
            ],
        )
    rows = secure_rows(17, f"beats in batches of {BATCH}", turns, kept=False)
    return [
        replace(
            row,
            target=f">= {BEATS_PER_SECOND:,}/s, <= {CPU_US:g} us",
            verdict=judged(way.daemon.rate >= BEATS_PER_SECOND and way.daemon.quiet_us <= CPU_US),
        )
        for row, way in zip(rows, turns, strict=True)
    ]


async def _single(plan: Plan, sides: Sequence[Side]) -> list[Row]:
    """Let 2,000 streams of twenty connections carry one beat in a message."""
    size = plan.sized(SINGLE_STREAMS, 100)
    await _teach(sides[0], beats(sides[0].members[:1]))
    async with AsyncExitStack() as streams:

        async def load(server: Server, members: Sequence[Member]) -> Load:
            callers: list[Operation] = []
            for start in range(0, size, STREAMS_PER_CHANNEL):
                channel = await streams.enter_async_context(server.new_channel())
                part = members[start : start + STREAMS_PER_CHANNEL]
                callers += await _opened([(channel, member) for member in part], streams)
            return _load(server, callers)

        loads = [
            (side, await load(side.daemon, side.members), await load(side.floor, side.members))
            for side in sides
        ]
        turns = await turns_of(plan, loads)
    return secure_rows(17, f"one beat per message, {size:,} streams", turns)


async def _alone(plan: Plan, sides: SecureSides) -> list[Row]:
    """Let agents beat for themselves, each on a connection of its own."""
    size = plan.sized(AGENTS, 5)
    await _teach(sides.plain, beats(sides.plain.members[:1]))
    own = [
        await sides.administrator.identity(NAMESPACE, f"worker-{number:06d}")
        for number in range(size)
    ]
    async with AsyncExitStack() as streams:

        async def load(
            server: Server,
            members: Sequence[Member],
            credentials: Sequence[grpc.ChannelCredentials | None],
        ) -> Load:
            callers = [
                (await streams.enter_async_context(open_channel(server.listen, shown)), member)
                for member, shown in zip(members, credentials, strict=False)
            ]
            return _load(server, await _opened(callers, streams))

        certified = replace(sides.certificate, how=OWN)
        loads = []
        for side, credentials in (
            (sides.plain, [None] * size),
            (certified, [one.credentials for one in own]),
        ):
            ours = await load(side.daemon, side.members, credentials)
            loads.append((side, ours, await load(side.floor, side.members, credentials)))
        turns = await turns_of(plan, loads)
    return secure_rows(17, f"one beat per message, {size} connections", turns)


async def _teach(side: Side, request: pb.HeartbeatRequest) -> None:
    """Make the floor answer what the daemon answers."""
    sample = request.SerializeToString()
    await can(side.floor, METHOD, await ask_once(side.daemon.channel, METHOD, sample))


async def _opened(
    whose: Sequence[tuple[grpc.aio.Channel, Member]], streams: AsyncExitStack
) -> list[Operation]:
    """Open a stream for each and beat once: grpc refuses when too many wait to be accepted."""
    callers = []
    for channel, member in whose:
        messages = [beats([member], variant=variant).SerializeToString() for variant in range(2)]
        callers.append(_caller(channel, messages, streams))
    await asyncio.gather(*(beat() for beat in callers))
    return callers


def _caller(
    channel: grpc.aio.Channel,
    messages: Sequence[bytes],
    streams: AsyncExitStack,
    metadata: Metadata = (),
) -> Operation:
    """Open a stream; each operation sends the next message and waits for its answer."""
    stream = exchange(channel, METHOD, metadata)
    streams.callback(stream.cancel)
    turn = cycle(messages)

    async def beat() -> None:
        await stream.write(next(turn))
        await next_reply(stream)

    return beat


def _load(server: Server, callers: list[Operation], per_operation: int = 1) -> Load:
    async def load(seconds: float) -> Window:
        return await closed_loop(server, callers, seconds, per_operation=per_operation)

    return load
