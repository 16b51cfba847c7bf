"""Two daemons move a rollout; one is killed at a named point, the other ends it all the same.

The first daemon kills itself (SIGKILL) directly before or after the commit of one transition, so
every place where a rollout could be left half done is tried.
"""

import asyncio
import contextlib
import itertools
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import pytest

from fleetplane import (
    Activation,
    Agent,
    AnalysisKind,
    FleetClient,
    FleetError,
    RolloutAnalysis,
    RolloutPlan,
    RolloutStep,
    TaskContext,
)
from fleetplane.v1 import rollout_service_pb2 as pb
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.valkey import valkey_server
from tests.fakes.worker_process import fails

pytestmark = [
    pytest.mark.fault,
    pytest.mark.xdist_group("rollout kills"),
    pytest.mark.timeout(200),
]

PULSE: Final = {
    "heartbeat_interval_seconds": 0.3,
    "degraded_after_seconds": 5.0,
    "lost_after_seconds": 60.0,
    "grace_seconds": 1.0,
    # A machine that is busy with other suites is no overload of the daemon.
    "overload_lag_seconds": 60.0,
}

OBSERVE_SECONDS: Final = 1.0

TICK_SECONDS: Final = 1.5
"""A look of the reconciler (0.5 s with jitter) and the commit it leads to, on two busy cores."""

FOUND_SECONDS: Final = 8.0
"""Until agents and traffic have found the other replica."""

STEPS: Final = (2_000, 6_000, 10_000)


def observation(transition: str) -> float:
    """Return how long a step is observed: to be measured before it passes it needs two looks."""
    return 3 * OBSERVE_SECONDS if transition == "MEASURE" else OBSERVE_SECONDS


def plan(transition: str) -> RolloutPlan:
    return RolloutPlan(
        steps=[RolloutStep(weight_bp=weight) for weight in STEPS],
        analysis=RolloutAnalysis(kind=AnalysisKind.THRESHOLD, max_error_rate=0.3, min_tasks=5),
        observe=observation(transition),
        max_dwell=60.0,
        drain_deadline=10.0,
    )


GOOD: Final = (
    "ACTIVATE_CANARY",
    "ENTER_STEP",
    "NOTE_TRAFFIC",
    "MEASURE",
    "PASS_STEP",
    "PROMOTE",
    "START_DRAIN_OLD",
    "SUCCEED",
)
BAD: Final = ("ABORT", "START_DRAIN_NEW", "ROLLED_BACK")


@dataclass
class History:
    """What a watcher of the rollout saw."""

    seen: list[pb.Rollout] = field(default_factory=list)

    @property
    def last(self) -> pb.Rollout:
        return self.seen[-1]

    def moments(self, name: Literal["step_entered_at", "traffic_since"]) -> dict[int, set[float]]:
        """Return step -> every moment that a field said while it was observed, in seconds."""
        found: dict[int, set[float]] = {}
        for one in self.seen:
            if one.phase == pb.ROLLOUT_PHASE_PROGRESSING and one.HasField(name):
                moment = getattr(one, name).ToMilliseconds() / 1000
                found.setdefault(one.step_index, set()).add(moment)
        return found


WATCH_SECONDS: Final = 70.0
"""Far longer than any of these rollouts takes, and short enough to say what was the matter."""


@asynccontextmanager
async def crew(target: str, fail_share: float) -> AsyncIterator[None]:
    """Run two versions of one agent in this process, and traffic to them."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(FleetClient(target))
        for version, share in (("1.0.0", 0.0), ("2.0.0", fail_share)):
            # The new version waits for the rollout to activate it.
            manual = Activation.MANUAL if version == "2.0.0" else Activation.AUTO
            agent = Agent("worker", version, client=client, max_concurrency=8, activation=manual)
            agent.task(_handler(version, share))
            await stack.enter_async_context(agent)
        traffic = asyncio.create_task(_traffic(client), name="traffic")
        try:
            yield
        finally:
            traffic.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await traffic


def _handler(version: str, share: float) -> Callable[[TaskContext], Awaitable[bytes]]:
    async def work(task: TaskContext) -> bytes:
        await asyncio.sleep(0.01)
        if fails(task.task_id, share):
            raise RuntimeError("this version is bad at it")
        return version.encode()

    return work


async def _traffic(client: FleetClient) -> None:
    number = 0
    while True:
        number += 1
        with contextlib.suppress(FleetError):
            await client.submit_task(
                agent_name="worker", payload=json.dumps(number).encode(), max_attempts=1
            )
        await asyncio.sleep(0.02)


@asynccontextmanager
async def two_daemons(failpoint: str) -> AsyncIterator[tuple[Daemon, Daemon]]:
    async with valkey_server() as store, AsyncExitStack() as stack:
        first = stack.enter_context(running_daemon(store=store.url, failpoint=failpoint, **PULSE))
        second = stack.enter_context(running_daemon(store=store.url, **PULSE))
        yield first, second


async def rolled_out(failpoint: str, *, fail_share: float) -> tuple[History, int]:
    """Roll out under traffic; return what was seen, and how the first daemon ended (-9).

    The second daemon is frozen until the first is dead, so that it is the first who gets to the
    point; then it finds the rollout as the other one left it.
    """
    async with two_daemons(failpoint) as (first, second):
        target = f"ipv4:{first.address},{second.address}"
        async with FleetClient(target) as operator:
            second.signal(signal.SIGSTOP)
            relief = asyncio.create_task(_relieve(first, second), name="relief")
            try:
                async with crew(target, fail_share):
                    started = await operator.start_rollout(
                        "worker",
                        "2.0.0",
                        from_version="1.0.0",
                        plan=plan(failpoint.partition(":")[2]),
                    )
                    history = History()
                    try:
                        async with asyncio.timeout(WATCH_SECONDS):
                            async for rollout in operator.watch_rollout(started.rollout_id):
                                history.seen.append(rollout)
                    except TimeoutError:
                        pytest.fail(f"it stands still: {history.last}\n{second.log[-4000:]}")
                code = await relief
            finally:
                second.signal(signal.SIGCONT)
                relief.cancel()
        return history, code


async def _relieve(first: Daemon, second: Daemon) -> int:
    code = await asyncio.to_thread(first.wait, 80.0)
    second.signal(signal.SIGCONT)
    return code


def check_the_steps(history: History, observe: float) -> None:
    """No step was skipped, entered twice or observed twice, and each took its time and no more."""
    entered, began = history.moments("step_entered_at"), history.moments("traffic_since")
    assert sorted(entered) == sorted(began) == list(range(len(STEPS)))
    assert all(len(moments) == 1 for moments in entered.values()), "a step was entered twice"
    assert all(len(moments) == 1 for moments in began.values()), "a step was observed twice"
    for step, after in itertools.pairwise(sorted(entered)):
        took = min(entered[after]) - min(began[step])
        assert took >= observe
        # The replica dies in the first step: whoever carries on must hear of it, and agents and
        # traffic must find it.
        slack = TICK_SECONDS if step else TICK_SECONDS + FOUND_SECONDS
        assert took <= observe + slack


async def killed_around(transition: str, *, fail_share: float) -> list[History]:
    """Roll out twice at the same time: one replica dies before, one after the transition."""
    points = [f"{when}:{transition}" for when in ("before", "after")]
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(rolled_out(point, fail_share=fail_share)) for point in points]
    for point, run in zip(points, runs, strict=True):
        assert run.result()[1] == -signal.SIGKILL, f"{point} was never reached"
    return [run.result()[0] for run in runs]


@pytest.mark.parametrize("transition", GOOD)
async def test_a_healthy_rollout_succeeds_whoever_dies_where(transition: str) -> None:
    for history in await killed_around(transition, fail_share=0.0):
        assert history.last.phase == pb.ROLLOUT_PHASE_SUCCEEDED
        check_the_steps(history, observation(transition))


@pytest.mark.parametrize("transition", BAD)
async def test_a_bad_rollout_is_rolled_back_whoever_dies_where(transition: str) -> None:
    for history in await killed_around(transition, fail_share=0.9):
        assert history.last.phase == pb.ROLLOUT_PHASE_ROLLED_BACK
        aborted = [one for one in history.seen if one.phase == pb.ROLLOUT_PHASE_ABORTING]
        assert all(one.weight_bp == 0 for one in aborted)
