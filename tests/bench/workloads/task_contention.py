"""14: two replicas that assign the same tasks: the rate, and how often one was too late."""

from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.counting_daemon import FILE, TaskCounters, read_counters
from tests.bench.driving import Operation, closed_loop
from tests.bench.fleet import living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Series, judged
from tests.bench.servers import CALM, Server, daemon
from tests.bench.task_fleet import BATCH, Journeys, TaskFleet, worker_spec
from tests.bench.workloads.tasks import BATCH_CALLERS, CALLERS, INSTANCES

MODULE = "tests.bench.counting_daemon"
LOST_PER_TASK = 0.2
"""Lost commits per assignment that are bearable: each costs a fifth of what a task does."""


async def run(plan: Plan) -> list[Row]:
    """Measure a fleet of which each replica has half the streams, and half the submitters."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(daemon(CALM))
        if first.data_dir is None:
            raise RuntimeError("the daemon's directory is not known")
        # The first one only owns the store: both replicas that are measured are alike.
        files = [first.data_dir / f"counters-{number}" for number in (1, 2)]
        servers = [
            await stack.enter_async_context(
                daemon({**CALM, FILE: str(file)}, data_dir=first.data_dir, module=MODULE)
            )
            for file in files
        ]
        members = await living_fleet(servers[0].channel, plan.sized(INSTANCES, 4), worker_spec)
        journeys = Journeys()
        fleets = [TaskFleet(server, journeys) for server in servers]
        for number, fleet in enumerate(fleets):
            await fleet.open(members[number::2], stack)
        return [
            await _measured(plan, what, servers, files, operations)
            for what, operations in (
                (f"tasks, two replicas, SubmitTask by {CALLERS}", _ones(fleets)),
                (f"tasks, two replicas, BatchSubmitTasks({BATCH}), saturated", _manies(fleets)),
            )
        ]


def _ones(fleets: list[TaskFleet]) -> tuple[list[Operation], int]:
    return [fleet.one for fleet in fleets for _ in range(CALLERS // 2)], 1


def _manies(fleets: list[TaskFleet]) -> tuple[list[Operation], int]:
    return [fleet.many for fleet in fleets for _ in range(BATCH_CALLERS // 2)], BATCH


async def _measured(
    plan: Plan,
    what: str,
    servers: list[Server],
    files: list[Path],
    operations: tuple[list[Operation], int],
) -> Row:
    callers, batch = operations
    await closed_loop(servers[0], callers, plan.seconds / 3, per_operation=batch)
    before, others = _counted(files), servers[1].cpu_seconds()[0]
    windows = [
        await closed_loop(servers[0], callers, plan.seconds, per_operation=batch)
        for _ in range(plan.rounds)
    ]
    after, series = _counted(files), Series(tuple(windows))
    others = servers[1].cpu_seconds()[0] - others
    assigned = after.assigned - before.assigned
    lost = (after.contested - before.contested) / max(assigned, 1)
    done = sum(window.operations for window in windows)
    return Row(
        workload=14,
        what=what,
        target=f"<= {LOST_PER_TASK:g} lost per task",
        measured=f"{series.rate:,.0f}/s, {lost:.2f} lost commits per assignment",
        verdict=judged(lost <= LOST_PER_TASK),
        rate=series.rate,
        server_us=series.server_us + others / done * 1e6,
        details={"lost_per_assignment": lost, "assigned": assigned},
    )


def _counted(files: list[Path]) -> TaskCounters:
    counted = [read_counters(file) for file in files]
    return TaskCounters(sum(c.assigned for c in counted), sum(c.contested for c in counted))
