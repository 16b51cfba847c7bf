"""The simplest correct follower: a copy of every record, kept by `load` and `catch_up`."""

import asyncio

from controlplane.services.ports import ChangeFeed, Collection, Position, Record

Copy = dict[tuple[Collection, str], Record]


class CopyingFollower:
    """Follows one namespace; `seen` has every record state it was told of, in order."""

    def __init__(self, feed: ChangeFeed, namespace: str) -> None:
        self._feed = feed
        self._namespace = namespace
        self.position = Position()
        self.copy: Copy = {}
        self.seen: list[Record] = []
        self.loads = 0

    async def load(self) -> None:
        """Replace the copy by what the store has."""
        fresh: Copy = {}
        positions = set()
        async for position, batch in self._feed.load(self._namespace):
            positions.add(position)
            for touched in batch:
                assert touched.record is not None
                fresh[touched.collection, touched.key] = touched.record
        (self.position,) = positions
        self.copy = fresh
        self.loads += 1

    async def catch_up(self) -> None:
        """Apply everything that is new."""
        more = True
        while more:
            news = await self._feed.catch_up(self._namespace, self.position)
            if news.resync:
                await self.load()
                continue
            for touched in news.touched:
                if touched.record is None:
                    self.copy.pop((touched.collection, touched.key), None)
                else:
                    self.copy[touched.collection, touched.key] = touched.record
                    self.seen.append(touched.record)
            self.position = news.position
            more = news.more

    async def reaches(self, revision: int, *, seconds: float = 10.0) -> None:
        """Follow wake-ups until this revision is applied."""
        async with asyncio.timeout(seconds):
            await self.catch_up()
            while self.position.revision < revision:
                if self._namespace in await self._feed.wait(seconds):
                    await self.catch_up()
