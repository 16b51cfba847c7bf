"""Bounds how long a handler may work."""

import asyncio
from typing import Any

from controlplane.api.context import Call
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern, Outcome


def deadline() -> Concern:
    """Return the concern that cancels a handler after its bound.

    The bound is the smaller of what is left of the caller's deadline and the row's
    `max_deadline_seconds`. The call is then answered DEADLINE_EXCEEDED. Streams have no bound here:
    they have a maximum age (`api/streams.py`).
    """
    return Concern(name="deadline", before=_arm, after=_disarm, wanted=_is_bounded)


def _is_bounded(method: Method) -> bool:
    return method.max_deadline_seconds is not None


def _arm(call: Call) -> None:
    bound = call.method.max_deadline_seconds
    remaining: float | None = call.context.time_remaining()
    if bound is None or (remaining is not None and remaining < bound):
        bound = remaining
    task = asyncio.current_task()
    if bound is not None and task is not None:
        call.deadline = asyncio.get_running_loop().call_later(bound, _expire, call, task)


def _expire(call: Call, task: asyncio.Task[Any]) -> None:
    call.expired = True
    task.cancel()


def _disarm(call: Call, outcome: Outcome) -> None:
    if call.deadline is not None:
        call.deadline.cancel()
    if not call.expired:
        return
    task = asyncio.current_task()
    others = 0 if task is None else task.uncancel()
    if others == 0 and isinstance(outcome.error, asyncio.CancelledError):
        outcome.error = TimeoutError()
