"""Keeps tasks cancellable that talk to the store in a loop."""

import asyncio


def raise_if_cancelled() -> None:
    """Raise CancelledError if the current task was cancelled and something swallowed it.

    redis-py sends with `asyncio.wait_for`, which in Python 3.11 drops a cancellation that arrives
    while the send has just been done. A loop that awaits the store calls this once per round, so
    that whoever ends the task does not wait for it in vain.

    Not for a task that goes on after a TaskGroup of its own has failed: in Python 3.11 such a task
    looks cancelled for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
