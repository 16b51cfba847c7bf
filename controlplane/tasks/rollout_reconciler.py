"""Carries rollouts on: the loop around `services.rollout_reconciler`."""

import asyncio
import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.hub import Hub, Subscription, rollouts_topic
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel
from controlplane.services.rollouts.reconciler import RolloutReconciler

PERIOD_SECONDS: Final = 0.5
"""Mean time between two looks: how late a deadline or a verdict may be."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

LEAST_PAUSE_SECONDS: Final = 0.05
"""Pause between two looks even if rollouts change all the time."""

_log = logging.getLogger("fleetplane.rollouts")


class RolloutLoop:
    """The loop; every replica runs one."""

    def __init__(
        self,
        reconciler: RolloutReconciler,
        read_model: ReadModel,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._reconciler = reconciler
        self._read_model = read_model
        self._hub: Hub = read_model.hub
        self._clock = clock
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self.transitions = 0
        """Committed by this replica since its start."""
        self.failures = 0
        """Looks that the store did not answer."""

    async def run(self) -> None:
        """Look until cancelled; a change of a rollout wakes it before its time."""
        with self._hub.subscribe(()) as news:
            while True:
                await self._clock.sleep(LEAST_PAUSE_SECONDS)
                await self._pause(news)
                await self.round(news)

    async def round(self, news: Subscription | None = None) -> None:
        """Look at every namespace once."""
        for namespace in tuple(self._read_model.views()):
            topic = rollouts_topic(namespace)
            if news is not None and topic not in news.topics:
                self._hub.extend(news, (topic,))
            try:
                self.transitions += await self._reconciler.tick(namespace)
            except (StoreUnavailable, NotReady) as failure:
                self.failures += 1
                _log.debug("rollouts wait", extra={"error": failure.message})
                return

    async def _pause(self, news: Subscription) -> None:
        """Wait for the next look: until a rollout changes, but no longer than the period."""
        jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
        sleeping = asyncio.ensure_future(self._clock.sleep(self._period_seconds * jitter))
        hearing = asyncio.ensure_future(news.wait())
        try:
            await asyncio.wait((sleeping, hearing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (sleeping, hearing):
                one.cancel()
            await asyncio.gather(sleeping, hearing, return_exceptions=True)
