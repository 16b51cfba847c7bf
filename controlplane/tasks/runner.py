"""Runs the long-lived loops of the daemon together: one of them failing ends them all."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Loop = Callable[[], Coroutine[Any, Any, None]]
"""A loop that runs until it is cancelled, and may be cancelled at any await; returning means that
there is nothing left to do."""


async def run_tasks(*loops: Loop) -> None:
    """Run the loops until all have returned, or one fails.

    The first failure cancels the others, waits until they are gone and is raised itself, with the
    failures that the others had on their way out as notes. Cancelling this cancels them all.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(loop(), name=getattr(loop, "__qualname__", repr(loop)))
    except BaseExceptionGroup as failures:
        first, *others = _leaves(failures)
        for other in others:
            first.add_note(f"meanwhile: {other!r}")
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            leaves.extend(_leaves(failure))
        else:
            leaves.append(failure)
    return leaves
