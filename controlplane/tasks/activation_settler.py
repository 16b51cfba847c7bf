"""Carries activations on that people approve: the loop around `services.lifecycle`."""

import logging
import random
from typing import Final

from controlplane.domain.errors import DomainError, NotReady, StoreUnavailable
from controlplane.services.lifecycle.parked_activations import ParkedActivations
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

PERIOD_SECONDS: Final = 0.5
"""Mean time between two looks: how late an approved agent is activated."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

_log = logging.getLogger("fleetplane.approvals")


class ActivationSettler:
    """The loop; every replica runs one."""

    def __init__(self, parked: ParkedActivations, read_model: ReadModel, clock: Clock) -> None:
        self._parked = parked
        self._read_model = read_model
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self.failures = 0
        """Looks that ended early."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(PERIOD_SECONDS * jitter)
            await self.round()

    async def round(self) -> None:
        """Look once at every namespace."""
        for namespace in tuple(self._read_model.views()):
            try:
                await self._parked.tick(namespace)
            except (StoreUnavailable, NotReady) as failure:
                self.failures += 1
                _log.debug("parked activations wait", extra={"error": failure.message})
                return
            except DomainError as refusal:
                self.failures += 1
                _log.warning(
                    "a parked activation could not be carried on",
                    extra={"namespace": namespace, "error": refusal.message},
                )
