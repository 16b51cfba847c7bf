"""15: a thousand rollouts at a time: what watching over them costs when nothing happens."""

import asyncio
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from controlplane.tasks.rollout_reconciler import LEAST_PAUSE_SECONDS, PERIOD_SECONDS
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as registry
from fleetplane.v1 import rollout_service_pb2 as pb
from tests.bench.fleet import BATCH, REGISTRY, Member, living_fleet, ordinary_spec
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, Server, daemon
from tests.bench.wire import exchange, next_reply, unary

ROLLOUTS = "/fleetplane.v1.RolloutService/"
NAMES = 1_000
STARTED_AT_ONCE = 16
START_SECONDS = 120.0
"""Longest until every rollout observes its first step."""

QUIET_SECONDS = 10.0
"""Length of one window: CPU is accounted in steps of 10 ms."""

CPU_US = 50.0
"""Per rollout and tick: 1,000 rollouts then take 9 % of a core."""

WITH_TRAFFIC = 0.1
"""Share of the names whose instances report outcomes, once a second."""

TICKS_PER_SECOND = 1 / (PERIOD_SECONDS + LEAST_PAUSE_SECONDS)
"""On average, while nothing wakes the loop before its time."""


def version_spec(number: int) -> agent_pb2.AgentSpec:
    """Return the old (even) or the new (odd) version of name number / 2."""
    spec = ordinary_spec(number)
    spec.name = f"r-{number // 2}"
    spec.version = f"{1 + number % 2}.0.0"
    return spec


async def run(plan: Plan) -> list[Row]:
    """Measure the daemon with the fleet alone, then with a rollout of each name."""
    names = plan.sized(NAMES, 20)
    busy = max(1, int(names * WITH_TRAFFIC))
    async with daemon(CALM) as server:
        members = await living_fleet(server.channel, 2 * names, version_spec)
        traffic = _Traffic(server, members[: 2 * busy])
        alone = await _cpu_per_second(plan, server, None)
        alone_with_traffic = await _cpu_per_second(plan, server, traffic)
        await _start(server, names)
        quiet = await _cpu_per_second(plan, server, None)
        some_traffic = await _cpu_per_second(plan, server, traffic)
    return [
        _row(f"{names:,} rollouts, nothing happens", names, alone, quiet),
        _row(
            f"{names:,} rollouts, {WITH_TRAFFIC:.0%} with traffic",
            names,
            alone_with_traffic,
            some_traffic,
        ),
    ]


def _row(
    what: str,
    names: int,
    without: tuple[float, float],
    with_them: tuple[float, float],
) -> Row:
    cpu, store = (b - a for a, b in zip(without, with_them, strict=True))
    per_look = cpu / TICKS_PER_SECOND / names * 1e6
    return Row(
        workload=15,
        what=f"{what}: per rollout and tick",
        target=f"<= {CPU_US:g} us",
        measured=f"{per_look:.1f} us; {cpu:.1%} of a core more than the fleet alone"
        f" ({without[0]:.1%})",
        verdict=judged(per_look <= CPU_US),
        server_us=per_look,
        store_us=store / TICKS_PER_SECOND / names * 1e6,
        details={"cpu_per_second": with_them[0], "cpu_per_second_without": without[0]},
    )


class _Traffic:
    """Beats of some instances that have each done a little more since the last."""

    def __init__(self, server: Server, members: Sequence[Member]) -> None:
        self._server = server
        self._members = members
        self._turn = 0

    async def once(self) -> None:
        """Send one beat of every member and wait for the answers."""
        self._turn += 1
        stream = exchange(self._server.channel, f"{REGISTRY}Heartbeat")
        try:
            for start in range(0, len(self._members), BATCH):
                request = registry.HeartbeatRequest(batch=start + 1)
                for member in self._members[start : start + BATCH]:
                    request.beats.add(
                        instance_id=member.instance_id,
                        generation=member.generation,
                        seq=self._turn + 1,
                        in_flight=1,
                        completed=10_000 + self._turn,
                        failed=2,
                        latency_ms=100,
                    )
                await stream.write(request.SerializeToString())
                await next_reply(stream)
        finally:
            stream.cancel()


async def _start(server: Server, names: int) -> None:
    """Start a rollout of every name; wait until all observe their first step."""
    start = unary(server.channel, f"{ROLLOUTS}StartRollout")
    plan = pb.RolloutPlan(observe=Duration(seconds=86_400), max_dwell=Duration(seconds=604_800))
    numbers = iter(range(names))

    async def caller() -> None:
        for number in numbers:
            request = pb.StartRolloutRequest(
                agent_name=f"r-{number}",
                from_version="1.0.0",
                to_version="2.0.0",
                plan=plan,
                reason="benchmark",
            )
            await start(request.SerializeToString())

    async with asyncio.timeout(START_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(STARTED_AT_ONCE):
            group.create_task(caller())
    count = unary(server.channel, f"{ROLLOUTS}ListRollouts")
    wanted = pb.ListRolloutsRequest(phases=[pb.ROLLOUT_PHASE_PROGRESSING], page_size=1)
    async with asyncio.timeout(START_SECONDS):
        while True:
            page = pb.ListRolloutsResponse.FromString(await count(wanted.SerializeToString()))
            if page.total_size == names:
                return
            await asyncio.sleep(0.1)


async def _cpu_per_second(
    plan: Plan, server: Server, traffic: _Traffic | None
) -> tuple[float, float]:
    """Return the share of a core that daemon and store take, while nothing else is asked."""
    if traffic is not None:
        await traffic.once()
    loop = asyncio.get_running_loop()
    seconds = QUIET_SECONDS if not plan.quick else plan.seconds
    began, before = loop.time(), server.cpu_seconds()
    while (left := began + seconds - loop.time()) > 0:
        if traffic is not None:
            await traffic.once()
        await asyncio.sleep(min(1.0, left))
    took, after = loop.time() - began, server.cpu_seconds()
    return (after[0] - before[0]) / took, (after[1] - before[1]) / took
