"""The loops that carry decisions to the log, and keep it within its bounds."""

import asyncio

import pytest

from controlplane.storage.memory import MemoryDecisionLog
from controlplane.tasks.decision_flusher import TICK_SECONDS, TRIM_SECONDS, DecisionFlusher
from tests.fakes.decision_world import DecisionWorld
from tests.fakes.plane import NS


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_came_in_is_written_every_tick():
    world = await DecisionWorld().start()
    flushing = asyncio.create_task(world.flusher.run())
    await world.clock.advance(0)
    world.asks()
    await world.clock.advance(TICK_SECONDS)
    assert len(await world.records()) == 1
    world.asks()
    world.asks()
    await world.clock.advance(TICK_SECONDS)
    assert len(await world.records()) == 3
    assert world.log.attempts == 2
    await _ended(flushing)


async def test_nothing_is_written_where_nothing_was_decided():
    world = await DecisionWorld().start()
    flushing = asyncio.create_task(world.flusher.run())
    await world.clock.advance(10 * TICK_SECONDS)

    assert world.log.attempts == 0
    assert world.recorder.queues == {}
    await _ended(flushing)


async def test_an_absent_store_is_asked_less_and_less_often_and_once_a_second_at_least():
    world = await DecisionWorld().start()
    flushing = asyncio.create_task(world.flusher.run())
    await world.clock.advance(0)
    world.log.away = True
    world.asks()
    await world.clock.advance(30)
    assert 25 <= world.log.attempts <= 40
    world.log.away = False
    await world.clock.advance(1)

    assert len(await world.records()) == 1
    await _ended(flushing)


async def test_what_is_left_is_written_when_the_daemon_stops():
    world = await DecisionWorld(max_records=20).start()
    flushing = asyncio.create_task(world.flusher.run())
    await world.clock.advance(0)
    world.log.away = True
    world.asks()
    await world.clock.advance(TICK_SECONDS)
    for _ in range(30):
        world.asks()
    world.log.away = False
    await _ended(flushing)

    (gap,) = await world.gaps()
    assert len(await world.records()) + gap.number_lost == 31


async def test_a_daemon_that_stops_without_its_store_says_how_much_is_lost(caplog):
    world = await DecisionWorld().start()
    flushing = asyncio.create_task(world.flusher.run())
    await world.clock.advance(0)
    world.log.away = True
    for _ in range(7):
        world.asks()
    await _ended(flushing)

    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.number_lost == 7


@pytest.mark.parametrize(("keep_ms", "max_bytes"), [(50_000, 10**9), (10**12, 300)])
async def test_logs_are_trimmed_in_every_namespace(keep_ms, max_bytes):
    world = await DecisionWorld().start()
    flusher = DecisionFlusher(
        world.recorder,
        MemoryDecisionLog(world.plane.store),
        world.plane.read_model,
        world.clock,
        keep_ms=keep_ms,
        max_bytes=max_bytes,
    )
    for _ in range(5):
        world.asks()
        await world.flush()
    trimming = asyncio.create_task(flusher.run_trimming())
    await world.clock.advance(TRIM_SECONDS + 1)

    assert len(await world.log.newest(NS, limit=100)) < 5
    await _ended(trimming)
