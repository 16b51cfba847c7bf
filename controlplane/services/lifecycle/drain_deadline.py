"""What a drain's deadline does to the tasks that its target still holds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.drain_rules import action_now
from controlplane.domain.drains import Drain
from controlplane.domain.task_rules import ended, taken_back
from controlplane.domain.tasks import DrainAction, Task, TaskReason, TaskState
from controlplane.services.families import PLANE
from controlplane.services.lifecycle.drain_steps import drain_object
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    Transaction,
)
from controlplane.services.tasks.steps import task_steps

TASKS_AT_ONCE: Final = 50
"""Tasks that lose their lease in one commit: a millisecond of the store."""

_DETAIL: Final = "the drain of its agent reached the deadline"


async def end_leases(
    ledger: Ledger, namespace: str, drain: Drain, held: Sequence[Task], now_ms: int
) -> Drain:
    """Let the class of each task decide, now that the deadline has passed; return the drain.

    Every commit holds the drain's record and counts in it, so that of two replicas that do this at
    once, one goes on and the other starts again from what it reads. Tasks that ended meanwhile are
    left for the next look.
    """
    due: list[tuple[Task, DrainAction]] = []
    extended = 0
    for task in held:
        action = action_now(drain, task, now_ms)
        if action is DrainAction.EXTEND:
            extended += 1
        elif action is not None:
            due.append((task, action))
    if not drain.forced or drain.extended < extended:
        marked = replace(drain, forced=True, extended=max(extended, drain.extended))
        stored = await _commit(ledger, namespace, drain, marked, (), now_ms)
        if stored is None:
            return drain
        drain = stored
    for start in range(0, len(due), TASKS_AT_ONCE):
        some = due[start : start + TASKS_AT_ONCE]
        stored = await _commit(ledger, namespace, drain, _counted(drain, some), some, now_ms)
        if stored is not None:
            drain = stored
            continue
        for one in some:
            # One of them has ended by itself: the others are not to wait for it.
            stored = await _commit(ledger, namespace, drain, _counted(drain, [one]), [one], now_ms)
            drain = stored if stored is not None else drain
    return drain


def _counted(drain: Drain, some: Sequence[tuple[Task, DrainAction]]) -> Drain:
    requeued = sum(action is DrainAction.REQUEUE for _, action in some)
    return replace(
        drain,
        requeued=drain.requeued + requeued,
        failed=drain.failed + len(some) - requeued,
    )


async def _commit(
    ledger: Ledger,
    namespace: str,
    before: Drain,
    after: Drain,
    some: Sequence[tuple[Task, DrainAction]],
    now_ms: int,
) -> Drain | None:
    """Write the drain with the tasks it ends; None if one of them is not as it was seen."""
    steps = [
        step
        for task, action in some
        for step in task_steps(task, _without_lease(task, action, now_ms))
    ]
    drain_step = Put(Collection.DRAINS, after.key, after, Expect(revision=before.revision))
    transaction = Transaction(
        namespace=namespace,
        steps=(drain_step, *steps),
        audit=AuditEntry(
            actor=PLANE,
            method="Drain",
            object=drain_object(after),
            event="drain.forced",
            reason=after.reason,
            details={
                "task_ids": ",".join(task.task_id for task, _ in some),
                "extended": str(after.extended),
            },
        ),
    )
    try:
        committed = await ledger.commit(transaction)
    except ConditionFailed:
        return None
    return replace(after, revision=committed.revision)


def _without_lease(task: Task, action: DrainAction, now_ms: int) -> Task:
    if action is DrainAction.FAIL:
        return ended(task, TaskState.FAILED, TaskReason.DRAINED, detail=_DETAIL, now_ms=now_ms)
    return taken_back(task, TaskReason.DRAINED, detail=_DETAIL, now_ms=now_ms)
