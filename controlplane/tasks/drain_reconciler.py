"""Carries drains and emergency stops on: the loop around `services.drains`."""

import logging
import random
from typing import Final

from controlplane.domain.drains import DrainPhase
from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.lifecycle.drains import Drains
from controlplane.services.lifecycle.emergency_stops import EmergencyStops
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView, ReadModel

PERIOD_SECONDS: Final = 0.5
"""Mean time between looks: how late a drain is found done. Draining instances beat every second."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

TIDY_ROUNDS: Final = 120
"""Rounds, about a minute, after which records of old drains and stops are looked for as well."""

_log = logging.getLogger("fleetplane.drains")


class DrainReconciler:
    """The loop; every replica runs one."""

    def __init__(
        self,
        drains: Drains,
        stops: EmergencyStops,
        read_model: ReadModel,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._drains = drains
        self._stops = stops
        self._read_model = read_model
        self._clock = clock
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._rounds = 0
        self.failures = 0
        """Rounds that the store did not answer."""

    async def run(self) -> None:
        """Carry on until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(self._period_seconds * jitter)
            await self.round()

    async def round(self) -> None:
        """Look once at every namespace in which something is under way."""
        tidy = self._rounds % TIDY_ROUNDS == 0
        self._rounds += 1
        for namespace, view in tuple(self._read_model.views().items()):
            try:
                if _is_stopping(view):
                    await self._stops.tick(namespace)
                if _is_draining(view) or (tidy and view.work.drains):
                    await self._drains.tick(namespace)
                if tidy and view.work.stops:
                    await self._stops.forget_old(namespace)
            except (StoreUnavailable, NotReady) as failure:
                self.failures += 1
                _log.debug("drains were not carried on", extra={"error": failure.message})
                return


def _is_draining(view: NamespaceView) -> bool:
    return any(drain.phase is DrainPhase.DRAINING for drain in view.work.drains.values())


def _is_stopping(view: NamespaceView) -> bool:
    return any(not stop.settled for stop in view.work.stops.values())
