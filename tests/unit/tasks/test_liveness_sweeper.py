"""The loop that expires the silent."""

import asyncio

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import StoreUnavailable
from controlplane.tasks.beat_flusher import BeatFlusher
from controlplane.tasks.liveness_sweeper import LivenessSweeper
from tests.fakes.fleet import FakeBeat, Fleet


@pytest.fixture
async def fleet():
    fleet = Fleet()
    for name, generation in (await fleet.register("a", "i")).items():
        await fleet.replica.beat(FakeBeat(name, generation))
    return fleet


@pytest.fixture
def flusher(fleet):
    replica = fleet.replica
    return BeatFlusher(replica.intake, replica.beat_log, replica.read_model, fleet.clock)


@pytest.fixture
async def sweeper(fleet, flusher):
    sweeper = LivenessSweeper(fleet.replica.expiry, flusher, fleet.replica.read_model, fleet.clock)
    running = asyncio.create_task(sweeper.run())
    yield sweeper
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.usefixtures("sweeper")
async def test_the_silent_expire_by_themselves(fleet):
    await fleet.clock.advance(32)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED


async def test_a_replica_that_cannot_flush_expires_nobody(fleet, sweeper, flusher):
    async def unavailable(*_):
        raise StoreUnavailable

    fleet.replica.beat_log.flush = unavailable
    await flusher.round()
    assert flusher.is_failing
    await fleet.clock.advance(120)
    assert sweeper.skipped > 100
    assert (await fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_a_store_that_does_not_answer_is_asked_again(fleet, sweeper):
    due = fleet.replica.beat_log.due

    async def unavailable(*_, **__):
        raise StoreUnavailable

    fleet.replica.beat_log.due = unavailable
    await fleet.clock.advance(3)
    assert sweeper.failures >= 3
    fleet.replica.beat_log.due = due
    await fleet.clock.advance(32)
    assert (await fleet.agent("a")).status is AgentStatus.DEGRADED
