"""How a task moves: pure functions from a task to what follows. Limits are in `task_limits`.

A lease is (task, instance, epoch). Whoever writes under a lease that has ended gets `LeaseFenced`,
and nothing changes. The epoch grows with every assignment, cancellation and requeue, never falls,
and stays where it is when a task succeeds or fails for good. Functions that are called idempotent
give back the very task they were given when there is nothing left to do.
"""

from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.errors import (
    FieldViolation,
    InvalidArgument,
    InvalidTransition,
)
from controlplane.domain.task_limits import validate_spec
from controlplane.domain.tasks import MAX_HOPS, Hop, Task, TaskReason, TaskSpec, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
)

__all__ = [
    "MAX_RETRY_PAUSE_MS",
    "RETRY_PAUSE_MS",
    "Lease",
    "accepted",
    "assigned",
    "completed",
    "ended",
    "failed",
    "progressed",
    "retry_pause_ms",
    "submitted",
    "taken_back",
    "validate_lease",
    "validate_spec",
]

RETRY_PAUSE_MS: Final = 1_000
"""Pause after the first failed attempt; doubled for each further one."""

MAX_RETRY_PAUSE_MS: Final = 60_000
"""Longest pause between attempts."""

_UNCHARGED: Final = frozenset(
    {
        TaskReason.NOT_ACCEPTED,
        TaskReason.RELEASED,
        TaskReason.DRAINED,
        TaskReason.DEACTIVATED,
        TaskReason.NO_AGENT,
    }
)
"""Ends of a lease that are no fault of the task or the agent: the attempt does not count."""

_PAUSED: Final = frozenset({TaskReason.AGENT_FAILED, TaskReason.ATTEMPT_TIMEOUT})
"""Ends of an attempt after which the next one waits: trying at once would fail the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one instance to work on a task, until it ends."""

    task_id: str
    instance_id: str
    epoch: int


def submitted(task_id: str, spec: TaskSpec, *, payload_bytes: int, now_ms: int) -> Task:
    """Make a new task of a valid declaration; it waits."""
    deadline_at_ms = now_ms + spec.deadline_ms if spec.deadline_ms else 0
    return Task(
        task_id=task_id, spec=spec, payload_bytes=payload_bytes, deadline_at_ms=deadline_at_ms
    )


def validate_lease(lease: Lease) -> None:
    """Check that a lease is named completely.

    Raises:
        InvalidArgument: `lease.task_id`, `lease.instance_id` or `lease.epoch` is missing.
    """
    missing = [name for name in ("task_id", "instance_id", "epoch") if not getattr(lease, name)]
    if missing:
        raise InvalidArgument(*(FieldViolation(f"lease.{m}", "is required") for m in missing))


def assigned(task: Task, *, agent_id: str, instance_id: str, generation: int, now_ms: int) -> Task:
    """Lease a waiting task to a process (instance and generation), under a new epoch.

    Raises:
        InvalidTransition: it is not PENDING.
    """
    if task.state is not TaskState.PENDING:
        raise _no_move(task, TaskState.ASSIGNED)
    return replace(
        task,
        state=TaskState.ASSIGNED,
        reason=TaskReason.NONE,
        detail="",
        epoch=task.epoch + 1,
        agent_id=agent_id,
        instance_id=instance_id,
        instance_generation=generation,
        assigned_at_ms=now_ms,
        not_before_ms=0,
        cohort="",
    )


def accepted(task: Task, lease: Lease, *, cohort: str, now_ms: int) -> Task:
    """Begin an attempt, which counts from now on. Idempotent while the attempt runs.

    `cohort` is the step of a rollout that the attempt counts for; empty: none.

    Raises:
        LeaseFenced: the lease has ended.
    """
    _require_lease(task, lease)
    if task.state is TaskState.RUNNING:
        return task
    return replace(
        task,
        state=TaskState.RUNNING,
        attempts=task.attempts + 1,
        started_at_ms=now_ms,
        cohort=cohort,
    )


def progressed(
    task: Task,
    lease: Lease,
    *,
    progress: float,
    message: str,
    checkpoint_bytes: int | None,
    now_ms: int,
) -> Task:
    """Note how far an attempt is; `checkpoint_bytes` is None if the last checkpoint stays.

    Raises:
        LeaseFenced: the lease has ended.
        InvalidTransition: the lease was not accepted yet.
    """
    _require_attempt(task, lease, TaskState.RUNNING)
    kept = task.checkpoint_bytes if checkpoint_bytes is None else checkpoint_bytes
    return replace(
        task,
        progress=progress,
        progress_message=message,
        checkpoint_bytes=kept,
        updated_at_ms=now_ms,
    )


def completed(task: Task, lease: Lease, *, result_bytes: int, now_ms: int) -> Task:
    """End a task as SUCCEEDED. Idempotent for the lease that ended it so; its first result stays.

    Raises:
        LeaseFenced: the lease has ended otherwise.
        InvalidTransition: the lease was not accepted yet.
    """
    if task.state is TaskState.SUCCEEDED and _names(lease, task):
        return task
    _require_attempt(task, lease, TaskState.SUCCEEDED)
    over = _lease_over(task, TaskReason.NONE, detail="", now_ms=now_ms)
    done = _finished(over, TaskState.SUCCEEDED, TaskReason.NONE, detail="", now_ms=now_ms)
    return replace(done, progress=1.0, result_bytes=result_bytes)


def failed(
    task: Task, lease: Lease, *, detail: str, permanent: bool, release: bool, now_ms: int
) -> Task:
    """End a lease at the word of its holder: FAILED for good, or PENDING again.

    With `release` nothing went wrong and the attempt does not count; with `permanent` no retry
    mends it. A failure that is reported before the lease was accepted counts as an attempt, so that
    a task nobody can even begin comes to an end. A task that comes back a second time in a row
    waits a second even when it is released, so that it cannot spin between plane and instance.

    Raises:
        LeaseFenced: the lease has ended.
    """
    _require_lease(task, lease)
    if release:
        again = bool(task.hops) and task.hops[-1].reason is TaskReason.RELEASED
        over = _lease_over(task, TaskReason.RELEASED, detail=detail, now_ms=now_ms)
        not_before_ms = now_ms + RETRY_PAUSE_MS if again else 0
        return _requeued(over, TaskReason.RELEASED, detail, not_before_ms)
    if task.state is TaskState.ASSIGNED:
        task = replace(task, attempts=task.attempts + 1)
    if not permanent:
        return _attempt_over(task, TaskReason.AGENT_FAILED, detail=detail, now_ms=now_ms)
    reason = TaskReason.AGENT_REFUSED
    over = _lease_over(task, reason, detail=detail, now_ms=now_ms)
    return _finished(over, TaskState.FAILED, reason, detail=detail, now_ms=now_ms)


def taken_back(task: Task, reason: TaskReason, *, detail: str = "", now_ms: int) -> Task:
    """End a lease without a word of its holder: PENDING again, or FAILED when no attempt is left.

    LEASE_LOST and ATTEMPT_TIMEOUT stay charged; DRAINED, DEACTIVATED and NOT_ACCEPTED are not. Only
    ATTEMPT_TIMEOUT makes the next attempt wait.

    Raises:
        InvalidTransition: nobody holds a lease of it.
    """
    if not task.state.is_held:
        raise _no_move(task, TaskState.PENDING)
    return _attempt_over(task, reason, detail=detail, now_ms=now_ms)


def ended(task: Task, state: TaskState, reason: TaskReason, *, detail: str, now_ms: int) -> Task:
    """End a task without its holder, if it has one: FAILED or CANCELLED.

    Raises:
        InvalidTransition: it has ended already.
    """
    if state not in {TaskState.FAILED, TaskState.CANCELLED}:
        raise ValueError(f"a task is not ended as {state} from outside")
    if task.state.is_terminal:
        raise _no_move(task, state)
    if task.state.is_held:
        task = _lease_over(task, reason, detail=detail, now_ms=now_ms)
    if state is TaskState.CANCELLED:
        task = replace(task, epoch=task.epoch + 1)
    return _finished(task, state, reason, detail=detail, now_ms=now_ms)


def retry_pause_ms(attempts: int) -> int:
    """Return the pause after so many attempts that count: 1 s, doubled for each, at most 60 s."""
    doublings = min(max(attempts - 1, 0), 16)  # 2**16 s is far beyond the longest pause
    return min(RETRY_PAUSE_MS << doublings, MAX_RETRY_PAUSE_MS)


def _attempt_over(task: Task, reason: TaskReason, *, detail: str, now_ms: int) -> Task:
    """End a lease for a reason; the task is tried again if it has attempts left."""
    over = _lease_over(task, reason, detail=detail, now_ms=now_ms)
    if reason not in _UNCHARGED and over.attempts >= over.spec.max_attempts:
        said = detail or f"attempt {over.attempts} of {over.spec.max_attempts}: {reason}"
        last = TaskReason.ATTEMPTS_EXHAUSTED
        return _finished(over, TaskState.FAILED, last, detail=said, now_ms=now_ms)
    not_before_ms = now_ms + retry_pause_ms(over.attempts) if reason in _PAUSED else 0
    return _requeued(over, reason, detail, not_before_ms)


def _lease_over(task: Task, reason: TaskReason, *, detail: str, now_ms: int) -> Task:
    """Note the lease as a hop, and give its attempt back where it does not count."""
    running = task.state is TaskState.RUNNING
    hop = Hop(
        epoch=task.epoch,
        agent_id=task.agent_id,
        instance_id=task.instance_id,
        assigned_at_ms=task.assigned_at_ms,
        started_at_ms=task.started_at_ms if running else 0,
        ended_at_ms=now_ms,
        reason=reason,
        detail=detail,
    )
    given_back = 1 if running and reason in _UNCHARGED else 0
    return replace(
        task,
        attempts=task.attempts - given_back,
        hops=(*task.hops, hop)[-MAX_HOPS:],
        hop_count=task.hop_count + 1,
    )


def _requeued(task: Task, reason: TaskReason, detail: str, not_before_ms: int) -> Task:
    """Return a task whose lease is over to the queue, in its old place."""
    return replace(
        task,
        state=TaskState.PENDING,
        reason=reason,
        detail=detail,
        epoch=task.epoch + 1,
        agent_id="",
        instance_id="",
        instance_generation=0,
        assigned_at_ms=0,
        not_before_ms=not_before_ms,
        cohort="",
    )


def _finished(
    task: Task, state: TaskState, reason: TaskReason, *, detail: str, now_ms: int
) -> Task:
    return replace(
        task, state=state, reason=reason, detail=detail, not_before_ms=0, ended_at_ms=now_ms
    )


def _names(lease: Lease, task: Task) -> bool:
    return lease.epoch == task.epoch and lease.instance_id == task.instance_id


def _require_lease(task: Task, lease: Lease) -> None:
    if not task.state.is_held or not _names(lease, task):
        raise LeaseFenced(
            task.task_id, epoch=lease.epoch, current=task.epoch, state=str(task.state)
        )


def _require_attempt(task: Task, lease: Lease, wanted: TaskState) -> None:
    _require_lease(task, lease)
    if task.state is not TaskState.RUNNING:
        raise _no_move(task, wanted)


def _no_move(task: Task, wanted: TaskState) -> InvalidTransition:
    return InvalidTransition(f"task {task.task_id!r}", current=str(task.state), wanted=str(wanted))
