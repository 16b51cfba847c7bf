"""5: from UpdateConfig to 100 watchers, on one replica and across two on one store."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count

from fleetplane.v1 import config_service_pb2 as pb
from tests.bench.driving import percentile
from tests.bench.fleet import Member, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, Server, daemon
from tests.bench.wire import Replies, next_reply, subscribe, unary

CONFIG = "/fleetplane.v1.ConfigService/"
WATCHERS = 100
UPDATES = 100
PAUSE_SECONDS = 0.02
"""Between two updates: latency is measured, not throughput."""

ARRIVAL_SECONDS = 10.0


class Watchers:
    """Streams of one agent each, and when they heard of a revision."""

    def __init__(self, streams: Sequence[Replies]) -> None:
        self._streams = streams

    async def synced(self) -> None:
        """Read until every stream has everything that there is."""
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for stream in self._streams:
                group.create_task(_read_until_synced(stream))

    async def arrivals(self, revision: "asyncio.Future[int]") -> list[float]:
        """Return when each stream got the message that is to come."""
        async with asyncio.timeout(ARRIVAL_SECONDS):
            heard = await asyncio.gather(*(_next_update(stream) for stream in self._streams))
        wanted = await revision
        if any(config.revision < wanted for _, config in heard):
            raise RuntimeError("a watcher was sent an older configuration")
        return [at for at, _ in heard]


async def _read_until_synced(stream: Replies) -> None:
    while not pb.WatchConfigResponse.FromString(await next_reply(stream)).synced:
        pass


async def _next_update(
    stream: Replies,
) -> tuple[float, pb.EffectiveConfig]:
    while True:
        raw = await next_reply(stream)
        at = time.perf_counter()
        message = pb.WatchConfigResponse.FromString(raw)
        if not message.bookmark:
            return at, message.config


def watch(agent_ids: Sequence[str]) -> bytes:
    """Return the request of one stream that watches these agents."""
    scopes = [pb.WatchedScope(scope=pb.ConfigScope(agent_id=one)) for one in agent_ids]
    return pb.WatchConfigRequest(scopes=scopes).SerializeToString()


async def open_watchers(
    server: Server, members: Sequence[Member], stack: AsyncExitStack
) -> Watchers:
    """Open a stream for each member, over ten connections."""
    channels = [await stack.enter_async_context(server.new_channel()) for _ in range(10)]
    streams = []
    for number, member in enumerate(members):
        channel = channels[number % len(channels)]
        stream = subscribe(channel, f"{CONFIG}WatchConfig", watch([member.agent_id]))
        stack.callback(stream.cancel)
        streams.append(stream)
    watchers = Watchers(streams)
    await watchers.synced()
    return watchers


def change(number: int) -> bytes:
    """Return an UpdateConfig of the namespace's default that changes something."""
    request = pb.UpdateConfigRequest(reason="benchmark")
    request.set.update({"temperature": (number % 100) / 100, "extra": {"note": f"n-{number}"}})
    return request.SerializeToString()


async def run(plan: Plan) -> list[Row]:
    """Measure one replica, then writer and watchers on two replicas."""
    size = plan.sized(WATCHERS, 10)
    numbers = count(1)
    async with daemon(CALM) as server, AsyncExitStack() as stack:
        members = await living_fleet(server.channel, size)
        watchers = await open_watchers(server, members, stack)
        alone = await _latencies(plan, server, watchers, numbers)
        # A second daemon on the same data directory attaches to the running store.
        second = await stack.enter_async_context(daemon(CALM, data_dir=server.data_dir))
        elsewhere = await open_watchers(second, members, stack)
        across = await _latencies(plan, server, elsewhere, numbers)
    return [
        _row(f"UpdateConfig to {size} watchers, one replica", alone, 6.0, 20.0),
        _row(f"UpdateConfig to {size} watchers, across replicas", across, 10.0, 30.0),
    ]


async def _latencies(
    plan: Plan, server: Server, watchers: Watchers, numbers: "count[int]"
) -> list[float]:
    """Return seconds from sending an update to each watcher's message, over all updates."""
    update = unary(server.channel, f"{CONFIG}UpdateConfig")
    found: list[float] = []
    loop = asyncio.get_running_loop()
    warm_up = 3
    for turn in range(warm_up + plan.sized(UPDATES, 3)):
        revision: asyncio.Future[int] = loop.create_future()
        arriving = asyncio.create_task(watchers.arrivals(revision))
        await asyncio.sleep(PAUSE_SECONDS)
        began = time.perf_counter()
        reply = pb.UpdateConfigResponse.FromString(await update(change(next(numbers))))
        revision.set_result(reply.layer.revision)
        arrivals = await arriving
        if turn >= warm_up:
            found += [at - began for at in arrivals]
    return found


def _row(what: str, seconds: list[float], p50_ms: float, p99_ms: float) -> Row:
    p50, p99 = (percentile(seconds, share) * 1000 for share in (0.5, 0.99))
    return Row(
        workload=5,
        what=what,
        target=f"p50 <= {p50_ms:g} ms, p99 <= {p99_ms:g} ms",
        measured=f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
        verdict=judged(p50 <= p50_ms and p99 <= p99_ms),
        details={"p50_ms": p50, "p99_ms": p99},
    )
