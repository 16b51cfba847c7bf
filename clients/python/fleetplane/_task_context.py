"""What the handler of a task sees, and which handlers an agent has."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from fleetplane._task_spec import Data, to_bytes
from fleetplane._values import JsonValue
from fleetplane.v1 import task_service_pb2 as pb


class TaskRejected(Exception):  # a verdict, like `TaskFailed`
    """Raised by a handler for what no retry mends: the task fails at once, with this text."""


TaskHandler = Callable[["TaskContext"], Awaitable[Data] | Data]
"""Does the work of a task and returns its result. A coroutine function runs in the event loop, a
plain function in a thread of its own."""

Report = Callable[[float, str, bytes | None], Awaitable[None]]
"""Sends progress, a message and possibly a checkpoint to the plane."""


class TaskContext:
    """One attempt at a task, as its handler sees it. Made by the agent."""

    __slots__ = ("_assignment", "_loop", "_report", "_task", "cancelled")

    def __init__(self, assignment: pb.TaskAssignment, report: Report) -> None:
        self._assignment = assignment
        self._task = assignment.task
        self._report = report
        self._loop = asyncio.get_running_loop()
        self.cancelled: Final = asyncio.Event()
        """Set when the attempt is called off: the lease was lost, the task cancelled, or the agent
        stops. A coroutine is cancelled as well; a plain function has to look, with `is_set()`."""

    def begin(self, task: pb.Task) -> None:
        """Note the task as it is since it was accepted. The agent calls it."""
        self._task = task

    @property
    def task(self) -> pb.Task:
        """Everything the plane says about the task."""
        return self._task

    @property
    def task_id(self) -> str:
        """Identity of the task; the same for all attempts."""
        return self._task.task_id

    @property
    def kind(self) -> str:
        """Which handler was meant."""
        return self._task.spec.kind

    @property
    def session_id(self) -> str:
        """Session of the task; may be empty."""
        return self._task.spec.session_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1. Attempts that were given back do not count."""
        return self._task.attempts

    @property
    def deadline(self) -> datetime | None:
        """When the task must have ended, in UTC on the plane's clock; None: no limit."""
        if not self._task.HasField("deadline_at"):
            return None
        return self._task.deadline_at.ToDatetime(UTC)

    @property
    def payload(self) -> bytes:
        """What was submitted."""
        return self._assignment.payload

    @property
    def checkpoint(self) -> bytes:
        """The last checkpoint of an earlier attempt; empty if there is none."""
        return self._assignment.checkpoint

    def json(self) -> JsonValue:
        """Return the payload as what it says in JSON.

        Raises:
            TaskRejected: it is no JSON; a handler lets it through.
        """
        try:
            return json.loads(self.payload)
        except ValueError as error:
            raise TaskRejected(f"the payload is no JSON: {error}") from error

    async def progress(
        self, share: float, message: str = "", *, checkpoint: Data | None = None
    ) -> None:
        """Report how far the work is; return once the plane has it.

        While the plane is away this waits: put it under `asyncio.timeout` if the work must not.

        Args:
            share: what is done, 0-1.
            message: in words, at most 1,024 bytes.
            checkpoint: what a successor needs to go on from here, at most 256 KiB: bytes, text, or
                anything that JSON can say. None: the last one stays.

        Raises:
            LeaseFenced: the task is somebody else's by now. The handler is cancelled too.
            InvalidArgument: a value is out of range.
        """
        data = None if checkpoint is None else to_bytes(checkpoint)
        await self._report(share, message, data)

    def progress_blocking(
        self, share: float, message: str = "", *, checkpoint: Data | None = None
    ) -> None:
        """Do what `progress` does, from the thread of a plain function."""

        async def report() -> None:
            await self.progress(share, message, checkpoint=checkpoint)

        asyncio.run_coroutine_threadsafe(report(), self._loop).result()


class TaskHandlers:
    """The handlers of one agent, by kind of task.

    Args:
        added: called after every registration.
    """

    def __init__(self, added: Callable[[], None]) -> None:
        self._added = added
        self._by_kind: dict[str, TaskHandler] = {}
        self._default: TaskHandler | None = None

    def __bool__(self) -> bool:
        return bool(self._by_kind) or self._default is not None

    def add(self, kind: str | None, handler: TaskHandler) -> None:
        """Register a handler for a kind; None: for every kind that has none.

        Raises:
            ValueError: there is one already.
        """
        taken = self._default is not None if kind is None else kind in self._by_kind
        if taken:
            what = "tasks of any kind" if kind is None else f"tasks of kind {kind!r}"
            raise ValueError(f"there is a handler for {what} already")
        if kind is None:
            self._default = handler
        else:
            self._by_kind[kind] = handler
        self._added()

    def find(self, kind: str) -> TaskHandler:
        """Return the handler of a kind.

        Raises:
            LookupError: there is none.
        """
        handler = self._by_kind.get(kind, self._default)
        if handler is None:
            raise LookupError(f"this agent has no handler for tasks of kind {kind!r}")
        return handler
