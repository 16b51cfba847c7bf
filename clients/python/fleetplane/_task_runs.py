"""One attempt at one task: accepted, worked on, and its outcome written."""

import asyncio
import contextvars
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fleetplane._exceptions import FleetError, InvalidArgument, LeaseFenced, LimitExceeded, NotFound
from fleetplane._task_context import TaskContext, TaskHandler, TaskRejected
from fleetplane._task_leases import Lease, LeaseWriter
from fleetplane._task_spec import to_bytes
from fleetplane._work import Task, WorkMeter
from fleetplane.v1 import task_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")

Value = TypeVar("Value")


class CallOff(enum.Enum):
    """Why an attempt does not go on here."""

    RELEASE = enum.auto()
    """This process stops: the task goes back unharmed. A handler that ends with a result in spite
    of that has done the work."""
    LOST = enum.auto()
    """The lease has ended: whatever comes out is thrown away, and nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetting:
    """What the attempts of one agent share."""

    writer: LeaseWriter
    """Writes about leases."""
    meter: WorkMeter
    """Counts the work."""
    slots: asyncio.Semaphore
    """As many handlers as the agent declares run at the same time."""
    threads: Executor
    """Runs plain functions; as many threads as slots."""
    admitted: Callable[[], Awaitable[None]]
    """Waits until the agent may take work; TimeoutError if it may not."""


class _CalledOff(asyncio.CancelledError):
    """A step was cancelled by `TaskRun.call_off`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What came of an attempt; without a result a failure or a release."""

    result: bytes | None = None
    detail: str = ""
    permanent: bool = False
    release: bool = False


class TaskRun:
    """One attempt at one task.

    The work is counted by the meter from its acceptance until the handler has really ended, and
    before the outcome is written: the plane subtracts the leases it knows of from what a beat says.

    Args:
        assignment: what the plane sent.
        handler: looks up and returns the handler; may raise LookupError.
        setting: what the attempts of one agent share.
        after: an earlier attempt at the same task that still winds down here.
    """

    def __init__(
        self,
        assignment: pb.TaskAssignment,
        handler: Callable[[str], TaskHandler],
        setting: RunSetting,
        after: "asyncio.Task[None] | None",
    ) -> None:
        self.lease: Final = Lease(assignment.task.task_id, assignment.task.epoch)
        self._find = handler
        self._setting = setting
        self._after = after
        self._context = TaskContext(assignment, self._report)
        self._how: CallOff | None = None
        self._step: asyncio.Task[Any] | None = None
        self._begun = False
        self._settling = False

    def call_off(self, how: CallOff) -> None:
        """Cancel the handler; its outcome is thrown away, or the task given back. Idempotent."""
        if self._how is CallOff.LOST or self._how is how:
            return
        self._how = how
        self._context.cancelled.set()
        if self._step is not None and (how is CallOff.LOST or not self._settling):
            self._step.cancel()

    async def run(self) -> None:
        """Accept, work, write the outcome; raises nothing but a cancellation from outside."""
        try:
            outcome = await self._attempt()
            self._settling = True
            if self._how is not CallOff.LOST:
                await self._take(lambda: self._settle(outcome))
        except _CalledOff:
            _log.info("task %s is not for this process any more", self.lease.task_id)
        except (LeaseFenced, NotFound) as error:
            _log.info("the lease of task %s has ended: %s", self.lease.task_id, error)
        except FleetError:
            _log.exception("what became of task %s could not be written", self.lease.task_id)

    async def _attempt(self) -> _Outcome:
        try:
            await self._take(self._wait_for_turn)
        except TimeoutError:
            return _Outcome(release=True, detail="the agent may take no work")
        except _CalledOff:
            return _Outcome(release=True, detail=_STOPS)
        try:
            self._context.begin(await self._take(lambda: self._setting.writer.accept(self.lease)))
            return await self._work()
        except _CalledOff:
            return self._stopped()
        finally:
            self._setting.slots.release()

    def _stopped(self) -> _Outcome:
        """Decide by the class of the task, as the plane does at the deadline of a drain."""
        if self._begun and self._context.task.spec.on_drain == pb.DRAIN_ACTION_FAIL:
            return _Outcome(detail=f"{_STOPS}, and it must not be started twice", permanent=True)
        return _Outcome(release=True, detail=_STOPS)

    async def _wait_for_turn(self) -> None:
        if self._after is not None:
            await asyncio.wait((self._after,))
        await self._setting.admitted()
        await self._setting.slots.acquire()

    async def _work(self) -> _Outcome:
        """Let the handler work; make an outcome of however it ends."""
        try:
            with Task(self._setting.meter):
                return _Outcome(result=await self._take(self._handle))
        except _CalledOff:
            raise
        except asyncio.CancelledError as error:
            if _is_cancelled_from_outside():
                raise
            return self._failure(error)
        except Exception as error:  # whatever it raises is the failure of the task
            if self._how is not None:
                raise _CalledOff from error
            return self._failure(error)

    async def _handle(self) -> bytes:
        handler = self._find(self._context.kind)
        self._begun = True
        if inspect.iscoroutinefunction(handler):
            value = await handler(self._context)
        else:
            value = await _in_thread(self._setting.threads, handler, self._context)
            if inspect.isawaitable(value):  # an object with an asynchronous `__call__`
                value = await value
        try:
            return to_bytes(value)
        except (TypeError, ValueError) as error:
            raise TaskRejected(f"the result cannot be sent: {error}") from error

    def _failure(self, error: BaseException) -> _Outcome:
        if isinstance(error, TaskRejected):
            _log.warning("task %s is rejected: %s", self.lease.task_id, error)
            return _Outcome(detail=str(error), permanent=True)
        _log.warning("task %s failed here", self.lease.task_id, exc_info=error)
        return _Outcome(detail=f"{type(error).__name__}: {error}")

    async def _settle(self, outcome: _Outcome) -> None:
        """Write the outcome, until the plane has it or the lease has ended."""
        writer = self._setting.writer
        if outcome.release:
            await writer.release(self.lease, outcome.detail)
        elif outcome.result is None:
            await writer.fail(self.lease, outcome.detail, permanent=outcome.permanent)
        else:
            try:
                await writer.complete(self.lease, outcome.result)
            except (
                InvalidArgument,
                LimitExceeded,
            ) as error:  # too large: the next one would be too
                refusal = f"the result was refused: {error.message}"
                await writer.fail(self.lease, refusal, permanent=True)

    async def _report(self, share: float, message: str, checkpoint: bytes | None) -> None:
        try:
            await self._setting.writer.progress(self.lease, share, message, checkpoint)
        except (LeaseFenced, NotFound) as error:
            self.call_off(CallOff.LOST)
            _log.info("the lease of task %s has ended: %s", self.lease.task_id, error)
            raise
        self._setting.meter.advanced()

    async def _take(self, step: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Run one step in a task that `call_off` can cancel without touching this one."""
        if self._how is not None and not self._settling:
            raise _CalledOff
        task = asyncio.get_running_loop().create_task(step(), name="fleetplane-task-step")
        self._step = task
        try:
            return await task
        except asyncio.CancelledError as error:
            if self._how is None or _is_cancelled_from_outside():
                raise
            raise _CalledOff from error
        finally:
            self._step = None


_STOPS: Final = "the process stops"


def _is_cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _in_thread(threads: Executor, handler: TaskHandler, context: TaskContext) -> Any:
    """Run a plain function to its end: a thread cannot be cancelled, and counts until it ends."""
    began = threads.submit(contextvars.copy_context().run, handler, context)
    ended = asyncio.wrap_future(began)
    while not ended.done():
        try:
            await asyncio.wait((ended,))
        except asyncio.CancelledError:
            began.cancel()  # helps only if it has not begun; `context.cancelled` asks it to end
    return ended.result()
