"""The lag: what one pause does, what many do, and how soon it is over."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from controlplane.tasks.lag_meter import QUIET_SECONDS, SAMPLE_SECONDS, LagMeter
from tests.fakes.clock import FakeClock
from tests.fakes.eventually import eventually


@asynccontextmanager
async def measuring(clock: FakeClock, warn_seconds: float = 0.5) -> AsyncIterator[LagMeter]:
    meter = LagMeter(clock, warn_seconds=warn_seconds)
    task = asyncio.create_task(meter.run())
    await clock.advance(0)
    try:
        yield meter
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def late(clock: FakeClock, seconds: float) -> None:
    """Let the next sample come so much too late."""
    clock.shift(SAMPLE_SECONDS + seconds)
    await clock.advance(0)


async def test_a_loop_in_time_has_no_lag():
    clock = FakeClock()
    async with measuring(clock) as meter:
        await clock.advance(5)
        assert meter.seconds == pytest.approx(0)


async def test_one_pause_is_no_overload_however_long_it_was():
    clock = FakeClock()
    async with measuring(clock) as meter:
        await late(clock, 60.0)
        assert meter.seconds == pytest.approx(0)
        await late(clock, 0.3)
        assert meter.seconds == pytest.approx(0.3), "two in a row are, of the lesser one"
        await clock.advance(SAMPLE_SECONDS)
        assert meter.seconds == pytest.approx(0)


async def test_a_lag_that_lasts_is_known_for_what_it_is():
    clock = FakeClock()
    async with measuring(clock) as meter:
        for _ in range(6):
            await late(clock, 1.0)
        assert meter.seconds == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("lag", [0.5, 4.0, 3600.0])
async def test_it_recovers_within_a_second_however_bad_it_was(lag):
    clock = FakeClock()
    async with measuring(clock) as meter:
        for _ in range(10):
            await late(clock, lag)
        await clock.advance(1.0)
        assert meter.seconds < 0.01


async def test_overload_is_said_once_in_a_while_and_not_with_every_sample(caplog):
    clock = FakeClock()
    caplog.set_level(logging.WARNING, logger="fleetplane.overload")
    async with measuring(clock):
        for _ in range(5):
            await late(clock, 1.0)
        assert len(caplog.records) == 1
        await clock.advance(QUIET_SECONDS)
        for _ in range(5):
            await late(clock, 1.0)
        assert len(caplog.records) == 2


async def test_a_loop_that_is_really_blocked_shows():
    class RealClock(FakeClock):
        def monotonic(self) -> float:
            return asyncio.get_running_loop().time()

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    meter = LagMeter(RealClock(), warn_seconds=60)
    task = asyncio.create_task(meter.run())
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(10):
            while meter.seconds < 0.05:
                await asyncio.sleep(0)
                blocked_until = loop.time() + 0.3
                while loop.time() < blocked_until:
                    pass
            await eventually("the lag is over", lambda: meter.seconds < 0.02)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
