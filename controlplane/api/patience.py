"""Unary calls that wait for something: never longer than their replica lives."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from controlplane.api.drain import Drain
from controlplane.domain.errors import Draining

MARGIN_SECONDS: Final = 0.5
"""Kept back from the caller's deadline, so that what there is to say arrives within it."""

Answer = TypeVar("Answer")


def patience_ms(wanted_ms: int, seconds_left: float | None) -> int:
    """Return how long a call may wait: what it wants, but never up to its own deadline.

    Args:
        wanted_ms: What the request says.
        seconds_left: Until the caller's deadline; None if it has none.
    """
    if seconds_left is None:
        return wanted_ms
    return min(wanted_ms, max(0, round((seconds_left - MARGIN_SECONDS) * 1000)))


async def while_serving(drain: Drain, answer: Awaitable[Answer]) -> Answer:
    """Return the answer of a wait that changes nothing.

    Raises:
        Draining: this replica shuts down; another one can be asked to go on waiting.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)
    try:
        async with limit:
            with drain.calling(lambda: limit.reschedule(loop.time())):
                return await answer
    except TimeoutError:
        if limit.expired():
            raise Draining from None
        raise
