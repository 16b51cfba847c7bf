"""The loop that carries rollouts on."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.rollouts.model import Phase
from controlplane.tasks.rollout_reconciler import RolloutLoop
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, RolloutWorld


@pytest.fixture
async def world() -> RolloutWorld:
    world = RolloutWorld()
    await world.begun()
    return world


@pytest.fixture
async def loop(world: RolloutWorld) -> AsyncIterator[RolloutLoop]:
    loop = RolloutLoop(world.reconciler, world.plane.read_model, world.clock)
    running = asyncio.create_task(loop.run())
    yield loop
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def advance(world: RolloutWorld, seconds: int) -> None:
    """Let time pass while this replica follows the store."""
    for _ in range(2 * seconds):
        await world.clock.advance(0.5)
        await world.follow()


async def test_rollouts_go_on_by_themselves(world, loop):
    await world.outcomes(new=(20, 15), old=(180, 2))
    await advance(world, 4)
    assert world.now().phase is Phase.DRAINING_NEW
    assert loop.transitions > 0


async def test_a_change_of_a_rollout_wakes_the_loop_before_its_time(world, loop):
    await world.clock.advance(1)
    await world.rollouts.abort(NS, world.now().rollout_id, reason="no", caller=ADA)
    before = loop.transitions
    await world.clock.advance(0.06)
    await world.follow()
    assert loop.transitions == before + 1
    assert world.now().phase is Phase.DRAINING_NEW


async def test_a_store_that_does_not_answer_is_asked_again(world, loop):
    world.faults.fail_next(StoreUnavailable(), times=2)
    await world.clock.advance(3)
    assert loop.failures == 2
    await world.outcomes(new=(20, 15), old=(180, 2))
    await advance(world, 4)
    assert world.now().phase is Phase.DRAINING_NEW


@pytest.mark.usefixtures("loop")
async def test_a_replica_that_has_nothing_loaded_waits(world):
    views = world.plane.read_model._views
    loaded, world.plane.read_model.ready = dict(views), False
    views.clear()
    await world.clock.advance(2)
    views.update(loaded)
    world.plane.read_model.ready = True
    await world.outcomes(new=(20, 15), old=(180, 2))
    await advance(world, 4)
    assert world.now().phase is Phase.DRAINING_NEW


async def test_every_pause_is_another_one_so_that_replicas_take_turns(world, loop):
    pauses: set[float] = set()
    sleep = world.clock.sleep

    async def noted(seconds: float) -> None:
        pauses.add(round(seconds, 6))
        await sleep(seconds)

    world.clock.sleep = noted
    await world.clock.advance(10)
    assert loop.failures == 0
    assert len(pauses) > 5
    assert max(pauses) <= 0.75
