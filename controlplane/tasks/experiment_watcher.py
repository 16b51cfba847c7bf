"""Looks after running experiments: the loop around `services.experiments.analyst`."""

import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.experiments.analyst import Analyst
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

PERIOD_SECONDS: Final = 3.0
"""Mean time between two looks: how late a verdict may be. A look at what stands still is one read
of one counter per experiment."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

_log = logging.getLogger("fleetplane.experiments")


class ExperimentWatcher:
    """The loop; every replica runs one, and the first to see a new verdict stores it."""

    def __init__(
        self,
        analyst: Analyst,
        read_model: ReadModel,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._analyst = analyst
        self._read_model = read_model
        self._clock = clock
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self.conclusions = 0
        """Conclusions that this replica has changed since its start."""
        self.failures = 0
        """Looks that the store did not answer."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(self._period_seconds * jitter)
            await self.round()

    async def round(self) -> None:
        """Look at every namespace once."""
        for namespace in tuple(self._read_model.views()):
            try:
                self.conclusions += await self._analyst.round(namespace)
            except (StoreUnavailable, NotReady) as failure:
                self.failures += 1
                _log.debug("experiments wait", extra={"error": failure.message})
                return
