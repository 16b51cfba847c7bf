"""Follows the ledger: change feed -> read model -> watchers. The only writer of the read model."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import ChangeFeed, Clock
from controlplane.services.read_model import NamespaceView, ReadModel

WAIT_SECONDS = 2.0
"""Longest wait for news: the anti-entropy period, which bounds the harm of a lost wake-up."""

BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses after failures in a row; the last repeats. Short first: most failures are a reconnect."""

PACE_SECONDS = 0.003
"""Between two rounds of catching up: a busy namespace commits every fraction of a millisecond, and
one round for ten commits costs little more than one for each. A quiet one waits for nothing."""

LOADS_AT_ONCE = 4
"""Namespaces loaded side by side at start: decoding is the bound, not the store."""

_log = logging.getLogger("fleetplane.follower")

Loaded = Callable[[str, NamespaceView], Coroutine[Any, Any, None]]


class Follower:
    """Keeps every namespace of the read model up to date.

    `on_loaded` runs before a freshly loaded view is served, to fill in what is not in the ledger
    (the times of the last beats).
    """

    def __init__(
        self, feed: ChangeFeed, read_model: ReadModel, clock: Clock, *, on_loaded: Loaded
    ) -> None:
        self._feed = feed
        self._read_model = read_model
        self._clock = clock
        self._on_loaded = on_loaded
        self._next_round = 0.0
        self.caught_up = asyncio.Event()
        """Set once the first complete snapshot is served."""

    async def run(self) -> None:
        """Follow until cancelled. A store that is away is waited for, never given up."""
        failures = 0
        while True:
            try:
                if not self.caught_up.is_set():
                    await self._load_everything()
                await self._step()
                failures = 0
            except StoreUnavailable as failure:
                pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                if failures == 0:
                    _log.warning("the store does not answer", extra={"cause": str(failure)})
                failures += 1
                await self._clock.sleep(pause)

    async def _load_everything(self) -> None:
        names = sorted(await self._feed.namespaces())
        gate = asyncio.Semaphore(LOADS_AT_ONCE)

        async def load(name: str) -> None:
            async with gate:
                await self._load(name)

        await _all(load(name) for name in names)
        self._read_model.ready = True
        self.caught_up.set()
        _log.info("snapshot loaded", extra={"namespaces": len(names)})

    async def _step(self) -> None:
        """Wait for news and catch up with it."""
        woken = await self._feed.wait(WAIT_SECONDS)
        loop = asyncio.get_running_loop()
        early = self._next_round - loop.time()
        if woken and early > 0:
            await asyncio.sleep(early)
        self._next_round = loop.time() + PACE_SECONDS
        for name in sorted(woken):
            await self._catch_up(name)

    async def _catch_up(self, name: str) -> None:
        position = self._read_model.position_of(name)
        if position is None:
            await self._load(name)
            return
        while True:
            news = await self._feed.catch_up(name, position)
            if news.resync:
                _log.warning(
                    "history is not continuous, loading anew",
                    extra={"namespace": name, "revision": position.revision},
                )
                await self._load(name)
                return
            if news.position != position:
                self._read_model.patch(name, news.touched, news.position)
                position = news.position
            if not news.more:
                return

    async def _load(self, name: str) -> None:
        """Build a view aside, bring it up to date, then serve it in place of the old one."""
        view = await self._loaded(name)
        while view is None:
            # Trimmed or broken while it was being read: start over.
            view = await self._loaded(name)
        await self._on_loaded(name, view)
        self._read_model.swap(view)

    async def _loaded(self, name: str) -> NamespaceView | None:
        view = self._read_model.new_view(name)
        async for position, batch in self._feed.load(name):
            view.apply(batch, position)
            await asyncio.sleep(0)  # a large namespace must not hold up the others
        while True:
            news = await self._feed.catch_up(name, view.position)
            if news.resync:
                return None
            view.apply(news.touched, news.position)
            if not news.more:
                return view


async def _all(jobs: Any) -> None:
    """Run jobs side by side; the first failure cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except* StoreUnavailable as failures:
        raise failures.exceptions[0] from None
