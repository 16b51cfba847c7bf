"""A namespace in plain Python, made anew from its commits, and what must be true after each one.

The model knows nothing of how decisions are made. It is told every transaction that happened, in
the order of the revisions, and asserts what the contract promises whoever decided, and on however
old a copy.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from controlplane.domain.agents import Agent, AgentStatus, Instance, InstanceState
from controlplane.domain.drains import Drain, DrainPhase, EmergencyStop, drain_key
from controlplane.domain.rollouts.machine import SUCCESSORS
from controlplane.domain.rollouts.model import Phase, Rollout, outcome_counter
from controlplane.domain.routes import WHOLE_BP, Route, SessionPin
from controlplane.domain.task_rules import Lease
from controlplane.domain.tasks import Task, TaskReason, TaskState
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Count,
    Delete,
    Expect,
    Ledger,
    Put,
    Require,
    ResetCount,
    Transaction,
)

WORKING = {AgentStatus.ACTIVE, AgentStatus.DEGRADED}
BY_THE_STORE = ("revision", "generation", "created_at_ms", "updated_at_ms", "registered_at_ms")
FAULTS = {
    TaskReason.AGENT_FAILED,
    TaskReason.AGENT_REFUSED,
    TaskReason.ATTEMPTS_EXHAUSTED,
    TaskReason.ATTEMPT_TIMEOUT,
    TaskReason.DEADLINE_EXCEEDED,
    TaskReason.LEASE_LOST,
}


def bare(value: Any) -> Any:
    """Return a value without what the store fills in."""
    known = {field.name for field in fields(value)} if hasattr(value, "__slots__") else ()
    return replace(value, **dict.fromkeys(set(BY_THE_STORE) & set(known), 0)) if known else value


class RecordingLedger:
    """`Ledger` that tells the model of every commit, whatever becomes of the answer."""

    def __init__(self, inner: Ledger, model: "WorkModel") -> None:
        self._inner = inner
        self._model = model

    async def commit(self, transaction: Transaction) -> Committed:
        committed = await self._inner.commit(transaction)
        self._model.hear(transaction, committed)
        return committed

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        outcomes = await self._inner.commit_many(transactions)
        for transaction, outcome in zip(transactions, outcomes, strict=True):
            if isinstance(outcome, Committed):
                self._model.hear(transaction, outcome)
        return outcomes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WorkModel:
    """The records and counters of one namespace, and the history that made them."""

    def __init__(self) -> None:
        self.revision = 0
        self.records: dict[Collection, dict[str, Any]] = {one: {} for one in Collection}
        self.seen: dict[tuple[Collection, str], tuple[int, int]] = {}
        """(revision, generation) of each record."""
        self.counters: Counter[str] = Counter()
        self.leases: list[Lease] = []
        """Every lease that there ever was, oldest first."""
        self.forgotten = False
        """Whether retention has removed a task: what it told is not in the store any more."""
        self._outcomes: Counter[str] = Counter()
        self._to_stop: dict[str, set[str]] = {}
        """stop_id -> agents that were not seen stopped since it began."""
        self._early: dict[int, Transaction] = {}

    def hear(self, transaction: Transaction, committed: Committed) -> None:
        """Be told of a commit; answers may arrive in another order than the commits had."""
        if committed.replayed:
            return
        assert committed.revision > self.revision
        assert committed.revision not in self._early, "two commits have one revision"
        self._early[committed.revision] = transaction
        while self.revision + 1 in self._early:
            self.revision += 1
            self._apply(self._early.pop(self.revision))

    def complete(self, revision: int) -> None:
        """Assert that everything up to a revision was heard of."""
        assert (self.revision, self._early) == (revision, {})

    def of(self, collection: Collection) -> dict[str, Any]:
        return self.records[collection]

    @property
    def agents(self) -> dict[str, Agent]:
        return self.records[Collection.AGENTS]

    @property
    def instances(self) -> dict[str, Instance]:
        return self.records[Collection.INSTANCES]

    @property
    def tasks(self) -> dict[str, Task]:
        return self.records[Collection.TASKS]

    @property
    def rollouts(self) -> dict[str, Rollout]:
        return self.records[Collection.ROLLOUTS]

    @property
    def drains(self) -> dict[str, Drain]:
        return self.records[Collection.DRAINS]

    def active_rollout(self, name: str) -> Rollout | None:
        return next((r for r in self.rollouts.values() if _runs(r) and r.name == name), None)

    def _apply(self, transaction: Transaction) -> None:
        for step in transaction.steps:
            if isinstance(step, Put | Delete | Require):
                self._holds(step.collection, step.key, step.expect)
        changes: dict[tuple[Collection, str], Any] = {}
        for step in transaction.steps:
            match step:
                case Put(collection, key) | Delete(collection, key):
                    changes.setdefault((collection, key), self.records[collection].get(key))
                    self._write(step)
                case Count(counter, delta, at_most):
                    self.counters[counter] += delta
                    assert self.counters[counter] >= 0, counter
                    assert at_most is None or self.counters[counter] <= at_most, counter
                case ResetCount(counter):
                    del self.counters[counter]
                    del self._outcomes[counter]
        for (collection, key), before in changes.items():
            self._check_move(collection, before, self.records[collection].get(key), transaction)
        self._check_slots()
        self._check_routes()
        self._check_flags()

    def _holds(self, collection: Collection, key: str, expect: Expect) -> None:
        revision, generation = self.seen.get((collection, key), (0, 0))
        assert expect.revision in {None, revision}, (collection, key)
        assert expect.generation in {None, generation}, (collection, key)

    def _write(self, step: Put | Delete) -> None:
        at = (step.collection, step.key)
        if isinstance(step, Delete):
            self.records[step.collection].pop(step.key, None)
            self.seen.pop(at, None)
            return
        fresh = step.fresh_generation or at not in self.seen
        generation = self.revision if fresh else self.seen[at][1]
        self.seen[at] = (self.revision, generation)
        value = step.value
        filled = {"revision": self.revision, "generation": generation}
        known = {name: filled[name] for name in filled if hasattr(value, name)}
        self.records[step.collection][step.key] = replace(value, **known) if known else value

    def _check_move(
        self, collection: Collection, before: Any, after: Any, transaction: Transaction
    ) -> None:
        match collection:
            case Collection.TASKS:
                self._check_task(before, after)
            case Collection.AGENTS:
                self._check_agent(before, after, transaction.audit)
            case Collection.ROLLOUTS:
                _check_rollout(before, after)
            case Collection.DRAINS:
                self._check_drain(before, after)
            case Collection.STOPS:
                self._check_stop(before, after)
            case Collection.SESSION_PINS if after is not None:
                pin: SessionPin = after
                assert self.agents[pin.agent_id].spec.name == pin.name

    def _check_task(self, before: Task | None, after: Task | None) -> None:
        if after is None:
            assert before is None or before.state.is_terminal, "what has not ended is kept"
            self.forgotten = True
            return
        if before is None:
            assert (after.state, after.epoch) == (TaskState.PENDING, 0)
            return
        assert not before.state.is_terminal, "what has ended stays as it is"
        assert after.epoch >= before.epoch
        assert 0 <= after.attempts <= after.spec.max_attempts
        assert bool(after.ended_at_ms) == after.state.is_terminal
        if before.state.is_held and after.state.is_held:
            same = (before.epoch, before.instance_id, before.agent_id)
            assert (after.epoch, after.instance_id, after.agent_id) == same
        elif after.state.is_held:
            self._check_lease(before, after)
        self._count_outcome(before, after)

    def _check_lease(self, before: Task, after: Task) -> None:
        assert (after.state, after.epoch) == (TaskState.ASSIGNED, before.epoch + 1)
        agent, instance = self.agents[after.agent_id], self.instances[after.instance_id]
        stream = self.of(Collection.TASK_STREAMS)[after.instance_id]
        assert (agent.status, agent.draining) == (AgentStatus.ACTIVE, False)
        assert (instance.state, instance.draining) == (InstanceState.FRESH, False)
        assert instance.agent_id == agent.agent_id
        assert after.instance_generation == instance.generation == stream.generation_of_instance
        assert after.spec.agent_name in {"", agent.spec.name}
        assert set(after.spec.capabilities) <= set(agent.spec.capabilities)
        lease = Lease(task_id=after.task_id, instance_id=after.instance_id, epoch=after.epoch)
        self.leases.append(lease)

    def _count_outcome(self, before: Task, after: Task) -> None:
        assert after.hop_count - before.hop_count == (
            before.state.is_held and not (after.state.is_held)
        ), "each lease is one hop"
        if after.hop_count == before.hop_count or not before.cohort:
            return
        hop = after.hops[-1]
        if hop.started_at_ms and (hop.reason is TaskReason.NONE or hop.reason in FAULTS):
            verdict = "failed" if hop.reason else "ok"
            self._outcomes[outcome_counter(before.cohort, hop.agent_id, verdict)] += 1

    def _check_agent(self, before: Agent | None, after: Agent | None, audit: AuditEntry) -> None:
        assert after is not None, "agents are never deleted"
        if after.is_stopped:
            for agent_ids in self._to_stop.values():
                agent_ids.discard(after.agent_id)
        if before is None:
            assert after.status is AgentStatus.REGISTERED
            return
        if before.status is AgentStatus.DECOMMISSIONED:
            assert after.status is AgentStatus.DECOMMISSIONED, "nobody comes back from there"
        elif before.is_stopped and not after.is_stopped:
            rolled_out = audit.event == "rollout.activated"
            assert audit.method == "Activate" or rolled_out, "an operator's decision stands"

    def _check_drain(self, before: Drain | None, after: Drain | None) -> None:
        if after is None or after.phase is not DrainPhase.DRAINED:
            return
        if before is not None and before.phase is DrainPhase.DRAINED:
            return
        if after.instance_id:
            instance = self.instances.get(after.instance_id)
            if instance is None or instance.generation != after.instance_generation:
                return
        held = self._held_by(after)
        assert not held, f"{held} are in flight, and it is not safe to stop"

    def _held_by(self, drain: Drain) -> list[str]:
        return [
            task.task_id
            for task in self.tasks.values()
            if task.state.is_held
            and task.agent_id == drain.agent_id
            and drain.instance_id in {"", task.instance_id}
        ]

    def _check_stop(self, before: EmergencyStop | None, after: EmergencyStop) -> None:
        if before is None:
            running = {one for one in after.agent_ids if not self.agents[one].is_stopped}
            self._to_stop[after.stop_id] = running
        elif after.settled:
            assert not self._to_stop[after.stop_id], "some were never stopped"

    def _check_slots(self) -> None:
        held: Counter[str] = Counter()
        for task in self.tasks.values():
            if task.state.is_held:
                held[task.instance_id] += 1
                limit = self.agents[task.agent_id].spec.max_concurrency
                assert held[task.instance_id] <= limit, "beyond capacity"
        counted = {name: count for name, count in self.counters.items() if count}
        slots = {f"slots/{name}": count for name, count in held.items()}
        outcomes = {name: count for name, count in self._outcomes.items() if count}
        assert counted == slots | outcomes

    def _check_routes(self) -> None:
        running: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in self.rollouts.values():
            if _runs(rollout):
                running[rollout.name].append(rollout)
        active = {name: one.rollout_id for name, (one,) in running.items()}
        assert self.of(Collection.ACTIVE_ROLLOUTS) == active
        routes: dict[str, Route] = self.of(Collection.ROUTES)
        for name, route in routes.items():
            assert sum(share.weight_bp for share in route.shares) == WHOLE_BP
            assert all(self.agents[share.agent_id].spec.name == name for share in route.shares)
            assert route.rollout_id == active.get(name, "")
        for name, (rollout,) in running.items():
            weights = {share.agent_id: share.weight_bp for share in routes[name].shares}
            assert routes[name].cohort == rollout.cohort
            assert weights.get(rollout.to_agent_id, 0) == rollout.weight_bp

    def _check_flags(self) -> None:
        """Assert that nobody is kept from work without a drain that says why."""
        marks = {DrainPhase.DRAINING, DrainPhase.DRAINED}
        for agent in self.agents.values():
            if agent.draining and agent.status in WORKING:
                assert self.drains[drain_key(agent.agent_id)].phase in marks
        for instance in self.instances.values():
            if instance.draining:
                drain = self.drains[drain_key(instance.agent_id, instance.instance_id)]
                assert drain.phase in marks
                assert drain.instance_generation == instance.generation


def _runs(rollout: Rollout) -> bool:
    return not rollout.phase.is_terminal


def _check_rollout(before: Rollout | None, after: Rollout | None) -> None:
    if after is None:
        assert before is not None
        assert before.phase.is_terminal
        return
    if before is None:
        assert after.phase is Phase.PENDING
        return
    assert _runs(before), "what has ended stays as it is"
    if after.phase is Phase.SUPERSEDED:
        assert before.phase is not Phase.DRAINING_OLD
    elif after.phase is not before.phase:
        assert after.phase in SUCCESSORS[before.phase], (before.phase, after.phase)
    assert after.step_token >= before.step_token
    assert bool(after.ended_at_ms) == after.phase.is_terminal
