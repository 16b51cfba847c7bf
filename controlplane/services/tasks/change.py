"""How one task is changed for a caller: decide, commit, and decide again if somebody was faster.

The decision is made from memory, so that the good path is one commit and no read. Memory may lag
behind what another replica assigned a moment ago; therefore the ledger is asked before anything is
refused, and before an answer that writes nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from controlplane.domain.errors import (
    FailedPrecondition,
    StoreUnavailable,
)
from controlplane.domain.tasks import Task
from controlplane.domain.work_refusals import (
    TaskNotFound,
)
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Ledger,
    Step,
    Transaction,
)
from controlplane.services.read_model import ReadModel
from controlplane.services.tasks.steps import task_steps

MAX_ROUNDS: Final = 5
"""Rounds of decide and commit before contention is reported: one task has few writers."""


class Assigner(Protocol):
    """Who gives waiting tasks to instances."""

    def wake(self, namespace: str, made: Iterable[str] = ()) -> None:
        """Be told that a task waits or a slot is free; returns at once.

        `made` are tasks that this replica has just taken in: it has the first turn at them.
        """


class Beside(Protocol):
    """What is written in the commit of a task besides what `task_steps` says."""

    async def steps(self, namespace: str, task: Task, *, stored: bool) -> tuple[Step, ...]:
        """Return the steps that go with the task as it is to be.

        With `stored` they are decided on the ledger: memory was not good enough.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """What a caller wants of a task."""

    decide: Callable[[Task], Task]
    """Returns what follows, or the same task if nothing has to be written; raises a refusal."""
    audit: Callable[[Task], AuditEntry]
    """Returns the audit entry of what follows."""
    checkpoint: bytes | None = None
    result: bytes | None = None
    """Data that comes with it, see `task_steps`."""
    beside: Beside | None = None


async def change_task(
    ledger: Ledger, read_model: ReadModel, namespace: str, task_id: str, change: TaskChange
) -> Task:
    """Carry out a change; return the task as it is afterwards.

    Raises:
        TaskNotFound: there is no such task.
        FailedPrecondition: the decision refuses, on the newest state.
        StoreUnavailable: too many callers change the task at once, or the store is away.
    """
    task = read_model.view(namespace).work.tasks.all.get(task_id)
    stored = False
    for _ in range(MAX_ROUNDS):
        if task is None:
            task, stored = await stored_task(ledger, namespace, task_id), True
        try:
            after = change.decide(task)
        except FailedPrecondition:
            if stored:
                raise
            task = None
            continue
        if after is task and stored:
            return task
        if after is not task:
            steps = task_steps(task, after, checkpoint=change.checkpoint, result=change.result)
            if change.beside is not None:
                steps += await change.beside.steps(namespace, after, stored=stored)
            audit = change.audit(after)
            try:
                committed = await ledger.commit(
                    Transaction(namespace=namespace, steps=steps, audit=audit)
                )
            except ConditionFailed:
                pass
            else:
                return as_committed(after, committed)
        task = None
    raise StoreUnavailable("too many callers change this task at once")


async def stored_task(ledger: Ledger, namespace: str, task_id: str) -> Task:
    """Return a task as the ledger has it.

    Raises:
        TaskNotFound: there is no such task.
    """
    (record,) = await ledger.read(namespace, Collection.TASKS, (task_id,))
    if record is None:
        raise TaskNotFound(task_id)
    task: Task = record.value
    return task


def as_committed(task: Task, committed: Committed) -> Task:
    """Return a task with what its commit has made of it."""
    return replace(
        task,
        revision=committed.revision,
        created_at_ms=task.created_at_ms or committed.at_ms,
        updated_at_ms=committed.at_ms,
    )
