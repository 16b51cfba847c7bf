"""Beats on their way to the store and between replicas."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import BeatLog
from controlplane.storage.memory.beat_log import MemoryBeatLog
from controlplane.tasks import beat_flusher
from controlplane.tasks.beat_flusher import BeatFlusher
from tests.fakes.fleet import NAMESPACE, FakeBeat, Fleet


class FailingLog:
    """A beat log that fails when told to."""

    def __init__(self, inner: BeatLog) -> None:
        self.inner = inner
        self.failing = False
        self.flushes: list[int] = []

    async def flush(self, namespace: str, deadlines: Any, beats: Any) -> int:
        self._fail()
        self.flushes.append(len(beats))
        return await self.inner.flush(namespace, deadlines, beats)

    async def read_beats(self, cursors: Any) -> Any:
        self._fail()
        return await self.inner.read_beats(cursors)

    async def due(self, *args: Any, **kwargs: Any) -> Any:
        return await self.inner.due(*args, **kwargs)

    async def deadlines(self, namespace: str) -> Any:
        return await self.inner.deadlines(namespace)

    def _fail(self) -> None:
        if self.failing:
            raise StoreUnavailable


class World:
    def __init__(self) -> None:
        self.fleet = Fleet()
        self.log = FailingLog(MemoryBeatLog(self.fleet.store, "flushing"))
        self.replica = self.fleet.add_replica("flushing", wrap_beats=lambda _: self.log)
        self.flusher = BeatFlusher(
            self.replica.intake, self.log, self.replica.read_model, self.fleet.clock
        )

    async def alive(self, *names: str) -> list[FakeBeat]:
        generations = await self.fleet.register("a", *names)
        await self.replica.follow()
        return [FakeBeat(name, generation) for name, generation in generations.items()]


@pytest.fixture
def world():
    return World()


async def test_one_call_carries_all_beats_of_a_namespace(world):
    beats = await world.alive(*(f"i{n}" for n in range(20)))
    await world.replica.beat(*beats)
    await world.replica.beat(*beats)
    await world.flusher.round()
    assert world.log.flushes == [20]
    assert world.flusher.flushed == 20
    await world.flusher.round()
    assert world.log.flushes == [20]


async def test_large_fleets_are_flushed_in_chunks(world, monkeypatch):
    monkeypatch.setattr(beat_flusher, "CHUNK", 8)
    await world.replica.beat(*await world.alive(*(f"i{n}" for n in range(20))))
    await world.flusher.round()
    assert world.log.flushes == [8, 8, 4]


async def test_the_clock_learns_from_every_flush(world):
    await world.replica.beat(*await world.alive("i"))
    await world.flusher.round()
    assert world.fleet.clock.learnt == [world.fleet.clock.store_ms()]


async def test_beats_survive_an_outage_of_the_store(world):
    beats = await world.alive("i")
    await world.replica.beat(*beats)
    world.log.failing = True
    for failures in (1, 2):
        await world.flusher.round()
        assert world.flusher.is_failing
        assert world.flusher.failures == failures
    world.log.failing = False
    world.fleet.clock.shift(9)
    await world.flusher.round()
    assert not world.flusher.is_failing
    assert world.fleet.deadline_of("i") == 30_000


async def test_pauses_grow_while_the_store_is_away_and_are_bounded(world):
    await world.replica.beat(*await world.alive("i"))
    world.log.failing = True
    clock = world.fleet.clock
    running = asyncio.create_task(world.flusher.run())
    await clock.advance(20)
    assert 8 <= world.flusher.failures <= 14  # 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 2 + 2 ... seconds
    world.log.failing = False
    await clock.advance(2.1)
    assert not world.flusher.is_failing
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_beats_of_other_replicas_arrive(world):
    beats = await world.alive("i")
    await world.flusher.merge()  # from now on
    await world.fleet.replica.beat(FakeBeat("i", beats[0].generation, in_flight=7))
    await world.fleet.replica.flush()
    await world.replica.follow()
    version = world.replica.view.load_version
    await world.flusher.merge()
    live = world.replica.view.instances["i"]
    assert (live.in_flight, live.last_beat_ms) == (7, world.fleet.clock.store_ms())
    assert world.replica.view.load_version == version + 1
    await world.flusher.merge()
    assert world.replica.view.load_version == version + 1


async def test_a_namespace_nobody_wrote_to_costs_nothing(world):
    world.replica.intake.accept(world.replica.read_model.view("nowhere"), [FakeBeat("i", 1)])
    await world.flusher.round()
    assert world.log.flushes == []
    assert NAMESPACE not in world.replica.intake.take_dirty()
