"""The follower: a copy that is complete before it serves, exact after every change and break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.hub import Hub
from controlplane.services.ports import CatchUp, Position
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.tasks.follower import Follower
from tests.fakes.plane import NS, Plane

DEADLINE = 5.0


class BrokenFeed(MemoryChangeFeed):
    """A feed that fails or demands a resync when told to."""

    failures = 0
    resyncs = 0

    async def catch_up(self, namespace: str, position: Position) -> CatchUp:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable
        if self.resyncs:
            self.resyncs -= 1
            return CatchUp(position, resync=True)
        return await super().catch_up(namespace, position)


class Following:
    """A follower over a plane's store."""

    def __init__(self, plane: Plane) -> None:
        self.read_model = ReadModel(Hub())
        self.feed = BrokenFeed(plane.store)
        self.loaded: list[str] = []

        async def on_loaded(name: str, _view: NamespaceView) -> None:
            self.loaded.append(name)

        self.follower = Follower(self.feed, self.read_model, plane.clock, on_loaded=on_loaded)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Following"]:
        async with self.feed:
            task = asyncio.create_task(self.follower.run())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def reach(self, namespace: str, revision: int) -> NamespaceView:
        async with asyncio.timeout(DEADLINE):
            return await self.read_model.at_least(namespace, revision)


async def test_nothing_is_served_before_the_first_snapshot_is_complete() -> None:
    plane = Plane()
    await plane.register()
    following = Following(plane)
    assert not following.read_model.ready
    async with following.running():
        async with asyncio.timeout(DEADLINE):
            await following.follower.caught_up.wait()
        assert following.read_model.ready
        assert len(following.read_model.view(NS).agents) == 1
        assert following.loaded == [NS]


async def test_every_commit_reaches_the_copy() -> None:
    plane = Plane()
    async with Following(plane).running() as following:
        async with asyncio.timeout(DEADLINE):
            await following.follower.caught_up.wait()
        for number in range(20):
            outcome = await plane.register(f"agent-{number}")
            view = await following.reach(NS, outcome.agent.revision)
            assert len(view.agents) == number + 1


async def test_a_broken_history_is_loaded_anew_and_nothing_is_missing() -> None:
    plane = Plane()
    await plane.register("first")
    async with Following(plane).running() as following:
        async with asyncio.timeout(DEADLINE):
            await following.follower.caught_up.wait()
        following.feed.resyncs = 2
        outcome = await plane.register("second")
        view = await following.reach(NS, outcome.agent.revision)
        assert {entry.agent.spec.name for entry in view.agents.values()} == {"first", "second"}
        assert len(following.loaded) >= 2


async def test_a_store_that_is_away_is_waited_for() -> None:
    plane = Plane()
    await plane.register("first")
    following = Following(plane)
    following.feed.failures = 3
    async with following.running():
        async with asyncio.timeout(DEADLINE):
            while not following.follower.caught_up.is_set():
                await asyncio.sleep(0)
                await plane.clock.advance(1.0)
        assert len(following.read_model.view(NS).agents) == 1
