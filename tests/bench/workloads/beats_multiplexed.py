"""1: streams that carry batches of 500 beats, for 10,000 and 100,000 instances."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests.bench.driving import Load, Operation, closed_loop, in_turns
from tests.bench.fleet import BATCH, REGISTRY, Member, beats, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Series, Window, judged, ratio_row
from tests.bench.servers import Server, can, daemon, floor
from tests.bench.wire import ask_once, exchange, next_reply

METHOD = f"{REGISTRY}Heartbeat"
STREAMS = 8
VARIANTS = 2
"""Ready messages per batch: loads differ from one to the next, so that every beat says news."""

BEATS_PER_SECOND = 100_000
CPU_US = 5.0
FLAT = 1.2


def batches_of(members: Sequence[Member]) -> list[bytes]:
    """Return the messages of one stream, all members in each variant."""
    return [
        beats(members[start : start + BATCH], variant=variant).SerializeToString()
        for variant in range(VARIANTS)
        for start in range(0, len(members), BATCH)
    ]


def _caller(server: Server, messages: Sequence[bytes], stack: AsyncExitStack) -> Operation:
    """Open a stream; each operation sends the next message and waits for its answer."""
    stream = exchange(server.channel, METHOD)
    stack.callback(stream.cancel)
    turn = 0

    async def beat() -> None:
        nonlocal turn
        await stream.write(messages[turn])
        turn = (turn + 1) % len(messages)
        await next_reply(stream)

    return beat


def _load(server: Server, messages: Sequence[list[bytes]], stack: AsyncExitStack) -> Load:
    callers = [_caller(server, own, stack) for own in messages]

    async def load(seconds: float) -> Window:
        return await closed_loop(server, callers, seconds, per_operation=BATCH)

    return load


async def _measured(plan: Plan, size: int) -> tuple[Series, Series]:
    """Return the series of daemon and floor under the beats of so many instances."""
    async with daemon() as server, floor() as bare, AsyncExitStack() as stack:
        members = await living_fleet(server.channel, size)
        messages = [batches_of(members[n::STREAMS]) for n in range(STREAMS)]
        await can(bare, METHOD, await ask_once(server.channel, METHOD, messages[0][0]))
        measured, compared = await in_turns(
            plan.rounds,
            plan.seconds,
            _load(server, messages, stack),
            _load(bare, messages, stack),
        )
        return measured, compared


async def run(plan: Plan) -> list[Row]:
    """Measure both fleets."""
    rows: list[Row] = []
    costs: list[float] = []
    for size in (plan.sized(10_000, 4_000), plan.sized(100_000, 8_000)):
        measured, compared = await _measured(plan, size)
        costs.append(measured.server_us)
        base = ratio_row(1, f"beats in batches of {BATCH}, {size:,} instances", measured, compared)
        reached = measured.rate >= BEATS_PER_SECOND and measured.server_us <= CPU_US
        rows.append(
            Row(
                workload=1,
                what=base.what,
                target=f">= {BEATS_PER_SECOND:,}/s, <= {CPU_US:g} us",
                measured=base.measured,
                verdict=judged(reached),
                rate=base.rate,
                server_us=base.server_us,
                store_us=base.store_us,
                details=base.details,
            )
        )
    growth = costs[1] / costs[0]
    rows.append(
        Row(
            workload=1,
            what="CPU per beat, large fleet / small fleet",
            target=f"<= {FLAT:g}x",
            measured=f"{growth:.2f}x",
            verdict=judged(growth <= FLAT),
        )
    )
    return rows
