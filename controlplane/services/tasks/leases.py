"""What the holder of a lease says about its task: accepted, under way, done, failed.

Every call names the lease, and a call under a lease that has ended changes nothing (LeaseFenced).
On the good path a call is one commit, decided from memory.
"""

from collections.abc import Callable

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.identity import Caller
from controlplane.domain.task_limits import data_violations, validate_message, validate_progress
from controlplane.domain.task_rules import (
    Lease,
    accepted,
    completed,
    failed,
    progressed,
    validate_lease,
)
from controlplane.domain.tasks import Task, TaskState
from controlplane.services.ports import AuditEntry, Clock, Ledger
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.tasks.change import Assigner, TaskChange, change_task
from controlplane.services.tasks.session_pins import SessionPins


class TaskLeases:
    """The writes of those who hold leases. Belongs to one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        assigner: Assigner,
        clock: Clock,
        *,
        pin_ms: int,
    ) -> None:
        """Prepare the use cases; a session without tasks keeps its pin for `pin_ms`."""
        self._ledger = ledger
        self._read_model = read_model
        self._assigner = assigner
        self._clock = clock
        self._pins = SessionPins(ledger, read_model, clock, pin_ms=pin_ms)

    async def accept(self, namespace: str, lease: Lease, *, caller: Caller) -> Task:
        """Begin an attempt; idempotent for the same lease.

        It counts for the rollout whose route names the agent, and pins the session of the task to
        the agent unless it is pinned already.

        Raises:
            InvalidArgument: the lease is not named completely.
            TaskNotFound: there is no such task.
            LeaseFenced: the lease has ended.
        """
        view = self._read_model.view(namespace)
        now_ms = self._clock.store_ms()

        def decide(task: Task) -> Task:
            return accepted(task, lease, cohort=_cohort(view, task.agent_id), now_ms=now_ms)

        change = TaskChange(decide=decide, audit=_audit(caller, "AcceptTask"), beside=self._pins)
        return await self._change(namespace, lease, change)

    async def progress(
        self,
        namespace: str,
        lease: Lease,
        *,
        progress: float,
        message: str,
        checkpoint: bytes | None,
        caller: Caller,
    ) -> Task:
        """Note how far an attempt is; a checkpoint replaces the last one, None leaves it.

        Raises:
            InvalidArgument: a field is missing or too large.
            TaskNotFound: there is no such task.
            LeaseFenced: the lease has ended.
            InvalidTransition: the lease was not accepted yet.
        """
        size = len(checkpoint) if checkpoint is not None else None
        validate_progress(progress, message, size)
        now_ms = self._clock.store_ms()

        def decide(task: Task) -> Task:
            return progressed(
                task,
                lease,
                progress=progress,
                message=message,
                checkpoint_bytes=size,
                now_ms=now_ms,
            )

        change = TaskChange(
            decide=decide, audit=_audit(caller, "ReportProgress"), checkpoint=checkpoint
        )
        return await self._change(namespace, lease, change)

    async def complete(
        self, namespace: str, lease: Lease, *, result: bytes, caller: Caller
    ) -> Task:
        """End a task as SUCCEEDED; idempotent for the same lease, whose first result stays.

        Raises:
            InvalidArgument: a field is missing or too large.
            TaskNotFound: there is no such task.
            LeaseFenced: the lease has ended otherwise.
            InvalidTransition: the lease was not accepted yet.
        """
        violations = tuple(data_violations("result", len(result)))
        if violations:
            raise InvalidArgument(*violations)
        now_ms = self._clock.store_ms()

        def decide(task: Task) -> Task:
            return completed(task, lease, result_bytes=len(result), now_ms=now_ms)

        change = TaskChange(decide=decide, audit=_audit(caller, "CompleteTask"), result=result)
        return await self._change(namespace, lease, change, frees_slot=True)

    async def fail(
        self,
        namespace: str,
        lease: Lease,
        *,
        detail: str,
        permanent: bool,
        release: bool,
        caller: Caller,
    ) -> Task:
        """End an attempt as failed, or give the task back unharmed (`release`).

        Not idempotent: whoever repeats it finds that the lease has ended (LeaseFenced), which is
        what he wanted. A lease that was not accepted may be failed and released too.

        Raises:
            InvalidArgument: a field is missing or too large, or both `permanent` and `release`.
            TaskNotFound: there is no such task.
            LeaseFenced: the lease has ended.
        """
        validate_message("detail", detail)
        if permanent and release:
            raise InvalidArgument(FieldViolation("release", "excludes permanent"))
        now_ms = self._clock.store_ms()

        def decide(task: Task) -> Task:
            return failed(
                task, lease, detail=detail, permanent=permanent, release=release, now_ms=now_ms
            )

        change = TaskChange(decide=decide, audit=_audit(caller, "FailTask"))
        return await self._change(namespace, lease, change, frees_slot=True)

    async def _change(
        self, namespace: str, lease: Lease, change: TaskChange, *, frees_slot: bool = False
    ) -> Task:
        validate_lease(lease)
        task = await change_task(self._ledger, self._read_model, namespace, lease.task_id, change)
        if frees_slot:
            self._assigner.wake(namespace)
        return task


def _cohort(view: NamespaceView, agent_id: str) -> str:
    """Return the step of a rollout that attempts of an agent count for now; empty: none."""
    entry = view.agents.get(agent_id)
    route = view.work.routes.get(entry.agent.spec.name) if entry is not None else None
    if route is None or not any(share.agent_id == agent_id for share in route.shares):
        return ""
    return route.cohort


_EVENTS = {
    ("AcceptTask", TaskState.RUNNING): "task.accepted",
    ("ReportProgress", TaskState.RUNNING): "task.progressed",
    ("CompleteTask", TaskState.SUCCEEDED): "task.completed",
    ("FailTask", TaskState.PENDING): "task.requeued",
    ("FailTask", TaskState.FAILED): "task.failed",
}
"""Public event of a call that brought its task into a state."""


def _audit(caller: Caller, method: str) -> Callable[[Task], AuditEntry]:
    def entry(task: Task) -> AuditEntry:
        return AuditEntry(
            actor=caller.name,
            method=method,
            object=f"tasks/{task.task_id}",
            event=_EVENTS[method, task.state],
            reason=task.detail,
            details={"agent_id": task.agent_id, "attempts": str(task.attempts)},
        )

    return entry
