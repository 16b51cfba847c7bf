"""13: tasks from submission to their end: one by one, in batches, and one at a time."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from fleetplane.v1 import task_service_pb2 as pb
from tests.bench.driving import Load, Operation, closed_loop, in_turns, percentile
from tests.bench.fleet import living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Series, Window, judged, ratio_row
from tests.bench.servers import CALM, Server, daemon, floor
from tests.bench.store import store_work
from tests.bench.task_fleet import BATCH, TASKS, Journeys, TaskFleet, Trip, worker_spec
from tests.bench.wire import unary

INSTANCES = 20
CALLERS = 64
BATCH_CALLERS = 4
"""400 tasks at a time for 200 slots: some always wait."""

TASKS_ALONE = 200
AT_LEAST = 0.60
IDLE_MS = (15.0, 30.0)
"""p50 and p99 of one task in an idle system: five trips between the processes, four of them with a
commit."""


async def run(plan: Plan) -> list[Row]:
    """Measure rates against the floor, what the store does for them, and latencies."""
    instances = plan.sized(INSTANCES, 4)
    async with daemon(CALM) as server, floor() as bare, AsyncExitStack() as stack:
        members = await living_fleet(server.channel, instances, worker_spec)
        ours = TaskFleet(server, Journeys())
        theirs = TaskFleet(bare, Journeys(anonymous=True))
        await ours.open(members, stack)
        await _learn(ours, theirs, bare)
        await theirs.open(members, stack)
        idle = await _alone(plan, ours)
        rows = [_latency_row("one task in an idle system", idle, IDLE_MS)]
        for what, callers, batch in (
            (f"tasks, SubmitTask by {CALLERS} callers", CALLERS, 1),
            (f"tasks, BatchSubmitTasks({BATCH}) by {BATCH_CALLERS} callers", BATCH_CALLERS, BATCH),
        ):
            rows += await _rates(plan, what, (server, ours), (bare, theirs), callers, batch)
    return rows


async def _learn(ours: TaskFleet, theirs: TaskFleet, bare: Server) -> None:
    """Let the floor answer what the daemon answers to the first task and the first batch."""
    await ours.one()
    await ours.many()
    theirs.samples.update(ours.samples)
    await theirs.teach(bare)


async def _alone(plan: Plan, fleet: TaskFleet) -> list[Trip]:
    fleet.trips.clear()
    for _ in range(plan.sized(TASKS_ALONE, 3)):
        await fleet.one()
    return list(fleet.trips)


async def _rates(
    plan: Plan,
    what: str,
    ours: tuple[Server, TaskFleet],
    theirs: tuple[Server, TaskFleet],
    callers: int,
    batch: int,
) -> list[Row]:
    """Return the rate against the floor, the work of the store, and the latencies under load."""
    (server, fleet), (bare, floor_fleet) = ours, theirs
    fleet.trips.clear()
    work, revision = store_work(server), await _revision(server)
    measured, compared = await in_turns(
        plan.rounds,
        plan.seconds,
        _load(server, fleet, callers, batch),
        _load(bare, floor_fleet, callers, batch),
    )
    work, revision = store_work(server) - work, await _revision(server) - revision
    done = len(fleet.trips)
    store = Row(
        workload=13,
        what=f"{what}: the store's part per task",
        measured=f"{revision / done:.2f} commits, {work.scripts / done:.2f} scripts,"
        f" {work.reads / done:.2f} round trips",
        target="4 commits",
        verdict=judged(revision / done <= 4.05),
        details={"tasks": done},
    )
    rate = ratio_row(13, what, measured, compared, at_least=AT_LEAST)
    rate = replace(rate, details=rate.details | {"floor_latency_ms": _middle_ms(compared)})
    return [rate, store, _latency_row(f"{what}: latency", fleet.trips, None)]


def _load(server: Server, fleet: TaskFleet, callers: int, batch: int) -> Load:
    operation: Operation = fleet.one if batch == 1 else fleet.many

    async def load(seconds: float) -> Window:
        return await closed_loop(server, [operation] * callers, seconds, per_operation=batch)

    return load


def _middle_ms(series: Series) -> float:
    return percentile([one for window in series.windows for one in window.latencies], 0.5) * 1000


def _latency_row(what: str, trips: Sequence[Trip], limit: tuple[float, float] | None) -> Row:
    delivered = [trip.delivered for trip in trips]
    completed = [trip.completed for trip in trips]
    (d50, d99), (c50, c99) = (
        tuple(percentile(values, share) * 1000 for share in (0.5, 0.99))
        for values in (delivered, completed)
    )
    row = Row(
        workload=13,
        what=what,
        measured=f"delivered p50 {d50:.1f} ms, p99 {d99:.1f} ms;"
        f" completed p50 {c50:.1f} ms, p99 {c99:.1f} ms",
        details={"delivered_ms": [d50, d99], "completed_ms": [c50, c99]},
    )
    if limit is None:
        return row
    target = f"p50 <= {limit[0]:g} ms, p99 <= {limit[1]:g} ms"
    return replace(row, target=target, verdict=judged(c50 <= limit[0] and c99 <= limit[1]))


async def _revision(server: Server) -> int:
    """Return how many commits the namespace has seen: nothing else is written to it."""
    call = unary(server.channel, f"{TASKS}ListTasks")
    page = pb.ListTasksResponse.FromString(
        await call(pb.ListTasksRequest(page_size=1).SerializeToString())
    )
    return page.position.revision
