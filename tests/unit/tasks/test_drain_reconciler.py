"""The loop that carries drains and stops on."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drains import DrainPhase
from controlplane.domain.errors import StoreUnavailable
from controlplane.tasks.drain_reconciler import TIDY_ROUNDS, DrainReconciler
from tests.fakes.lifecycle_plane import LifecyclePlane


class Counted:
    """Counts the ticks that it passes on, or fails them."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.ticks = 0
        self.fails = False

    async def tick(self, namespace: str) -> int:
        self.ticks += 1
        if self.fails:
            raise StoreUnavailable
        done: int = await self.inner.tick(namespace)
        return done


@pytest.fixture
def plane():
    return LifecyclePlane()


@pytest.fixture
def drains(plane):
    return Counted(plane.ops.drains)


@pytest.fixture
def reconciler(plane, drains):
    return DrainReconciler(drains, plane.ops.stops, plane.replica.read_model, plane.clock)


async def test_only_namespaces_in_which_something_is_under_way_are_looked_at(
    plane, drains, reconciler
):
    await plane.active("a", "i")
    await reconciler.round()
    assert drains.ticks == 0
    await plane.ops.drain()
    await reconciler.round()
    assert drains.ticks == 1
    await plane.ops.cancel()
    await reconciler.round()
    assert drains.ticks == 1
    for _ in range(TIDY_ROUNDS):
        await reconciler.round()
    assert drains.ticks == 2


async def test_the_loop_finishes_drains(plane, reconciler):
    await plane.register("a")
    await plane.change_agent("a", status=AgentStatus.ACTIVE)
    await plane.ops.drain()
    loop = asyncio.create_task(reconciler.run())
    await plane.clock.advance(1.0)
    await plane.replica.follow()
    assert (await plane.ops.look()).drain.phase is DrainPhase.DRAINED
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_store_that_is_away_is_asked_again(plane, drains, reconciler):
    await plane.active("a", "i")
    await plane.ops.drain()
    drains.fails = True
    await reconciler.round()
    assert reconciler.failures == 1
    drains.fails = False
    await reconciler.round()
    assert (drains.ticks, reconciler.failures) == (2, 1)
