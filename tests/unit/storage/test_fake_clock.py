import asyncio

from tests.fakes.clock import START_MS, FakeClock


async def test_sleepers_wake_at_their_own_moment_and_in_order():
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 2.0), ("early", 1.0), ("last", 5.0)):
            group.create_task(sleeper(name, seconds))
        await clock.advance(3)
        assert woken == [("early", 1.0), ("late", 2.0)]
        assert clock.sleepers == 1
        await clock.advance(2)
    assert woken[-1] == ("last", 5.0)


async def test_a_loop_that_sleeps_again_gets_all_its_rounds():
    clock = FakeClock()
    rounds = 0

    async def ticking() -> None:
        nonlocal rounds
        while True:
            await clock.sleep(1)
            rounds += 1

    task = asyncio.create_task(ticking())
    await clock.advance(10)
    assert rounds == 10
    task.cancel()
    await asyncio.wait([task])


async def test_store_time_and_process_time_move_together():
    clock = FakeClock()
    await clock.advance(1.5)
    assert (clock.monotonic(), clock.store_ms()) == (1.5, START_MS + 1500)
