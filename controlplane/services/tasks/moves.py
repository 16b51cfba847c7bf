"""What the plane does to a task without a word of anybody: moves, and their commits.

All pure but for reading the view: a move is planned here and written elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.agents import InstanceState
from controlplane.domain.task_rules import ended, taken_back
from controlplane.domain.tasks import DrainAction, Task, TaskReason, TaskState
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    Expect,
    Require,
    Transaction,
)
from controlplane.services.read_model import NamespaceView
from controlplane.services.tasks.homes import Fate, Home, home_of
from controlplane.services.tasks.steps import task_steps
from controlplane.services.tasks.waiting import want_of

_EVENTS: Final[Mapping[TaskState, str]] = {
    TaskState.PENDING: "task.requeued",
    TaskState.FAILED: "task.failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A task as it was seen and as it is to be, and what must still hold when it is written."""

    before: Task
    after: Task
    requires: tuple[Require, ...] = ()

    @property
    def requeues(self) -> bool:
        """Whether the task waits afterwards."""
        return self.after.state is TaskState.PENDING

    def transaction(
        self, namespace: str, *, method: str, actor: str = PLANE, reason: str = ""
    ) -> Transaction:
        """Return the commit."""
        after = self.after
        audit = AuditEntry(
            actor=actor,
            method=method,
            object=f"tasks/{after.task_id}",
            event=_EVENTS[after.state],
            reason=reason or after.detail,
            details={
                "reason": str(after.reason),
                "epoch": str(self.before.epoch),
                "agent_id": self.before.agent_id,
                "instance_id": self.before.instance_id,
            },
        )
        steps = (*task_steps(self.before, after), *self.requires)
        return Transaction(namespace=namespace, steps=steps, audit=audit)


def overdue(task: Task, now_ms: int) -> Move | None:
    """Return what passing its limits does to a task; None if it is within them."""
    if task.state.is_terminal:
        return None
    if task.deadline_at_ms and task.deadline_at_ms <= now_ms:
        detail = f"not done within {task.spec.deadline_ms / 1000:g} s"
        why = TaskReason.DEADLINE_EXCEEDED
        after = ended(task, TaskState.FAILED, why, detail=detail, now_ms=now_ms)
        return Move(before=task, after=after)
    timeout_ms = task.spec.attempt_timeout_ms
    running = task.state is TaskState.RUNNING
    if running and timeout_ms and task.started_at_ms + timeout_ms <= now_ms:
        detail = f"the attempt took longer than {timeout_ms / 1000:g} s"
        after = taken_back(task, TaskReason.ATTEMPT_TIMEOUT, detail=detail, now_ms=now_ms)
        return Move(before=task, after=after)
    return None


def unaccepted(task: Task, now_ms: int) -> Move | None:
    """Return the move that takes an assignment back that nobody accepted in time."""
    if task.state is not TaskState.ASSIGNED:
        return None
    detail = f"instance {task.instance_id!r} did not accept it in time"
    after = taken_back(task, TaskReason.NOT_ACCEPTED, detail=detail, now_ms=now_ms)
    return Move(before=task, after=after)


def lost(view: NamespaceView, task: Task, now_ms: int) -> Move | None:
    """Return the move that takes back a lease whose holder no longer works on it; None: it does.

    A lease lasts as long as its process beats and its agent is not stopped by an operator.
    """
    if not task.state.is_held:
        return None
    entry = view.agents.get(task.agent_id)
    if entry is not None and entry.agent.is_stopped:
        agent = entry.agent
        held = Require(Collection.AGENTS, agent.agent_id, Expect(revision=agent.revision))
        return deactivated(view, task, held, agent.status_reason, now_ms)
    live = view.instances.get(task.instance_id)
    if live is None:
        expect, what = ABSENT, "has left"
    elif live.instance.generation != task.instance_generation:
        expect, what = Expect(revision=live.instance.revision), "was replaced by a newer process"
    elif live.instance.state in {InstanceState.SILENT, InstanceState.LOST}:
        expect, what = Expect(revision=live.instance.revision), "fell silent"
    else:
        return None
    detail = f"instance {task.instance_id!r} {what}"
    after = taken_back(task, TaskReason.LEASE_LOST, detail=detail, now_ms=now_ms)
    held = Require(Collection.INSTANCES, task.instance_id, expect)
    return Move(before=task, after=after, requires=(held,))


def deactivated(view: NamespaceView, task: Task, held: Require, reason: str, now_ms: int) -> Move:
    """Return the move that takes a lease from an agent that was stopped, and finds it a home.

    `held` is the condition that the agent is still stopped. One that has begun and must not be
    started twice fails instead.
    """
    if task.state is TaskState.RUNNING and task.spec.on_drain is DrainAction.FAIL:
        why, detail = TaskReason.DEACTIVATED, f"it must not be started twice: {reason}"
        after = ended(task, TaskState.FAILED, why, detail=detail, now_ms=now_ms)
        return Move(before=task, after=after, requires=(held,))
    after = taken_back(task, TaskReason.DEACTIVATED, detail=reason, now_ms=now_ms)
    move = Move(before=task, after=after, requires=(held,))
    if not move.requeues:
        return move
    home = home_of(view, want_of(after))
    moved = homed(after, home, now_ms)
    if moved is None:
        return move
    if home.fate is Fate.FAIL:
        # From the lease itself: its hop says that nobody was left to take over.
        why = TaskReason.NO_AGENT
        failed = ended(task, TaskState.FAILED, why, detail=home.detail, now_ms=now_ms)
        return replace(move, after=failed, requires=_both(held, home))
    return replace(move, after=moved.after, requires=_both(held, home))


def homed(task: Task, home: Home, now_ms: int) -> Move | None:
    """Return what its home does to a waiting task; None: it goes on waiting."""
    if task.state is not TaskState.PENDING:
        return None
    match home.fate:
        case Fate.WAIT:
            return None
        case Fate.FREE:
            spec = replace(task.spec, agent_name="")
            after = replace(task, spec=spec, detail=home.detail)
        case Fate.FAIL:
            why = TaskReason.NO_AGENT
            after = ended(task, TaskState.FAILED, why, detail=home.detail, now_ms=now_ms)
    return Move(before=task, after=after, requires=home.requirements())


def _both(held: Require, home: Home) -> tuple[Require, ...]:
    return (held, *(one for one in home.requirements() if one.key != held.key))
