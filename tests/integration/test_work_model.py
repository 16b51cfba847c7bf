"""Lifecycle, tasks, routes, rollouts, drains and stops against a model, over a real store.

Two replicas, whose copies may lag and whose commits may fail, do what operators, agents and their
own loops ask for, in any order. In the end, when nobody interferes any more, everything that was
begun comes to its end.

To hunt longer than CI does, set FLEETPLANE_TEST_MODEL_EXAMPLES and FLEETPLANE_TEST_MODEL_STEPS; the
examples are then chosen at random.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drains import DrainPhase
from controlplane.domain.errors import DomainError
from controlplane.domain.rollouts.model import Analysis, AnalysisKind, Phase, Plan, Step
from controlplane.domain.tasks import Task, TaskSpec
from controlplane.services.ports import Collection
from controlplane.services.rollouts.rollouts import RolloutOrder
from tests.fakes.work_machine import (
    activate,
    deactivate,
    names,
    nth,
    pick,
    replicas,
    versions,
)
from tests.fakes.work_replicas import ADA, WorkReplica, real_store
from tests.fakes.work_task_machine import FATES, TasksMachine, race, submit

EXAMPLES = int(os.environ.get("FLEETPLANE_TEST_MODEL_EXAMPLES", "0"))
STEPS = int(os.environ.get("FLEETPLANE_TEST_MODEL_STEPS", "40"))

QUIET_ROUNDS = 40
QUIET_SECONDS = 400.0
"""Of the fake clock in each round: ten rounds outlast the extension of a drain, an hour."""

BRIEF = Plan(
    steps=(Step(weight_bp=3_000), Step(weight_bp=10_000)),
    analysis=Analysis(kind=AnalysisKind.THRESHOLD, max_error_rate=0.5, min_tasks=1),
    observe_ms=1_000,
    max_dwell_ms=60_000,
    bake_ms=5_000,
    progress_deadline_ms=60_000,
    max_pause_ms=120_000,
    drain_deadline_ms=30_000,
)


SCENES = ("rollout", "work", "crowd", "old news", "beginning")


class WorkMachine(TasksMachine):
    """Routes, rollouts, time, and a store that fails."""

    @initialize(
        scene=st.sampled_from(SCENES),
        steps=st.integers(0, 5),
    )
    def set_the_scene(self, scene: str, steps: int) -> None:
        """Begin where much can go wrong: random steps alone rarely come so far."""
        for name, number in (("alpha", 0), ("alpha", 1), ("beta", 0)):
            self.arrive(0, name, "1.0.0", number)
        match scene:
            case "rollout":
                self.start_rollout(1, "alpha", 1, "2.0.0", supersede=False)
                self.roll_on(0, steps, 6.0)
            case "work":
                self.roll_on(0, steps, 6.0)
            case "crowd":
                self.crowd(8, lagging=steps % 2 == 0)
                self.work(0, 4, 2, "release")
                self.say(0, "complete", steps, stale=True)
            case "old news":
                for what in FATES:
                    self.arrive(0, "alpha", "1.0.0", 0)
                    self.arrive(1, "alpha", "1.0.0", 1)
                    self.bring_back(0, 0)
                    for _ in range(2):
                        self.work(1, 8, 8, "complete")  # Slots are free again.
                    self.assign_on_old_news(steps % 2, steps, what)
            case _:
                pass

    # -- routes and rollouts ---------------------------------------------------------------------

    @rule(at=replicas, name=names, weight_bp=st.sampled_from((0, 2_500, 10_000)))
    def set_route(self, at: int, name: str, weight_bp: int) -> None:
        shares = [("2.0.0", weight_bp), ("1.0.0", 10_000 - weight_bp)]
        owned = self.model.active_rollout(name)
        answer = self.ask(
            at,
            lambda r: r.routes.set(
                r.namespace, name, shares, reason="", expected_revision=0, request=None, caller=ADA
            ),
        )
        if owned is not None:
            assert answer is None or isinstance(answer, DomainError)

    @rule(at=replicas, name=names)
    def delete_route(self, at: int, name: str) -> None:
        self.ask(
            at,
            lambda r: r.routes.delete(
                r.namespace, name, reason="", expected_revision=0, caller=ADA
            ),
        )

    @rule(at=replicas, name=names, number=nth, new=versions, supersede=st.booleans())
    def start_rollout(self, at: int, name: str, number: int, new: str, *, supersede: bool) -> None:
        """Replace a version that works; the new one has processes already, or gets one."""
        present = {
            agent.spec.version
            for agent in self.model.agents.values()
            if agent.spec.name == name and agent.status is AgentStatus.ACTIVE
        }
        old = pick(sorted(present - {new}), number)
        if old is None:
            return
        order = RolloutOrder(
            name=name, from_version=old, to_version=new, plan=BRIEF, supersede=supersede
        )
        self.ask(at, lambda r: r.rollouts.start(r.namespace, order, request=None, caller=ADA))
        if number % 2:
            self.arrive(at, name, new, 0)

    @rule(at=replicas, times=st.integers(1, 6), seconds=st.sampled_from((1.0, 6.0)))
    def roll_on(self, at: int, times: int, seconds: float) -> None:
        """Let tasks flow while a rollout is looked at, as it is in good times."""
        for _ in range(times):
            for name, session_id in (("alpha", ""), ("alpha", "s1"), ("beta", "")):
                spec = TaskSpec(agent_name=name, session_id=session_id)
                self.ask(at, partial(submit, spec=spec))
            self.work(at, 8, 8, "complete")
            self.world.clock.shift(seconds)
            for _ in range(2):
                self.ask(at, lambda r: r.reconciler.tick(r.namespace))

    @rule(
        at=replicas,
        name=names,
        verb=st.sampled_from(("pause", "resume", "promote", "promote fully", "abort")),
    )
    def command_rollout(self, at: int, name: str, verb: str) -> None:
        rollout = self.model.active_rollout(name)
        if rollout is None:
            return
        rollout_id = rollout.rollout_id
        answer = self.ask(at, lambda r: _command(r, verb, rollout_id))
        phase = self.model.rollouts[rollout_id].phase
        if verb == "pause" and answer is not None and not isinstance(answer, DomainError):
            assert phase is Phase.PAUSED
        if verb == "abort" and isinstance(answer, DomainError):
            assert phase is Phase.DRAINING_OLD

    @rule(at=replicas, number=nth)
    def retry_rollout(self, at: int, number: int) -> None:
        rollout_id = pick(sorted(self.model.rollouts), number)
        if rollout_id is not None:
            self.ask(
                at,
                lambda r: r.rollouts.retry(
                    r.namespace, rollout_id, reason="", request=None, caller=ADA
                ),
            )

    @rule(at=replicas, times=st.integers(1, 3))
    def reconcile(self, at: int, times: int) -> None:
        for _ in range(times):
            self.ask(at, lambda r: r.reconciler.tick(r.namespace))
            self.run(self.world.check())

    # -- the world -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.1, 1.0, 1.0, 5.0, 12.0, 40.0, 150.0)))
    def pass_time(self, seconds: float) -> None:
        self.world.clock.shift(seconds)

    @rule(at=replicas, happens=st.booleans())
    def break_store(self, at: int, *, happens: bool) -> None:
        """Let the next call fail, or the next commit happen without an answer."""
        faults = self.world.replicas[at].faults
        if happens:
            faults.execute_then_fail()
        else:
            faults.fail_next()

    @rule(at=replicas, steps=st.integers(1, 4))
    def lag(self, at: int, steps: int) -> None:
        """Cut a replica off from the news for some steps."""
        self.world.replicas[at].lagging = steps + 1

    @rule(number=nth, other=nth)
    def race(self, number: int, other: int) -> None:
        """Let both replicas do something at the same time."""
        agent_id = pick(self.agent_ids(), number)
        jobs: list[Callable[[WorkReplica], Awaitable[Any]]] = [
            WorkReplica.tick,
            lambda r: r.assigner.assign(r.namespace),
            lambda r: r.recovery.sweep(r.namespace),
            lambda r: r.drains.tick(r.namespace),
            lambda r: r.reconciler.tick(r.namespace),
        ]
        if agent_id is not None:
            jobs += [lambda r: activate(r, agent_id), lambda r: deactivate(r, agent_id, None)]
        first, second = jobs[number % len(jobs)], jobs[other % len(jobs)]
        both = zip(self.world.replicas, (first, second), strict=True)
        self.run(race([job(replica) for replica, job in both]))

    def teardown(self) -> None:
        if not self.failed:
            self.come_to_rest()

    def come_to_rest(self) -> None:
        """Whatever was begun ends by itself, while replicas hear of it and instances beat."""
        for replica in self.world.replicas:
            replica.lagging = 0
            replica.heal()
        for _ in range(QUIET_ROUNDS):
            self.run(self.world.check())
            unfinished = self.unfinished()
            if not unfinished:
                return
            self.world.clock.shift(QUIET_SECONDS)
            self.everybody_beats(0)
            for at in (1, 0):
                self.ask(at, WorkReplica.merge)
                self.ask(at, WorkReplica.tick)
                self.run(self.world.check())
        raise AssertionError(f"this never ends: {unfinished}")

    def unfinished(self) -> list[Any]:
        model = self.model
        tasks = [task for task in model.tasks.values() if not task.state.is_terminal]
        return [
            *(one for one in model.rollouts.values() if not one.phase.is_terminal),
            *(one for one in model.drains.values() if one.phase is DrainPhase.DRAINING),
            *(one for one in model.of(Collection.STOPS).values() if not one.settled),
            *(one for one in tasks if one.deadline_at_ms),
            *(one for one in tasks if one.state.is_held and self.is_lost(one)),
        ]

    def is_lost(self, task: Task) -> bool:
        """Whether nobody works on it, though it says so."""
        instance = self.model.instances.get(task.instance_id)
        stopped = self.model.agents[task.agent_id].is_stopped
        return stopped or instance is None or instance.generation != task.instance_generation


async def _command(replica: WorkReplica, verb: str, rollout_id: str) -> Any:
    rollouts = replica.rollouts
    if verb.startswith("promote"):
        return await rollouts.promote(
            replica.namespace,
            rollout_id,
            full=verb == "promote fully",
            expected_step_index=None,
            reason="",
            caller=ADA,
        )
    command = {"pause": rollouts.pause, "resume": rollouts.resume, "abort": rollouts.abort}[verb]
    return await command(replica.namespace, rollout_id, reason="", caller=ADA)


@contextlib.contextmanager
def open_store() -> Iterator[None]:
    """Give the machines of a test a store, and the loop that it belongs to."""
    with asyncio.Runner() as runner:
        opened = contextlib.AsyncExitStack()
        try:
            WorkMachine.runner = runner
            WorkMachine.store = runner.run(opened.enter_async_context(real_store()))
            yield
        finally:
            runner.run(opened.aclose())


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_that_a_run_begins_with_comes_to_rest(scene):
    """What random steps may or may not come to: each of these happens in every build."""
    with open_store():
        for steps in range(6):
            machine = WorkMachine()
            machine.set_the_scene(scene, steps)
            machine.everybody_says_the_same()
            machine.come_to_rest()


@pytest.mark.timeout(60 if not EXAMPLES else 7_200)
def test_whatever_happens_in_whatever_order_the_contract_holds():
    hunting = EXAMPLES > 0
    with open_store():
        run_state_machine_as_test(
            WorkMachine,
            settings=settings(
                max_examples=EXAMPLES or 25,
                stateful_step_count=STEPS,
                derandomize=not hunting,
                database=None,
                deadline=None,
                print_blob=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
