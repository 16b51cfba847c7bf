"""Whatever happens to tasks in whatever order: leases fence, slots and outcomes add up.

Memory lags behind the ledger for as long as the run says so.
"""

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import (
    InvalidTransition,
)
from controlplane.domain.rollouts.model import outcome_counter
from controlplane.domain.routes import Route, Share
from controlplane.domain.task_rules import Lease, ended
from controlplane.domain.tasks import Task, TaskReason, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
)
from controlplane.services.ports import Collection, ConditionFailed, Put, Transaction
from controlplane.services.tasks.index import attempt_failed
from tests.fakes.plane import CALLER, NS
from tests.fakes.task_plane import AGENT, AUDIT, TaskPlane

INSTANCES = ("i", "j")
SLOTS = 2
MAX_ATTEMPTS = 2
COHORT = "r1/10"
UNCHARGED = {"NOT_ACCEPTED", "RELEASED", "DRAINED", "DEACTIVATED", "NO_AGENT"}
SAID = {"AGENT_FAILED", "AGENT_REFUSED"}  # counts even if the lease was never accepted

_tasks = st.integers(0, 2)  # 0: the newest
_instances = st.sampled_from(INSTANCES)
_holders = st.tuples(_tasks, st.sampled_from((0, 0, 0, 1, 2)))  # mostly the newest lease of a task
_reasons = st.sampled_from(
    (
        TaskReason.LEASE_LOST,
        TaskReason.NOT_ACCEPTED,
        TaskReason.ATTEMPT_TIMEOUT,
        TaskReason.DRAINED,
        TaskReason.DEACTIVATED,
    )
)
_ends = st.sampled_from((TaskReason.DEADLINE_EXCEEDED, TaskReason.NO_AGENT, TaskReason.DRAINED))

_ends_of_tasks = st.one_of(
    st.tuples(st.just("complete"), _holders),
    st.tuples(st.just("fail"), _holders, st.just("permanent")),
    st.tuples(st.just("end"), _tasks, _ends),
    st.tuples(st.just("cancel"), _tasks),
)
_begin = st.tuples(st.just("begin"), _tasks, _instances)
operations = st.one_of(
    st.tuples(st.just("submit")),
    st.tuples(st.just("follow")),
    st.tuples(st.just("assign"), _tasks, _instances),
    _begin,
    _begin,
    _begin,
    st.tuples(st.just("accept"), _holders),
    st.tuples(st.just("progress"), _holders, st.sampled_from((None, b"", b"cp"))),
    st.tuples(st.just("fail"), _holders, st.sampled_from(("retry", "release"))),
    st.tuples(st.just("take back"), _tasks, _reasons),
    _ends_of_tasks,
)


class World:
    """Tasks of one namespace, and what must be true of them."""

    def __init__(self) -> None:
        self.plane = TaskPlane()
        self.task_ids: list[str] = []
        self.leases: dict[str, list[Lease]] = {}
        self.known: dict[str, Task] = {}
        self.verdicts: Counter[str] = Counter()
        self.charged: Counter[str] = Counter()
        self.agent_id = ""

    async def begin(self) -> None:
        self.agent_id = (await self.plane.register()).agent.agent_id
        share = Share(agent_id=self.agent_id, version="1.0.0", weight_bp=10_000)
        route = Route(name="researcher", shares=(share,), salt="s", cohort=COHORT)
        steps = (Put(Collection.ROUTES, "researcher", route),)
        await self.plane.ledger.commit(Transaction(namespace=NS, steps=steps, audit=AUDIT))
        await self.plane.follow()

    async def carry_out(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("submit",):
                if sum(not task.state.is_terminal for task in self.known.values()) < 3:
                    task = await self.plane.submit(follow=False, max_attempts=MAX_ATTEMPTS)
                    self.task_ids.append(task.task_id)
            case ("follow",):
                await self.plane.follow()
            case ("begin", number, instance_id):
                await self.carry_out(("assign", number, instance_id))
                await self.check()
                await self.carry_out(("accept", (number, 0)))
            case (("accept" | "progress" | "complete" | "fail"), (number, age), *how):
                if number < len(self.task_ids):
                    await self.say(operation[0], self.task_ids[-1 - number], age, how)
            case (verb, number, *how):
                if number < len(self.task_ids):
                    await self.move(verb, self.task_ids[-1 - number], how)

    async def move(self, verb: str, task_id: str, how: list[Any]) -> None:
        """Let the plane or an operator move a task."""
        before = await self.plane.stored(task_id)
        try:
            match verb, how:
                case "assign", [instance_id]:
                    lease = await self.plane.assign(
                        task_id, instance_id, self.agent_id, slots=SLOTS
                    )
                    self.leases.setdefault(task_id, []).append(lease)
                case "take back", [reason]:
                    await self.plane.take_back(task_id, reason)
                case "end", [reason]:
                    now_ms = self.plane.clock.store_ms()
                    after = ended(before, TaskState.FAILED, reason, detail="", now_ms=now_ms)
                    await self.plane.write(before, after)
                case "cancel", []:
                    cancelled = await self.plane.tasks.cancel(NS, task_id, reason="", caller=CALLER)
                    assert cancelled.state is TaskState.CANCELLED
        except InvalidTransition:
            assert await self.plane.stored(task_id) == before
        except ConditionFailed:
            assert verb == "assign"
            assert await self.plane.slots(how[0]) == SLOTS

    async def say(self, verb: str, task_id: str, age: int, how: list[Any]) -> None:
        """Let the holder of a lease say something; of an old one, too."""
        leases = self.leases.get(task_id, [])
        if age >= len(leases):
            return
        lease = leases[-1 - age]
        before = await self.plane.stored(task_id)
        holds = before.state.is_held and before.epoch == lease.epoch
        repeats = (
            verb == "complete"
            and before.state is TaskState.SUCCEEDED
            and before.epoch == lease.epoch
        )
        try:
            after = await self.utter(verb, lease, how)
        except LeaseFenced:
            assert not holds
            assert not repeats
            assert await self.plane.stored(task_id) == before
        except InvalidTransition:
            assert before.state is TaskState.ASSIGNED
            assert await self.plane.stored(task_id) == before
        else:
            assert holds or repeats
            assert after == await self.plane.stored(task_id)
            if repeats:
                assert after == before

    async def utter(self, verb: str, lease: Lease, how: list[Any]) -> Task:
        leases = self.plane.leases
        match verb, how:
            case "accept", []:
                return await leases.accept(NS, lease, caller=AGENT)
            case "progress", [checkpoint]:
                return await leases.progress(
                    NS, lease, progress=0.5, message="", checkpoint=checkpoint, caller=AGENT
                )
            case "complete", []:
                return await self.plane.complete(lease, b"out")
            case _:
                return await self.plane.fail(
                    lease, permanent=how == ["permanent"], release=how == ["release"]
                )

    async def check(self) -> None:
        """Assert what is always true."""
        held: Counter[str] = Counter()
        for task_id in self.task_ids:
            task = await self.plane.stored(task_id)
            self.check_task(self.known.get(task_id), task)
            self.known[task_id] = task
            if task.state.is_held:
                held[task.instance_id] += 1
            contents = await self.plane.tasks.contents(NS, task_id)
            assert len(contents.checkpoint) == task.checkpoint_bytes
            assert len(contents.result) == task.result_bytes
        for instance_id in INSTANCES:
            assert await self.plane.slots(instance_id) == held[instance_id] <= SLOTS
        names = ("ok", "failed")
        counters = [outcome_counter(COHORT, self.agent_id, name) for name in names]
        counted = await self.plane.ledger.read_counts(NS, counters)
        assert counted == [self.verdicts[name] for name in names]

    def check_task(self, before: Task | None, task: Task) -> None:
        assert 0 <= task.attempts <= MAX_ATTEMPTS
        if not task.state.is_terminal and task.state is not TaskState.RUNNING:
            assert task.attempts < MAX_ATTEMPTS, "it waits for an attempt it may not have"
        assert bool(task.ended_at_ms) == task.state.is_terminal
        if task.state.is_held:
            assert task.instance_id
        if before is None:
            assert (task.epoch, task.hop_count) == (0, 0)
            return
        assert task.epoch >= before.epoch
        if before.state.is_terminal:
            assert task == before, "what has ended stays as it is"
        if before.state.is_held and not (task.state.is_held and task.epoch == before.epoch):
            assert task.hop_count == before.hop_count + 1
            hop = task.hops[-1]
            assert (hop.epoch, hop.instance_id) == (before.epoch, before.instance_id)
            accepted = bool(hop.started_at_ms)
            assert accepted == (before.state is TaskState.RUNNING)
            if (accepted and hop.reason not in UNCHARGED) or hop.reason in SAID:
                self.charged[task.task_id] += 1
            verdict = attempt_failed(hop.started_at_ms, hop.reason)
            if verdict is not None:
                self.verdicts["failed" if verdict else "ok"] += 1
        else:
            assert task.hop_count == before.hop_count
        running = task.state is TaskState.RUNNING
        assert task.attempts == self.charged[task.task_id] + running


@settings(max_examples=200, deadline=None)
@given(st.lists(operations, min_size=20, max_size=60))
def test_leases_fence_and_counters_add_up_whatever_happens(script):
    async def run() -> None:
        world = World()
        await world.begin()
        for operation in (("submit",), *script):
            await world.carry_out(operation)
            await world.check()

    asyncio.run(run())
