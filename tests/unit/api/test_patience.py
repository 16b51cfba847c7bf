"""Unary calls that wait."""

import asyncio

import pytest

from controlplane.api.drain import Drain
from controlplane.api.patience import patience_ms, while_serving
from controlplane.domain.errors import Draining


def test_a_wait_ends_before_the_callers_deadline():
    assert patience_ms(60_000, None) == 60_000
    assert patience_ms(60_000, 90.0) == 60_000
    assert patience_ms(60_000, 10.0) == 9_500
    assert patience_ms(60_000, 0.1) == 0


async def test_an_answer_in_time_is_returned():
    async def answer() -> str:
        return "done"

    assert await while_serving(Drain(), answer()) == "done"


async def test_a_wait_ends_when_the_replica_shuts_down():
    drain, waiting = Drain(), asyncio.Event()

    async def forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(while_serving(drain, forever()))
    await waiting.wait()
    drain.begin()
    with pytest.raises(Draining):
        await call


async def test_a_timeout_of_the_answer_itself_stays_one():
    async def late() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await while_serving(Drain(), late())


async def test_a_caller_who_leaves_cancels_the_wait():
    waiting = asyncio.Event()

    async def forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(while_serving(Drain(), forever()))
    await waiting.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
