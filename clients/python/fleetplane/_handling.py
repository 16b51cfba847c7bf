"""How an agent gets its handlers, and how its own work is counted."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar, overload

from fleetplane._task_context import TaskHandler, TaskHandlers
from fleetplane._work import Task, WorkMeter, tracked

Arguments = ParamSpec("Arguments")
Outcome = TypeVar("Outcome")
Handler = TypeVar("Handler", bound=TaskHandler)


class Handling:
    """The decorators of `Agent`, which provides what they fill."""

    _meter: WorkMeter
    _handlers: TaskHandlers

    @overload
    def task(self) -> Task: ...
    @overload
    def task(self, kind: str) -> Callable[[Handler], Handler]: ...
    @overload
    def task(self, kind: Handler) -> Handler: ...
    def task(
        self, kind: str | Handler | None = None
    ) -> Task | Callable[[Handler], Handler] | Handler:
        """Decorate a function that takes tasks, or return a context manager around own work.

        `@agent.task("summarize")` registers the handler of one kind, `@agent.task` that of every
        kind that has none. It gets a `TaskContext` and returns the result: bytes, text, None, or
        anything that JSON can say. `TaskRejected` fails the task for good; any other exception
        fails the attempt, and the task is tried again while attempts are left. A coroutine function
        is cancelled when its attempt is called off; a plain function runs in a thread and has to
        look at `TaskContext.cancelled`. Handlers may be registered before or while the agent runs.

        `with agent.task():` counts, times and reports one piece of work that the plane did not
        assign.

        Raises:
            ValueError: the kind has a handler already.
        """
        if kind is None:
            return Task(self._meter)
        if not isinstance(kind, str):
            self._handlers.add(None, kind)
            return kind
        wanted = kind

        def register(handler: Handler) -> Handler:
            self._handlers.add(wanted, handler)
            return handler

        return register

    def track(
        self, function: Callable[Arguments, Awaitable[Outcome]]
    ) -> Callable[Arguments, Awaitable[Outcome]]:
        """Decorate a coroutine function so that each call counts as one task."""
        return tracked(self._meter, function)
