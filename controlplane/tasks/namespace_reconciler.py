"""Finishes removals of namespaces that a replica began and did not live to end."""

import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.namespaces.removal import NamespaceRemoval
from controlplane.services.ports import Clock

PERIOD_SECONDS: Final = 5.0
"""Mean time between looks, each a pass over the namespaces in memory."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

_log = logging.getLogger("fleetplane.namespaces")


class NamespaceReconciler:
    """The loop; every replica runs one."""

    def __init__(
        self,
        removal: NamespaceRemoval,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._removal = removal
        self._clock = clock
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self.finished = 0
        """Removals of others that this replica finished since its start."""
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
        try:
            finished = await self._removal.finish_abandoned()
        except (StoreUnavailable, NotReady) as failure:
            self.failures += 1
            _log.debug("removals of namespaces wait", extra={"error": failure.message})
            return
        if finished:
            self.finished += finished
            _log.info("removals of namespaces were finished", extra={"namespaces": finished})
