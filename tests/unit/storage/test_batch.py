import asyncio

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.batch import MicroBatcher


class Store:
    """Doubles numbers; each flight waits for a permit when `gated`."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.permits = asyncio.Semaphore(0 if gated else 10**6)
        self.departed = asyncio.Event()
        self.flying = self.most_flying = 0

    async def send(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.departed.set()
        self.flying += 1
        self.most_flying = max(self.flying, self.most_flying)
        try:
            await self.permits.acquire()
        finally:
            self.flying -= 1
        return [ValueError(str(item)) if item < 0 else item * 2 for item in items]


async def test_operations_of_one_tick_leave_together():
    store = Store()
    async with MicroBatcher(store.send) as batcher:
        assert await asyncio.gather(*(batcher.submit(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert store.batches == [[0, 1, 2, 3, 4]]


async def test_operations_during_a_flight_share_the_next_one():
    store = Store(gated=True)
    async with MicroBatcher(store.send, max_flights=1) as batcher:
        first = asyncio.create_task(batcher.submit(1))
        await store.departed.wait()
        others = [asyncio.create_task(batcher.submit(n)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        assert store.batches == [[1]]
        store.permits.release()
        store.permits.release()
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert store.batches == [[1], [2, 3, 4]]


async def test_batches_and_flights_are_bounded():
    store = Store(gated=True)
    async with MicroBatcher(store.send, max_batch=10, max_flights=3) as batcher:
        callers = [asyncio.create_task(batcher.submit(n)) for n in range(100)]
        await store.departed.wait()
        for _ in range(10):
            store.permits.release()
        assert await asyncio.gather(*callers) == [n * 2 for n in range(100)]
    assert max(map(len, store.batches)) == 10
    assert store.most_flying == 3


async def test_each_caller_gets_its_own_outcome():
    store = Store()
    async with MicroBatcher(store.send) as batcher:
        good, bad, other = await asyncio.gather(
            batcher.submit(1), batcher.submit(-1), batcher.submit(2), return_exceptions=True
        )
    assert (good, other) == (2, 4)
    assert isinstance(bad, ValueError)


async def test_a_cancelled_waiter_takes_only_its_own_item_away():
    store = Store(gated=True)
    async with MicroBatcher(store.send, max_flights=1) as batcher:
        first = asyncio.create_task(batcher.submit(1))
        await store.departed.wait()
        waiters = [asyncio.create_task(batcher.submit(n)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        waiters[1].cancel()
        first.cancel()
        store.permits.release()
        store.permits.release()
        results = await asyncio.gather(first, *waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1::2] == [4, 8]
    assert isinstance(results[2], asyncio.CancelledError)
    assert store.batches == [[1], [2, 4]]


async def test_a_failing_flight_fails_its_callers_and_nobody_else():
    calls = 0

    async def send(items: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreUnavailable
        return items

    async with MicroBatcher(send) as batcher:
        failed = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in failed)
        assert await batcher.submit(3) == 3


async def test_a_flight_has_a_deadline():
    store = Store(gated=True)
    async with MicroBatcher(store.send, flight_seconds=0.01) as batcher:
        with pytest.raises(StoreUnavailable):
            await batcher.submit(1)
        store.permits.release()
        assert await batcher.submit(2) == 4


async def test_too_many_waiters_are_refused():
    store = Store(gated=True)
    async with MicroBatcher(store.send, max_flights=1, max_waiting=2) as batcher:
        first = asyncio.create_task(batcher.submit(1))
        await store.departed.wait()
        waiters = [asyncio.create_task(batcher.submit(n)) for n in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="too many"):
            await batcher.submit(4)
        store.permits.release()
        store.permits.release()
        assert await asyncio.gather(first, *waiters) == [2, 4, 6]


async def test_leaving_waits_for_everything_under_way_and_then_refuses():
    store = Store(gated=True)
    async with MicroBatcher(store.send, max_batch=1, max_flights=1) as batcher:
        callers = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await store.departed.wait()
        for _ in callers:
            asyncio.get_running_loop().call_soon(store.permits.release)
    assert [caller.result() for caller in callers] == [2, 4]
    with pytest.raises(StoreUnavailable, match="closed"):
        await batcher.submit(3)


async def test_callers_who_come_one_by_one_share_a_flight():
    store = Store()
    async with MicroBatcher(store.send, distance_seconds=0.05) as batcher:
        assert await batcher.submit(1) == 2
        second = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        third = asyncio.create_task(batcher.submit(3))
        assert list(await asyncio.gather(second, third)) == [4, 6]
    assert store.batches == [[1], [2, 3]]
