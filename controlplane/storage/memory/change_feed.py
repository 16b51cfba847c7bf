"""The change feed in memory."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from types import TracebackType
from typing import Final, Self

from controlplane.services.ports import UNFOLLOWED, CatchUp, Position, Touched
from controlplane.storage.memory.store import MemoryStore, NamespaceState, random_token

ENTRIES_PER_CALL: Final = 500
"""Change entries that one `catch_up` covers."""

RECORDS_PER_BATCH: Final = 1000
"""Records in one batch of `load`."""


class MemoryChangeFeed:
    """`services.ports.ChangeFeed` of one replica on a `MemoryStore`.

    An async context manager, as `RedisChangeFeed` is; leaving it stops listening.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._news: set[str] = set()
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._store.listen(self._on_commit)
        for namespace in self._store.written():
            self._on_commit(namespace)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._store.unlisten(self._on_commit)

    async def namespaces(self) -> frozenset[str]:
        """Return every namespace that was ever written."""
        return self._store.written()

    async def load(self, namespace: str) -> AsyncIterator[tuple[Position, list[Touched]]]:
        """Yield all records in batches; see `ChangeFeed.load`."""
        state = self._store.namespaces[namespace]
        fingerprint = state.changes[-1].fingerprint if state.changes else ""
        position = Position(state.epoch, state.revision, fingerprint)
        everything = [
            (collection, key)
            for collection, records in state.records.items()
            if collection not in UNFOLLOWED
            for key in records
        ]
        for start in range(0, max(len(everything), 1), RECORDS_PER_BATCH):
            places = everything[start : start + RECORDS_PER_BATCH]
            # Read when it is yielded: a record may be newer than the position, or gone.
            records = [Touched(c, key, state.records[c].get(key)) for c, key in places]
            yield position, [touched for touched in records if touched.record is not None]
            await asyncio.sleep(0)

    async def catch_up(self, namespace: str, position: Position) -> CatchUp:
        """Return what changed after `position`; see `ChangeFeed.catch_up`."""
        state = self._store.namespaces[namespace]
        from_nothing = position.revision == 0 and not position.epoch
        if not from_nothing and position.epoch != state.epoch:
            return CatchUp(Position(state.epoch), resync=True)
        if position.revision > state.revision:
            return _broken(state)
        if state.revision == 0:
            return CatchUp(Position(state.epoch))
        return _changes_after(state, position)

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Wait for commits; see `ChangeFeed.wait`. Needs the context manager to be entered."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._wake.wait()
        except TimeoutError:
            return frozenset()
        news, self._news = self._news, set()
        self._wake.clear()
        return frozenset(news)

    def hint(self, namespace: str) -> None:
        """See `ChangeFeed.hint`; every commit is heard of anyway."""

    def _on_commit(self, namespace: str) -> None:
        self._news.add(namespace)
        self._wake.set()


def _changes_after(state: NamespaceState, position: Position) -> CatchUp:
    """Return the changes after a position of the same epoch, unless history does not reach it."""
    oldest = state.changes[0].revision
    if position.revision < oldest - (1 if position.revision == 0 else 0):
        return CatchUp(Position(state.epoch), resync=True)
    fingerprint = position.fingerprint
    if position.revision > 0:
        here = state.changes[position.revision - oldest]
        if here.fingerprint != fingerprint:
            return _broken(state)
    start = position.revision + 1 - oldest
    entries = list(islice(state.changes, start, start + ENTRIES_PER_CALL))
    # A dictionary keeps the first place of each record.
    places = dict.fromkeys(place for entry in entries for place in entry.touched)
    last = entries[-1].revision if entries else position.revision
    return CatchUp(
        Position(state.epoch, last, entries[-1].fingerprint if entries else fingerprint),
        tuple(Touched(c, key, state.records[c].get(key)) for c, key in places),
        more=last < state.revision,
    )


def _broken(state: NamespaceState) -> CatchUp:
    """Give a history that is not the caller's a new epoch, and demand a resync."""
    if state.epoch:
        state.epoch = random_token()
    return CatchUp(Position(state.epoch), resync=True)
