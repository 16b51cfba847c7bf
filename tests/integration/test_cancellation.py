"""A task that was cancelled ends, wherever in the store's client the cancellation met it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from controlplane.storage.redis.connection import Script, StoreConnection
from tests.fakes.valkey import sentinel_group, valkey_cluster, valkey_server

ECHO = Script("return ARGV[1]")

TASKS = 1500
AT_A_TIME = 25
END_SECONDS = 3.0

Operation = Callable[[StoreConnection], Awaitable[object]]


async def _pipeline(store: StoreConnection) -> object:
    return await store.eval_many(ECHO, [([f"{{{n}}}k"], [n]) for n in range(4)])


async def _subscription(store: StoreConnection) -> None:
    pubsub = await store.pubsub_client("{a}k")
    try:
        await pubsub.subscribe("{a}k")
        await pubsub.get_message(timeout=0.001)
    finally:
        await pubsub.aclose()


OPERATIONS: Sequence[Operation] = (
    lambda store: store.run(ECHO, ["{a}k"], ["v"]),
    lambda store: store.reads.get("{a}k"),
    lambda store: store.writes.set("{a}k", "v"),
    _pipeline,
    _subscription,
)


async def _for_ever(store: StoreConnection, operation: Operation) -> None:
    while True:
        await operation(store)


@contextlib.asynccontextmanager
async def _url(topology: str) -> AsyncIterator[str]:
    match topology:
        case "unix":
            async with valkey_server(persistent=False) as server:
                yield server.url
        case "tcp":
            async with valkey_server(tcp=True, persistent=False) as server:
                yield server.url
        case "sentinel":
            async with sentinel_group() as group:
                yield group.url
        case _:
            async with valkey_cluster() as cluster:
                yield cluster.url


@pytest.mark.parametrize("topology", ["unix", "tcp", "sentinel", "cluster"])
async def test_no_cancelled_task_goes_on(topology):
    seeded = random.Random(topology)
    async with _url(topology) as url, StoreConnection(url) as store:
        await store.check_server()
        for _ in range(TASKS // AT_A_TIME):
            tasks = [
                asyncio.create_task(_for_ever(store, seeded.choice(OPERATIONS)))
                for _ in range(AT_A_TIME)
            ]
            for task in tasks:
                for _ in range(seeded.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            _, went_on = await asyncio.wait(tasks, timeout=END_SECONDS)
            for task in went_on:
                task.cancel()
            assert not went_on
            assert all(task.cancelled() for task in tasks)
        # and nobody took a connection with them
        assert await store.run(ECHO, ["{a}k"], ["v"]) == b"v"
