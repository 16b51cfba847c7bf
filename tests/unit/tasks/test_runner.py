"""Loops that live and die together."""

import asyncio

import pytest

from controlplane.tasks.runner import run_tasks


async def test_the_first_failure_ends_the_others_and_is_raised_with_its_cause():
    gone = []

    async def waits():
        try:
            await asyncio.Event().wait()
        finally:
            gone.append("waits")

    async def fails():
        raise ValueError("outer") from KeyError("inner")

    with pytest.raises(ValueError, match="outer") as caught:
        await run_tasks(waits, fails)
    assert isinstance(caught.value.__cause__, KeyError)
    assert gone == ["waits"]


async def test_failures_on_the_way_out_are_noted():
    async def fails_when_cancelled():
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("while leaving")

    async def fails():
        raise ValueError("first")

    with pytest.raises(ValueError, match="first") as caught:
        await run_tasks(fails_when_cancelled, fails)
    assert any("while leaving" in note for note in caught.value.__notes__)


async def test_cancelling_the_runner_cancels_every_loop():
    gone = []
    started = asyncio.Event()

    async def waits():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(1)

    runner = asyncio.create_task(run_tasks(waits, waits))
    await started.wait()
    runner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await runner
    assert gone == [1, 1]


async def test_it_returns_when_all_have():
    async def returns():
        return

    await run_tasks(returns, returns)
