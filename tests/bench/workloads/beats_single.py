"""2: many streams with one instance each, one beat per message."""

import asyncio
from contextlib import AsyncExitStack
from itertools import cycle

import grpc

from tests.bench.driving import Load, Operation, closed_loop, in_turns
from tests.bench.fleet import REGISTRY, Member, beats, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Window, ratio_row
from tests.bench.servers import Server, can, daemon, floor
from tests.bench.wire import ask_once, exchange, next_reply

METHOD = f"{REGISTRY}Heartbeat"
STREAMS_PER_CHANNEL = 100
AT_LEAST = 0.90


async def run(plan: Plan) -> list[Row]:
    """Measure ping-pong on 2,000 streams."""
    size = plan.sized(2_000, 100)
    async with daemon() as server, floor() as bare, AsyncExitStack() as stack:
        members = await living_fleet(server.channel, size)
        sample = beats(members[:1]).SerializeToString()
        await can(bare, METHOD, await ask_once(server.channel, METHOD, sample))
        measured, compared = await in_turns(
            plan.rounds,
            plan.seconds * 1.5,
            await _load(server, members, stack),
            await _load(bare, members, stack),
        )
    what = f"one beat per message, {size:,} streams"
    return [ratio_row(2, what, measured, compared, at_least=AT_LEAST)]


async def _load(server: Server, members: list[Member], stack: AsyncExitStack) -> Load:
    callers: list[Operation] = []
    for start in range(0, len(members), STREAMS_PER_CHANNEL):
        channel = await stack.enter_async_context(server.new_channel())
        opened = [
            _caller(channel, member, stack)
            for member in members[start : start + STREAMS_PER_CHANNEL]
        ]
        # Not all at once: grpc refuses calls while more than 1,000 wait to be accepted.
        await asyncio.gather(*(beat() for beat in opened))
        callers += opened

    async def load(seconds: float) -> Window:
        return await closed_loop(server, callers, seconds)

    return load


def _caller(channel: grpc.aio.Channel, member: Member, stack: AsyncExitStack) -> Operation:
    stream = exchange(channel, METHOD)
    stack.callback(stream.cancel)
    messages = cycle(beats([member], variant=variant).SerializeToString() for variant in range(2))

    async def beat() -> None:
        await stream.write(next(messages))
        await next_reply(stream)

    return beat
