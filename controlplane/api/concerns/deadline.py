"""Bounds how long a handler may work.

grpc cancels a handler when the caller's own deadline passes. What is left to do here is the bound
of the row, for callers that set a longer deadline or none. A timer per call would cost a tenth of a
small call; instead the calls of one method wait in a dict, which keeps the order in which they
began, and a slow tick looks at its head.
"""

import asyncio
from typing import Final

from controlplane.api.context import Call
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern, Outcome

TICKS_PER_BOUND: Final = 20
"""A handler is cancelled between its bound and 5 % later."""


def deadline() -> Concern:
    """Return the concern that cancels a handler after its row's `max_deadline_seconds`.

    The call is then answered DEADLINE_EXCEEDED. Streams have no bound here: they have a maximum age
    (`api/streams.py`).
    """
    queues: dict[str, _Queue] = {}

    def before(call: Call) -> None:
        queue = queues.get(call.method.name)
        if queue is None:
            queue = queues[call.method.name] = _Queue(call.method)
        queue.enter(call)

    def after(call: Call, outcome: Outcome) -> None:
        queues[call.method.name].leave(call)
        if call.expired and _was_ours() and isinstance(outcome.error, asyncio.CancelledError):
            outcome.error = TimeoutError()

    return Concern(name="deadline", before=before, after=after, wanted=_is_bounded)


def _is_bounded(method: Method) -> bool:
    return method.max_deadline_seconds is not None


def _was_ours() -> bool:
    """Take back the cancellation of `_Queue`; False if somebody else cancelled as well."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0


class _Queue:
    """The calls of one method, oldest first."""

    __slots__ = ("_bound", "_calls", "_loop", "_ticking")

    def __init__(self, method: Method) -> None:
        self._bound = method.max_deadline_seconds or 0.0
        self._calls: dict[Call, tuple[float, asyncio.Task[object] | None]] = {}
        self._loop = asyncio.get_running_loop()
        self._ticking = False

    def enter(self, call: Call) -> None:
        self._calls[call] = (self._loop.time() + self._bound, asyncio.current_task())
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(self._bound, self._tick)

    def leave(self, call: Call) -> None:
        del self._calls[call]

    def _tick(self) -> None:
        now = self._loop.time()
        for call, (expiry, task) in self._calls.items():
            if expiry > now:
                break
            if not call.expired and task is not None:
                call.expired = True
                task.cancel()
        self._ticking = bool(self._calls)
        if self._ticking:
            self._loop.call_later(self._bound / TICKS_PER_BOUND, self._tick)
