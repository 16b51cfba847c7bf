"""Closed loops: so many callers, each of which asks again when it has its answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.results import Series, Window
from tests.bench.servers import Server
from tests.bench.wire import unary

Operation = Callable[[], Awaitable[Any]]
"""One operation of one caller."""

Load = Callable[[float], Awaitable[Window]]
"""Puts a server under load for so many seconds."""

WARM_UP = 0.3
"""Share of a window that warms up connections and caches before the first round."""


async def closed_loop(
    server: Server, callers: list[Operation], seconds: float, *, per_operation: int = 1
) -> Window:
    """Let every caller repeat its operation for some seconds; return what that came to.

    `per_operation` is what one operation counts as (items of a batch). A failing operation fails
    the benchmark.
    """
    done = 0
    latencies: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds

    async def call_again(operation: Operation) -> None:
        nonlocal done
        began = clock()
        while began < end:
            await operation()
            now = clock()
            latencies.append(now - began)
            began = now
            done += per_operation

    server_before, store_before = server.cpu_seconds()
    began = clock()
    async with asyncio.TaskGroup() as group:
        for operation in callers:
            group.create_task(call_again(operation))
    took = clock() - began
    server_after, store_after = server.cpu_seconds()
    return Window(
        done, took, server_after - server_before, store_after - store_before, tuple(latencies)
    )


async def in_turns(rounds: int, seconds: float, *loads: Load) -> list[Series]:
    """Warm every load up, then let them take turns; return a series for each."""
    for load in loads:
        await load(seconds * WARM_UP)
    windows: list[list[Window]] = [[] for _ in loads]
    for _ in range(rounds):
        for load, collected in zip(loads, windows, strict=True):
            collected.append(await load(seconds))
    return [Series(tuple(collected)) for collected in windows]


def unary_callers(server: Server, method: str, request: bytes, callers: int) -> list[Operation]:
    """Return callers of a unary method; the reply is received, not parsed."""
    call = unary(server.channel, method, server.metadata)

    async def once() -> bytes:
        return await call(request)

    return [once] * callers


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share (0-1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(round(share * (len(ordered) - 1)), len(ordered) - 1)]
