"""Tasks for those who submit them: written to the ledger, read from memory.

A task is accepted for any agent name and any capabilities, known or not: it waits until somebody
can take it, or until its deadline. Whoever wants to know first asks `Discover`.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.access.refusals import QuotaExceeded
from controlplane.domain.errors import (
    DomainError,
    LimitExceeded,
)
from controlplane.domain.identity import Caller
from controlplane.domain.namespaces import Quota
from controlplane.domain.task_limits import validate_message, validate_spec
from controlplane.domain.task_rules import ended, submitted
from controlplane.domain.tasks import Task, TaskReason, TaskSpec, TaskState
from controlplane.domain.work_refusals import (
    TaskNotFound,
)
from controlplane.services.families import commit_each
from controlplane.services.namespaces.quotas import NO_QUOTAS, Claims, IsThere, QuotaKeeper
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    Committed,
    IdSource,
    Ledger,
    Position,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel
from controlplane.services.tasks.change import (
    Assigner,
    TaskChange,
    as_committed,
    change_task,
    stored_task,
)
from controlplane.services.tasks.data import TaskData, TaskPart
from controlplane.services.tasks.follow import BOOKMARK_SECONDS, follow_tasks
from controlplane.services.tasks.pages import TaskFilter, TaskPage, task_page
from controlplane.services.tasks.steps import task_steps

__all__ = ["Submission", "TaskContents", "TaskFilter", "TaskPage", "Tasks"]

RETRY_WHEN_FULL_SECONDS: Final = 1.0
"""When to try again after too many tasks waited: a fleet that keeps up needs no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One task to be made."""

    spec: TaskSpec
    payload: bytes = b""
    request: RequestKey | None = None
    """The same request within 10 minutes is the same task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContents:
    """What a task carries; empty where there is nothing."""

    payload: bytes
    checkpoint: bytes
    result: bytes


class Tasks:
    """Submits, cancels and shows tasks. Belongs to one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        ids: IdSource,
        data: TaskData,
        assigner: Assigner,
        clock: Clock,
        *,
        max_waiting: int,
        quotas: QuotaKeeper = NO_QUOTAS,
    ) -> None:
        """Prepare the use cases.

        At most `max_waiting` tasks of a namespace may wait, or fewer by its quota. Replicas count
        for themselves and hear of each other within milliseconds, so a burst may exceed it by what
        is under way.
        """
        self._ledger = ledger
        self._read_model = read_model
        self._ids = ids
        self._data = data
        self._assigner = assigner
        self._clock = clock
        self._max_waiting = max_waiting
        self._quotas = quotas

    async def submit(self, namespace: str, submission: Submission, *, caller: Caller) -> Task:
        """Make a task; `caller` is its submitter unless it names one.

        Raises:
            InvalidArgument: with every violation, as `spec.<path>` or `payload`.
            LimitExceeded: too many tasks wait; QuotaExceeded by the quota of the namespace.
            RequestIdReused: the request was something else.
            TaskNotFound: it was submitted before, and is gone already.
        """
        (outcome,) = await self._submit(namespace, (submission,), caller, "SubmitTask")
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def submit_many(
        self, namespace: str, submissions: Sequence[Submission], *, caller: Caller
    ) -> list[Task | DomainError]:
        """Make tasks, each for itself, in one round trip; the outcomes are in order."""
        return await self._submit(namespace, submissions, caller, "BatchSubmitTasks")

    async def cancel(self, namespace: str, task_id: str, *, reason: str, caller: Caller) -> Task:
        """Call a task off, whatever it is doing; idempotent.

        Raises:
            InvalidArgument: the reason is too long.
            TaskNotFound: there is no such task.
            InvalidTransition: it has ended otherwise.
        """
        validate_message("reason", reason)
        now_ms = self._clock.store_ms()

        def decide(task: Task) -> Task:
            if task.state is TaskState.CANCELLED:
                return task
            cancelled = TaskReason.CANCELLED
            return ended(task, TaskState.CANCELLED, cancelled, detail=reason, now_ms=now_ms)

        def audit(task: Task) -> AuditEntry:
            return _audit(caller, "CancelTask", task.task_id, "task.cancelled", reason=reason)

        change = TaskChange(decide=decide, audit=audit)
        task = await change_task(self._ledger, self._read_model, namespace, task_id, change)
        self._assigner.wake(namespace)
        return task

    async def get(self, namespace: str, task_id: str, *, min_revision: int) -> Task:
        """Return one task; the ledger is asked for one that this replica has not heard of.

        Raises:
            TaskNotFound: there is no such task.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        task = view.work.tasks.all.get(task_id)
        return task if task is not None else await stored_task(self._ledger, namespace, task_id)

    async def contents(self, namespace: str, task_id: str) -> TaskContents:
        """Return what a task carries as it is now; all of it is empty if there is no such task."""
        parts = (TaskPart.PAYLOAD, TaskPart.CHECKPOINT, TaskPart.RESULT)
        payload, checkpoint, result = await self._data.read(namespace, task_id, parts)
        return TaskContents(payload=payload, checkpoint=checkpoint, result=result)

    async def page(
        self,
        namespace: str,
        wanted: TaskFilter,
        *,
        after: str,
        limit: int,
        min_revision: int,
    ) -> TaskPage:
        """Return tasks that match, newest first, from the cursor `after` on (empty: all).

        Tasks that come and go between pages neither repeat nor hide others.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        return await task_page(view, wanted, after=after, limit=limit)

    def follow(
        self,
        namespace: str,
        task_ids: Sequence[str],
        *,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> AsyncGenerator[Task | Position, None]:
        """Yield tasks in their newest state, now and after every change, until all have ended.

        A position comes after `bookmark_seconds` of silence. Raises TaskNotFound, before anything
        else, naming the first task that does not exist.
        """
        return follow_tasks(
            self._ledger, self._read_model, namespace, task_ids, bookmark_seconds=bookmark_seconds
        )

    async def _submit(
        self, namespace: str, submissions: Sequence[Submission], caller: Caller, method: str
    ) -> list[Task | DomainError]:
        outcomes: dict[int, Task | DomainError] = {}
        planned: dict[int, Task] = {}
        for index, submission in enumerate(submissions):
            try:
                planned[index] = self._planned(submission, caller)
            except DomainError as refusal:
                outcomes[index] = refusal
        with self._quotas.claims(namespace) as claims:
            refusals = self._without_room(namespace, planned, claims)
            if refusals:
                outcomes |= await self._refused(namespace, submissions, refusals)
                planned = {i: task for i, task in planned.items() if i not in outcomes}
            results = await commit_each(
                self._ledger,
                [
                    _submission(namespace, task, submissions[index], caller, method)
                    for index, task in planned.items()
                ],
            )
        replays: dict[int, str] = {}
        for (index, task), result in zip(planned.items(), results, strict=True):
            if isinstance(result, Committed) and result.replayed:
                replays[index] = result.answer
            elif isinstance(result, Committed):
                self._data.remember(namespace, task.task_id, submissions[index].payload)
                outcomes[index] = as_committed(task, result)
            elif isinstance(result, DomainError):
                outcomes[index] = result
            else:
                raise result
        if replays:
            outcomes |= await self._replayed(namespace, replays)
        self._assigner.wake(namespace, [task.task_id for task in planned.values()])
        return [outcomes[index] for index in range(len(submissions))]

    def _planned(self, submission: Submission, caller: Caller) -> Task:
        spec = submission.spec
        if not spec.submitter:
            spec = replace(spec, submitter=caller.name)
        size = len(submission.payload)
        validate_spec(spec, size)
        return submitted(
            self._ids.new_id("tsk"), spec, payload_bytes=size, now_ms=self._clock.store_ms()
        )

    def _without_room(
        self, namespace: str, planned: Mapping[int, Task], claims: Claims
    ) -> dict[int, DomainError]:
        """Claim room for tasks, in order; return the refusals of those for which there is none."""
        waiting = len(self._read_model.view(namespace).work.tasks.waiting)
        room = max(self._max_waiting - waiting, 0)
        refusals: dict[int, DomainError] = {}
        for place, (index, task) in enumerate(planned.items()):
            if place >= room:
                refusals[index] = LimitExceeded(
                    "waiting tasks per namespace",
                    limit=self._max_waiting,
                    retry_after_seconds=RETRY_WHEN_FULL_SECONDS,
                )
                continue
            try:
                claims.take(Quota.WAITING_TASKS, task.task_id, _is_there(task.task_id))
            except QuotaExceeded as refusal:
                refusal.retry_after_seconds = RETRY_WHEN_FULL_SECONDS
                refusals[index] = refusal
        return refusals

    async def _refused(
        self,
        namespace: str,
        submissions: Sequence[Submission],
        refusals: Mapping[int, DomainError],
    ) -> dict[int, DomainError]:
        """Refuse what there is no room for; a request that was carried out before needs none.

        The ledger is asked side by side: a plane that is full must not be kept busy by refusing.
        """
        requests = {i: request for i in refusals if (request := submissions[i].request) is not None}
        answers = await asyncio.gather(
            *(self._ledger.find_request(namespace, request) for request in requests.values()),
            return_exceptions=True,
        )
        refused = dict(refusals)
        for index, answer in zip(requests, answers, strict=True):
            if isinstance(answer, DomainError):
                refused[index] = answer
            elif isinstance(answer, BaseException):
                raise answer
            elif answer is not None:
                del refused[index]
        return refused

    async def _replayed(
        self, namespace: str, replays: dict[int, str]
    ) -> dict[int, Task | DomainError]:
        """Return the tasks of requests that came before, as they are now."""
        task_ids = list(replays.values())
        records = await self._ledger.read(namespace, Collection.TASKS, task_ids)
        return {
            index: record.value if record is not None else TaskNotFound(task_id)
            for (index, task_id), record in zip(replays.items(), records, strict=True)
        }


def _is_there(task_id: str) -> IsThere:
    return lambda view: task_id in view.work.tasks.all


def _submission(
    namespace: str, task: Task, submission: Submission, caller: Caller, method: str
) -> Transaction:
    request = submission.request
    return Transaction(
        namespace=namespace,
        steps=task_steps(None, task, payload=submission.payload),
        audit=_audit(
            caller,
            method,
            task.task_id,
            "task.submitted",
            request_id=request.request_id if request is not None else "",
        ),
        request=request,
        answer=task.task_id,
    )


def _audit(
    caller: Caller, method: str, task_id: str, event: str, *, reason: str = "", request_id: str = ""
) -> AuditEntry:
    return AuditEntry(
        actor=caller.name,
        method=method,
        object=f"tasks/{task_id}",
        event=event,
        reason=reason,
        request_id=request_id,
    )
