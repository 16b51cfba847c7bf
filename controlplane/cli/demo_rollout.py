"""`fleetplane demo --rollout`: a bad version is rolled back, a good one promoted, under work."""

import asyncio
import contextlib
import secrets
import sys
from typing import Any, Final

from controlplane.cli.call import Globals, Output
from controlplane.cli.demo_agent import Crew, Part
from controlplane.cli.demo_board import Happening
from controlplane.cli.demo_processes import CrewProcess
from controlplane.cli.demo_rollout_view import RolloutStage
from controlplane.cli.demo_run import Tell, interruptions, reach_daemon
from controlplane.cli.demo_traffic import ATTEMPTS, Traffic
from controlplane.cli.demo_view import LinesView
from controlplane.cli.durations import between, compact
from controlplane.cli.outcomes import CommandFailed
from controlplane.cli.rollout_views import change_line, of_all, phase_of
from fleetplane import (
    AgentStatus,
    FleetClient,
    FleetError,
    OnInconclusive,
    RolloutAnalysis,
    RolloutPhase,
    RolloutPlan,
    TaskState,
)
from fleetplane.v1 import lifecycle_service_pb2
from fleetplane.v1 import rollout_service_pb2 as pb

STABLE: Final = ("1.0.0", 0.01)
"""The version that works, and the share of its tasks that fail."""

BAD: Final = ("2.0.0", 0.3)
"""The version that does not, and the share of its tasks that fail."""

GOOD: Final = ("2.1.0", 0.01)
"""The version that does, and the share of its tasks that fail."""

INSTANCES: Final = 6
"""Instances of each version."""

PROCESSES: Final = 2
"""Processes of each version, which share its instances."""

ARRIVAL: Final = 30.0
"""Seconds the first version has to become ACTIVE."""

FRAME: Final = 0.25
"""Seconds between two frames."""

WARM_UP: Final = 2.0
"""Seconds of work before the first rollout, for something to compare with."""

PLAN: Final = RolloutPlan(
    steps=(2_500, 5_000, 10_000),
    analysis=RolloutAnalysis(max_error_rate=0.10, min_tasks=30),
    observe=3.0,
    max_dwell=60.0,
    progress_deadline=30.0,
    max_pause=10.0,
    drain_deadline=10.0,
    on_inconclusive=OnInconclusive.ROLLBACK,
    evict_on_abort=True,
)
"""Short steps, and a limit that some forty tasks are enough to judge: a demo, not advice."""

_DRAINING: Final = {
    RolloutPhase.DRAINING_OLD: "from_agent_id",
    RolloutPhase.DRAINING_NEW: "to_agent_id",
}
"""Phases in which a version drains, and the field that says which."""


async def run_rollouts(call: Globals, *, own: bool, duration: float | None) -> None:
    """Run the demo to its end.

    Args:
        call: where the daemon is and how to answer.
        own: whether to run a daemon of the demo's own even where one answers.
        duration: seconds after which it is called off; None: not at all.

    Raises:
        CommandFailed: something did not go as it must.
        FleetError: the daemon refuses something.
    """
    live = call.output is Output.TABLE and sys.stdout.isatty()
    stage = RolloutStage() if live else None
    lines = None if live else LinesView(call.output)

    def tell(event: str, text: str, **details: Any) -> None:
        happening = Happening(event=event, text=text, details=details)
        (stage or lines).happened(happening)  # type: ignore[union-attr]  # one of both is there

    with interruptions() as stop, stage or contextlib.nullcontext():
        async with reach_daemon(call, tell, own=own) as target, target.client() as client:
            demo = RolloutDemo(client, target, tell, stage)
            try:
                await demo.run(stop, duration)
            finally:
                await demo.aclose()


class RolloutDemo:
    """A demo of rollouts that runs.

    Args:
        client: an open client of the daemon.
        target: where the daemon is.
        tell: notes that something happened.
        stage: what is drawn on; None: nothing is drawn.
    """

    def __init__(
        self, client: FleetClient, target: Globals, tell: Tell, stage: RolloutStage | None
    ) -> None:
        self._client = client
        self._target = target
        self._tell = tell
        self._stage = stage
        self._run = secrets.token_hex(3)
        self._name = f"demo-researcher-{self._run}"
        self._traffic = Traffic(client, self._name, self._run)
        self._crews: list[CrewProcess] = []
        self._failure = ""
        self._broken = asyncio.Event()
        self._rollout: pb.Rollout | None = None
        self._drain: lifecycle_service_pb2.Drain | None = None

    async def run(self, stop: asyncio.Event, duration: float | None) -> None:
        """Run to the end, until somebody wants an end, or until the time is up.

        Raises:
            CommandFailed: something did not go as it must.
        """
        try:
            async with asyncio.timeout(duration), asyncio.TaskGroup() as group:
                around = [
                    group.create_task(self._draw(), name="demo-frames"),
                    group.create_task(self._end_at(stop), name="demo-stop"),
                    group.create_task(self._end_at(self._broken), name="demo-broken"),
                ]
                await self._course()
                for task in around:
                    task.cancel()
        except TimeoutError as error:
            raise CommandFailed(f"the demo was not over after {duration:g} s") from error

    async def aclose(self) -> None:
        """End the agents; idempotent."""
        crews, self._crews = self._crews, []
        await asyncio.gather(*(one.aclose() for one in crews))

    async def _course(self) -> None:
        """Do everything in order: work, a bad version, a good one, a sum."""
        await self._employ(*STABLE)
        await self._active()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._traffic.flow(), name="demo-traffic")
            await asyncio.sleep(WARM_UP)
            first = await self._replace(*BAD)
            second = await self._replace(*GOOD)
            self._traffic.stop()
        self._sum_up(first, second)

    async def _employ(self, version: str, failures: float) -> None:
        """Start the processes of a version."""
        part = Part(name=self._name, version=version, failures=failures)
        crews = [
            CrewProcess(
                Crew(
                    address=self._target.address,
                    namespace=self._target.namespace,
                    run=self._run,
                    agents=list(range(first, INSTANCES, PROCESSES)),
                    part=part,
                ),
                self._said,
            )
            for first in range(PROCESSES)
        ]
        self._crews += crews
        await asyncio.gather(*(one.start() for one in crews))
        pids = [one.pid for one in crews]
        self._tell(
            "started",
            f"{version}: {INSTANCES} instances in processes {', '.join(map(str, pids))},"
            f" {failures:.0%} of tasks fail",
            version=version,
            pids=pids,
            failures=failures,
        )

    async def _active(self) -> None:
        """Wait until the first version works.

        Raises:
            CommandFailed: it does not.
        """
        try:
            async with asyncio.timeout(ARRIVAL):
                async with self._client.watch_agents(name=self._name) as watch:
                    async for event in watch:
                        agents = getattr(event, "agents", ())
                        if any(AgentStatus(one.status) is AgentStatus.ACTIVE for one in agents):
                            return
        except TimeoutError as error:
            raise CommandFailed(f"{self._name} is not ACTIVE after {ARRIVAL:g} s") from error

    async def _replace(self, version: str, failures: float) -> pb.Rollout:
        """Roll a version out and follow that to its end; return how it ended."""
        begun = await self._client.start_rollout(self._name, version, plan=PLAN)
        self._tell(
            "rollout",
            f"rollout {begun.from_version} -> {version} begins",
            rollout_id=begun.rollout_id,
            version=version,
        )
        self._rollout = begun
        await self._employ(version, failures)
        last = begun
        async with self._client.watch_rollout(begun.rollout_id) as watch:
            async for rollout in watch:
                if _worth_a_line(last, rollout):
                    self._tell(
                        "changed",
                        f"{version}: {change_line(rollout)}",
                        version=version,
                        phase=phase_of(rollout),
                        step=rollout.step_index,
                        weight_bp=rollout.weight_bp,
                        message=rollout.message,
                    )
                self._rollout = last = rollout
        self._tell_end(last)
        return last

    def _tell_end(self, rollout: pb.Rollout) -> None:
        seconds = between(rollout.started_at, rollout.ended_at)
        self._tell(
            "ended",
            f"{rollout.to_version} {phase_of(rollout)} after {compact(seconds)}: {rollout.message}",
            version=rollout.to_version,
            phase=phase_of(rollout),
            seconds=round(seconds, 3),
            message=rollout.message,
        )

    def _said(self, crew: CrewProcess, line: dict[str, str]) -> None:
        """Take in what a process of agents says; one that cannot go on ends the demo."""
        match line["event"]:
            case "ready":
                return
            case "ran":
                if line["outcome"] == "ok":
                    self._traffic.ran(line["task_id"])
            case event:
                message = line.get("message", "")
                self._failure = self._failure or f"agents of process {crew.pid}: {message}"
                self._tell(event, f"pid {crew.pid}: {message}", pid=crew.pid, message=message)
                self._broken.set()

    async def _end_at(self, event: asyncio.Event) -> None:
        """Call the demo off when an event is set.

        Raises:
            CommandFailed: it is.
        """
        await event.wait()
        raise CommandFailed(self._failure or "the demo was called off")

    async def _draw(self) -> None:
        """Draw frame after frame, with the drain that is under way, if there is one."""
        while True:
            phase = RolloutPhase(self._rollout.phase) if self._rollout is not None else None
            field = _DRAINING.get(phase) if phase is not None else None
            self._drain = None
            if field is not None:
                with contextlib.suppress(FleetError):
                    self._drain = await self._client.get_drain(getattr(self._rollout, field))
            if self._stage is not None:
                self._stage.redraw(self._traffic, self._rollout, self._drain)
            await asyncio.sleep(FRAME)

    def _sum_up(self, bad: pb.Rollout, good: pb.Rollout) -> None:
        """Say what came of it.

        Raises:
            CommandFailed: it is not what must come of it.
        """
        traffic = self._traffic
        done, failed = traffic.ended[TaskState.SUCCEEDED], traffic.ended[TaskState.FAILED]
        times = [between(one.started_at, one.ended_at) for one in (bad, good)]
        self._tell(
            "summary",
            f"{traffic.submitted:,} tasks: {done:,} succeeded, {failed:,} failed after"
            f" {ATTEMPTS} attempts, lost: {traffic.waiting:,}, run twice: {traffic.twice:,};"
            f" {bad.to_version} {phase_of(bad)} in {compact(times[0])},"
            f" {good.to_version} {phase_of(good)} in {compact(times[1])}",
            submitted=traffic.submitted,
            succeeded=done,
            failed=failed,
            refused=traffic.refused,
            lost=traffic.waiting,
            run_twice=traffic.twice,
            rollouts=[
                {"version": one.to_version, "phase": phase_of(one), "seconds": round(seconds, 3)}
                for one, seconds in zip((bad, good), times, strict=True)
            ],
        )
        if self._stage is not None:
            self._stage.redraw(traffic, self._rollout, None)
        if wrong := _wrong(traffic, bad, good):
            raise CommandFailed("; ".join(wrong))


def _worth_a_line(before: pb.Rollout, now: pb.Rollout) -> bool:
    """Return whether more has changed than the counts."""
    return (before.phase, before.step_index, before.weight_bp, before.message) != (
        now.phase,
        now.step_index,
        now.weight_bp,
        now.message,
    )


def _wrong(traffic: Traffic, bad: pb.Rollout, good: pb.Rollout) -> list[str]:
    """Return what did not go as it must."""
    found = []
    if RolloutPhase(bad.phase) is not RolloutPhase.ROLLED_BACK:
        found.append(f"{bad.to_version} was not rolled back: {phase_of(bad)}, {of_all(bad.canary)}")
    if RolloutPhase(good.phase) is not RolloutPhase.SUCCEEDED:
        found.append(f"{good.to_version} was not promoted: {phase_of(good)}, {good.message}")
    if traffic.waiting:
        found.append(f"{traffic.waiting} tasks were lost")
    if traffic.twice:
        found.append(f"{traffic.twice} tasks were carried out twice")
    return found
