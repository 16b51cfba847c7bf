"""What a move of a task writes, in one commit: nobody writes `Collection.TASKS` otherwise.

Beside the task itself: the slots its holder has taken, the outcomes that a rollout counts, and the
data it carries. Slots and outcomes are counters, so moves of different tasks never contend.
"""

from collections.abc import Iterator

from controlplane.domain.rollouts.model import outcome_counter
from controlplane.domain.tasks import Task
from controlplane.services.ports import ABSENT, Collection, Count, Delete, Expect, Put, Step
from controlplane.services.tasks.data import TaskPart, data_key
from controlplane.services.tasks.index import attempt_failed


def slots_counter(instance_id: str) -> str:
    """Return the counter of the leases that an instance holds."""
    return f"slots/{instance_id}"


def task_steps(
    before: Task | None,
    after: Task,
    *,
    slots: int | None = None,
    payload: bytes | None = None,
    checkpoint: bytes | None = None,
    result: bytes | None = None,
) -> tuple[Step, ...]:
    """Return the steps that make `after` of `before` (None: it is new).

    The first step puts the task, on condition that it is as it was seen; the slot of a new holder,
    if there is one, is the second.

    Args:
        before: The task as it was seen.
        after: The task as it is to be; at most one lease may have ended in between.
        slots: The most leases that the new holder may have; for an assignment.
        payload: What was submitted; for a new task.
        checkpoint: It replaces the last one; empty removes it, None leaves it.
        result: What came out; for a task that succeeds.
    """
    seen = ABSENT if before is None else Expect(revision=before.revision)
    return (
        Put(Collection.TASKS, after.task_id, after, seen),
        *_slot_steps(before, after, slots),
        *_outcome_steps(before, after),
        *_data_steps(before, after.task_id, payload, checkpoint, result),
    )


def removal_steps(task: Task) -> tuple[Step, ...]:
    """Return the steps that remove a task that has ended, with all it carries.

    The first step holds the task to the revision that was seen.
    """
    parts = (
        (TaskPart.PAYLOAD, task.payload_bytes),
        (TaskPart.CHECKPOINT, task.checkpoint_bytes),
        (TaskPart.RESULT, task.result_bytes),
    )
    return (
        Delete(Collection.TASKS, task.task_id, Expect(revision=task.revision)),
        *(
            Delete(Collection.TASK_DATA, data_key(task.task_id, part))
            for part, size in parts
            if size
        ),
    )


def _slot_steps(before: Task | None, after: Task, slots: int | None) -> Iterator[Step]:
    holder = _holder(before)
    next_holder = _holder(after)
    if holder == next_holder:
        return
    if next_holder:
        yield Count(slots_counter(next_holder), 1, at_most=slots)
    if holder:
        yield Count(slots_counter(holder), -1)


def _holder(task: Task | None) -> str:
    return task.instance_id if task is not None and task.state.is_held else ""


def _outcome_steps(before: Task | None, after: Task) -> Iterator[Step]:
    """Count the verdict on an attempt that has just ended, for the rollout it began under."""
    if before is None or not before.cohort or after.hop_count == before.hop_count:
        return
    hop = after.hops[-1]
    bad = attempt_failed(hop.started_at_ms, hop.reason)
    if bad is not None:
        outcome = "failed" if bad else "ok"
        yield Count(outcome_counter(before.cohort, hop.agent_id, outcome), 1)


def _data_steps(
    before: Task | None,
    task_id: str,
    payload: bytes | None,
    checkpoint: bytes | None,
    result: bytes | None,
) -> Iterator[Step]:
    for part, data in (
        (TaskPart.PAYLOAD, payload),
        (TaskPart.CHECKPOINT, checkpoint),
        (TaskPart.RESULT, result),
    ):
        if data:
            yield Put(Collection.TASK_DATA, data_key(task_id, part), data)
    if checkpoint == b"" and before is not None and before.checkpoint_bytes:
        yield Delete(Collection.TASK_DATA, data_key(task_id, TaskPart.CHECKPOINT))
