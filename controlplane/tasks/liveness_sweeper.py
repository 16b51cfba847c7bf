"""Expires the silent: the loop around `services.expiry`."""

import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.expiry import Expiry
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel
from controlplane.tasks.beat_flusher import BeatFlusher

PERIOD_SECONDS: Final = 0.5
"""Mean time between sweeps: how late an expiry may be."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

_log = logging.getLogger("fleetplane.liveness")


class LivenessSweeper:
    """The loop; every replica runs one.

    While the flusher fails, beats of this replica do not reach the store: it is blind and expires
    nobody, for the instances may be beating here.
    """

    def __init__(
        self,
        expiry: Expiry,
        flusher: BeatFlusher,
        read_model: ReadModel,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._expiry = expiry
        self._read_model = read_model
        self._clock = clock
        self._flusher = flusher
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self.skipped = 0
        """Sweeps left out because this replica was blind."""
        self.failures = 0
        """Sweeps that the store did not answer."""

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(self._period_seconds * jitter)
            await self.round()

    async def round(self) -> None:
        """Sweep every namespace once."""
        for namespace in tuple(self._read_model.views()):
            if self._flusher.is_failing:
                self.skipped += 1
                return
            try:
                await self._expiry.sweep(namespace)
            except (StoreUnavailable, NotReady) as failure:
                self.failures += 1
                _log.debug("sweep failed", extra={"error": failure.message})
                return
