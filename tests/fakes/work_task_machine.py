"""What becomes of tasks in a `WorkWorld`, as rules of a state machine."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from controlplane.domain.agents import Instance
from controlplane.domain.errors import (
    DomainError,
    InvalidTransition,
)
from controlplane.domain.task_rules import Lease
from controlplane.domain.tasks import DrainAction, Task, TaskSpec, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
    TaskNotFound,
)
from controlplane.services.tasks.tasks import Submission
from tests.fakes.fleet import FakeBeat
from tests.fakes.work_machine import AgentsMachine, deactivate, drain, nth, pick, replicas
from tests.fakes.work_model import bare
from tests.fakes.work_replicas import ADA, WorkReplica

ends_of_leases = st.sampled_from(("complete", "complete", "fail", "release"))
words = st.sampled_from(("accept", "accept", "progress", "complete", "complete", "fail", "release"))


TAKEN_IN_SECONDS = 0.3
"""Longer than a new task is left to the replica that took it in."""

FATES = ("silence", "replace", "drain one", "leave", "stop", "drain")
"""What may become of an instance, or of its agent, while another replica does not hear of it."""


class TasksMachine(AgentsMachine):
    """Submitters, holders of leases, and the loops that move tasks."""

    # -- tasks -----------------------------------------------------------------------------------

    @rule(
        at=replicas,
        name=st.sampled_from(("alpha", "alpha", "beta", "")),
        session_id=st.sampled_from(("", "s1", "s2", "s3")),
        on_drain=st.sampled_from(DrainAction),
        deadline_ms=st.sampled_from((0, 0, 20_000)),
        attempt_timeout_ms=st.sampled_from((0, 5_000)),
        capabilities=st.sampled_from(((), ("read",), ("write",))),
    )
    def submit(self, at: int, name: str, capabilities: tuple[str, ...], **fields: Any) -> None:
        wanted = capabilities or (() if name else ("read",))
        spec = TaskSpec(agent_name=name, capabilities=wanted, max_attempts=2, **fields)
        answer = self.ask(at, partial(submit, spec=spec))
        if answer is not None:
            assert isinstance(answer, Task)
            assert bare(self.model.tasks[answer.task_id]) == bare(answer)
            self.assign(at)

    @rule(at=replicas)
    def assign(self, at: int) -> None:
        self.ask(at, lambda r: r.assigner.assign(r.namespace))

    @rule(at=replicas, word=words, age=st.sampled_from((0, 0, 0, 1, 2, 3)), stale=st.booleans())
    def say(self, at: int, word: str, age: int, *, stale: bool) -> None:
        """Let the holder of a lease say something; of one whose task is held again, too."""
        tasks = self.model.tasks
        late = [
            lease
            for lease in self.model.leases
            if lease.task_id in tasks
            and tasks[lease.task_id].state.is_held
            and not _names(lease, tasks[lease.task_id])
        ]
        lease = pick((stale and late) or self.model.leases, age)
        if lease is None:
            return
        before = self.model.tasks.get(lease.task_id)
        answer = self.ask(at, lambda r: _utter(r, word, lease))
        after = self.model.tasks.get(lease.task_id)
        if before is None:
            assert answer is None or isinstance(answer, TaskNotFound)
        elif not _names(lease, before):
            assert after == before, "a stale lease changes nothing"
            assert answer is None or isinstance(answer, LeaseFenced)
        elif before.state is TaskState.SUCCEEDED and word == "complete":
            assert after == before
            assert answer is None or bare(answer) == bare(before)
        elif not before.state.is_held:
            assert after == before
            assert answer is None or isinstance(answer, LeaseFenced)
        elif before.state is TaskState.ASSIGNED and word in {"progress", "complete"}:
            assert after == before
            assert answer is None or isinstance(answer, InvalidTransition)
        elif answer is not None:
            assert isinstance(answer, Task)
            assert bare(answer) == bare(after)

    @rule(at=replicas, accepts=st.integers(1, 4), ends=st.integers(0, 4), how=ends_of_leases)
    def work(self, at: int, accepts: int, ends: int, how: str) -> None:
        """Assign what waits, and let holders accept and end: the way that most tasks take."""
        self.assign(at)
        for state, word, count in (
            (TaskState.ASSIGNED, "accept", accepts),
            (TaskState.RUNNING, how, ends),
        ):
            held = (task for task in self.model.tasks.values() if task.state is state)
            for task in sorted(held, key=lambda task: task.task_id)[:count]:
                lease = Lease(task_id=task.task_id, instance_id=task.instance_id, epoch=task.epoch)
                self.ask(at, partial(_utter, word=word, lease=lease))
        self.assign(at)

    @rule(at=replicas, number=nth)
    def cancel(self, at: int, number: int) -> None:
        task_id = pick(sorted(self.model.tasks), number)
        if task_id is None:
            return
        before = self.model.tasks[task_id].state
        answer = self.ask(at, lambda r: r.tasks.cancel(r.namespace, task_id, reason="", caller=ADA))
        state = self.model.tasks[task_id].state
        if isinstance(answer, DomainError):
            assert before in {TaskState.SUCCEEDED, TaskState.FAILED}
        else:
            assert answer is None or state is TaskState.CANCELLED

    @rule(at=replicas)
    def sweep(self, at: int) -> None:
        self.ask(at, lambda r: r.recovery.sweep(r.namespace))

    @rule(at=replicas, rounds=st.integers(1, 3), beating=st.booleans())
    def drain_tick(self, at: int, rounds: int, *, beating: bool) -> None:
        for _ in range(rounds):
            if beating:
                self.everybody_beats(at)
            self.ask(at, WorkReplica.merge)
            self.ask(at, lambda r: r.drains.tick(r.namespace))
            self.ask(at, lambda r: r.stops.tick(r.namespace))

    @rule(at=replicas, number=nth, one=st.booleans(), rounds=st.integers(1, 4))
    def drain_the_busy(self, at: int, number: int, rounds: int, *, one: bool) -> None:
        """Drain somebody who works, while everybody beats."""
        self.crowd(3, lagging=False)
        self.work(at, 4, 0, "complete")
        held = [task for task in self.model.tasks.values() if task.state.is_held]
        task = pick(sorted(held, key=lambda task: task.task_id), number)
        if task is not None:
            instance_id = task.instance_id if one else ""
            self.ask(1 - at, partial(drain, agent_id=task.agent_id, instance_id=instance_id))
            self.drain_tick(at, rounds, beating=True)

    def everybody_beats(self, at: int) -> None:
        self.world.clock.shift(1.1)
        for instance_id in sorted(self.model.instances):
            beat = FakeBeat(instance_id, self.generation(instance_id))
            self.ask(at, partial(WorkReplica.beat, beat=beat))

    @rule(count=st.integers(3, 8), lagging=st.booleans())
    def crowd(self, count: int, *, lagging: bool) -> None:
        """Let both replicas assign more than there is room for, at once or on old news."""
        for number in range(count):
            # Each replica begins with those that it took in itself.
            self.ask(number % 2, partial(submit, spec=TaskSpec(agent_name="alpha")))
        if lagging:
            with self.old_news(1):
                self.assign(0)
                self.assign(1)
        else:
            self.run(race([one.assigner.assign(one.namespace) for one in self.world.replicas]))

    @rule(
        at=replicas,
        number=nth,
        what=st.sampled_from(FATES),
    )
    def assign_on_old_news(self, at: int, number: int, what: str) -> None:
        """Let a replica assign that does not know yet what became of an instance."""
        instance = pick([self.model.instances[n] for n in sorted(self.model.instances)], number)
        if instance is None:
            return
        name = self.model.agents[instance.agent_id].spec.name
        for _ in range(3):
            self.ask(1 - at, partial(submit, spec=TaskSpec(agent_name=name)))
        self.world.clock.shift(TAKEN_IN_SECONDS)
        with self.old_news(at):
            self.let_fate(1 - at, what, instance)
            self.assign(at)

    def let_fate(self, at: int, what: str, instance: Instance) -> None:
        """Let something happen to an instance, or to its agent."""
        agent_id, instance_id = instance.agent_id, instance.instance_id
        match what:
            case "drain":
                self.ask(at, partial(drain, agent_id=agent_id))
            case "drain one":
                self.ask(at, partial(drain, instance_id=instance_id))
            case "stop":
                self.ask(at, partial(deactivate, agent_id=agent_id, drain_ms=None))
            case "silence":
                self.ask(at, lambda r: r.expire(instance_id))
            case "leave":
                farewell = FakeBeat(instance_id, instance.generation, goodbye=True)
                self.ask(at, partial(WorkReplica.beat, beat=farewell))
            case _:
                spec = self.model.agents[agent_id].spec
                self.arrive(at, spec.name, spec.version, int(instance_id[-1]))


def _names(lease: Lease, task: Task) -> bool:
    return (task.instance_id, task.epoch) == (lease.instance_id, lease.epoch)


async def race(jobs: list[Awaitable[Any]]) -> None:
    """Do several things at the same time; each may be refused."""
    for outcome in await asyncio.gather(*jobs, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, DomainError):
            raise outcome


async def submit(replica: WorkReplica, spec: TaskSpec) -> Task:
    submission = Submission(spec=spec, payload=b"do it")
    return await replica.tasks.submit(replica.namespace, submission, caller=ADA)


async def _utter(replica: WorkReplica, word: str, lease: Lease) -> Task:
    leases, namespace = replica.leases, replica.namespace
    match word:
        case "accept":
            return await leases.accept(namespace, lease, caller=ADA)
        case "progress":
            return await leases.progress(
                namespace, lease, progress=0.5, message="", checkpoint=b"half", caller=ADA
            )
        case "complete":
            return await leases.complete(namespace, lease, result=b"done", caller=ADA)
        case _:
            release = word == "release"
            return await leases.fail(
                namespace, lease, detail="", permanent=False, release=release, caller=ADA
            )
