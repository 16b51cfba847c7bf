"""Open loops: calls that begin at their time, whether the ones before were answered or not."""

import asyncio
import time
from collections.abc import Awaitable, Callable

Deed = Callable[[], Awaitable[None]]


async def paced(per_second: float, seconds: float, deed: Deed) -> None:
    """Begin `deed` so many times per second; return when the last one is over."""
    clock = time.perf_counter
    began = clock()
    async with asyncio.TaskGroup() as group:
        for number in range(round(per_second * seconds)):
            due = began + number / per_second
            if (wait := due - clock()) > 0:
                await asyncio.sleep(wait)
            group.create_task(_done(deed))


async def timed(per_second: float, seconds: float, deed: Deed) -> list[float]:
    """As `paced`; return how many seconds each took."""
    took: list[float] = []

    async def once() -> None:
        began = time.perf_counter()
        await deed()
        took.append(time.perf_counter() - began)

    await paced(per_second, seconds, once)
    return took


async def _done(deed: Deed) -> None:
    await deed()
