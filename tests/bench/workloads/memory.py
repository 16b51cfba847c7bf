"""9: memory of an idle heartbeat stream, above the floor's."""

from contextlib import AsyncExitStack

from tests.bench.fleet import REGISTRY, Member, beats, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, Server, daemon, floor
from tests.bench.wire import exchange, next_reply

STREAMS_PER_CHANNEL = 100
KIBIBYTE = 1024
ALLOWANCE = 8 * KIBIBYTE


async def run(plan: Plan) -> list[Row]:
    """Open idle streams on both servers; memory per agent is measured by workload 10."""
    size = plan.sized(5_000, 200)
    async with daemon(CALM) as server, floor() as bare:
        members = await living_fleet(server.channel, size)
        ours = await _bytes_per_stream(server, members)
        theirs = await _bytes_per_stream(bare, members)
    more = ours - theirs
    return [
        Row(
            workload=9,
            what=f"memory of an idle heartbeat stream, of {size:,}",
            target=f"<= floor + {ALLOWANCE // KIBIBYTE} KiB",
            measured=f"{ours / KIBIBYTE:.1f} KiB, floor {theirs / KIBIBYTE:.1f} KiB:"
            f" {more / KIBIBYTE:+.1f} KiB",
            verdict=judged(more <= ALLOWANCE),
            details={"bytes": ours, "floor_bytes": theirs},
        )
    ]


async def _bytes_per_stream(server: Server, members: list[Member]) -> float:
    """Return what a stream adds after one beat, beyond the first tenth of the streams.

    The first tenth pays for what the allocator keeps in reserve.
    """
    async with AsyncExitStack() as stack:
        first = len(members) // 10
        await _open(server, members[:first], stack)
        before = server.resident_bytes()
        await _open(server, members[first:], stack)
        return (server.resident_bytes() - before) / (len(members) - first)


async def _open(server: Server, members: list[Member], stack: AsyncExitStack) -> None:
    for start in range(0, len(members), STREAMS_PER_CHANNEL):
        channel = await stack.enter_async_context(server.new_channel())
        for member in members[start : start + STREAMS_PER_CHANNEL]:
            stream = exchange(channel, f"{REGISTRY}Heartbeat")
            stack.callback(stream.cancel)
            await stream.write(beats([member]).SerializeToString())
            await next_reply(stream)
