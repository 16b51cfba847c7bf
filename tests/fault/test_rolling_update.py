"""An agent is replaced while it works: nothing is lost or done twice, and bad versions go back.

Real processes of both versions, one task after the other, long ones among them, in sessions.
"""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest

from fleetplane import (
    AnalysisKind,
    FleetClient,
    RolloutAnalysis,
    RolloutPlan,
    RolloutStep,
    TaskState,
)
from fleetplane.v1 import rollout_service_pb2 as rollout_pb
from tests.fakes.daemon import running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.worker_process import Workers, workers

pytestmark = [
    pytest.mark.fault,
    pytest.mark.xdist_group("rolling update"),
    pytest.mark.timeout(240),
]

PULSE: Final = {"heartbeat_interval_seconds": 0.5, "degraded_after_seconds": 8.0}

PAUSE_SECONDS: Final = 0.01
"""Between two tasks: some eighty a second on a quiet machine."""

LONG_EVERY: Final = 40
LONG_SECONDS: Final = 4.0
"""Longer than a step and than the whole way from the last step to the drain."""

SESSIONS: Final = 60

TERMINAL: Final = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}

PLAN: Final = RolloutPlan(
    steps=[RolloutStep(weight_bp=weight) for weight in (2_500, 5_000, 10_000)],
    analysis=RolloutAnalysis(kind=AnalysisKind.SEQUENTIAL),
    observe=2.0,
    max_dwell=90.0,
    drain_deadline=30.0,
)


@dataclass
class Update:
    """A daemon, an operator and two versions under load."""

    client: FleetClient
    crew: Workers
    task_ids: list[str] = field(default_factory=list)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to end the load."""

    async def load(self, *, attempts: int) -> None:
        for number in itertools.count():
            if self.quiet.is_set():
                return
            seconds = LONG_SECONDS if number % LONG_EVERY == 0 else 0.0
            session = f"session-{number % SESSIONS}" if number % 2 else ""
            task = await self.client.submit_task(
                agent_name="worker",
                payload=json.dumps({"seconds": seconds}).encode(),
                session_id=session,
                max_attempts=attempts,
            )
            self.task_ids.append(task.task_id)
            await asyncio.sleep(PAUSE_SECONDS)

    async def roll_out(self) -> rollout_pb.Rollout:
        started = await self.client.start_rollout("worker", "2.0.0", plan=PLAN)
        last = started
        async for rollout in self.client.watch_rollout(started.rollout_id):
            last = rollout
        self.quiet.set()
        return last

    async def check_that_nothing_was_lost(self) -> dict[str, TaskState]:
        """Return how each task ended, once all have."""

        async def ended() -> bool:
            found = await self.states()
            return all(found[task_id] in TERMINAL for task_id in self.task_ids)

        await eventually("every task has ended", ended, within=60.0)
        finished = Counter(
            event["task_id"] for worker in self.crew.all for event in worker.said("finished")
        )
        twice = [task_id for task_id, times in finished.items() if times > 1]
        assert not twice, "ran to its end twice"
        return await self.states()

    async def states(self) -> dict[str, TaskState]:
        return {
            task.task_id: TaskState(task.state)
            async for task in self.client.list_tasks(page_size=1000)
        }


@asynccontextmanager
async def update(*, old_fails: float, new_fails: float, attempts: int) -> AsyncIterator[Update]:
    with running_daemon(grace_seconds=1.0, **PULSE) as daemon:
        async with (
            FleetClient(daemon.address) as client,
            workers(daemon.address, "default", daemon.directory / "workers.log") as crew,
        ):
            here = Update(client, crew)
            await asyncio.gather(
                *(
                    crew.start(
                        "worker",
                        version,
                        instance_id=f"{version}-{number}",
                        fail_share=share,
                        max_concurrency=20,
                        activation=activation,
                    )
                    for version, share, activation in (
                        ("1.0.0", old_fails, "AUTO"),
                        ("2.0.0", new_fails, "MANUAL"),
                    )
                    for number in range(2)
                )
            )
            load = asyncio.create_task(here.load(attempts=attempts), name="load")
            try:
                yield here
            finally:
                load.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await load


async def test_a_healthy_version_takes_over_and_no_task_is_lost_or_run_twice() -> None:
    # One attempt each: whatever a version left undone would show as a failure.
    async with update(old_fails=0.0, new_fails=0.0, attempts=1) as here:
        rollout = await here.roll_out()
        assert rollout.phase == rollout_pb.ROLLOUT_PHASE_SUCCEEDED, rollout.message
        old = await here.client.get_agent(rollout.from_agent_id)
        assert old.status_reason
        states = await here.check_that_nothing_was_lost()
        assert Counter(states.values()) == {TaskState.SUCCEEDED: len(here.task_ids)}
        for worker in here.crew.all:
            assert worker.said("finished"), f"{worker.instance_id} never worked"


async def test_a_version_that_fails_ten_percent_against_two_is_rolled_back_by_itself() -> None:
    async with update(old_fails=0.02, new_fails=0.10, attempts=10) as here:
        rollout = await here.roll_out()
        assert rollout.phase == rollout_pb.ROLLOUT_PHASE_ROLLED_BACK, rollout.message
        assert rollout.canary.failed / rollout.canary.total > 0.05
        route = await here.client.get_route("worker")
        assert [(share.version, share.weight_bp) for share in route.shares if share.weight_bp] == [
            ("1.0.0", 10_000)
        ]
        await here.check_that_nothing_was_lost()


async def test_a_version_that_fails_as_rarely_as_the_old_one_is_promoted() -> None:
    async with update(old_fails=0.02, new_fails=0.02, attempts=10) as here:
        rollout = await here.roll_out()
        assert rollout.phase == rollout_pb.ROLLOUT_PHASE_SUCCEEDED, rollout.message
        await here.check_that_nothing_was_lost()
