"""Removes what sessions kept that nobody asks for any more."""

import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.ports import Clock
from controlplane.services.prompts.pins import PromptPins
from controlplane.services.read_model import ReadModel

PERIOD_SECONDS: Final = 60.0
"""Mean time between looks: pins that have ended are ignored at once, they only take room."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

_log = logging.getLogger("fleetplane.prompts")


class PromptPinSweeper:
    """The loop; every replica runs one, and who comes second finds nothing left."""

    def __init__(
        self,
        pins: PromptPins,
        read_model: ReadModel,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._pins = pins
        self._read_model = read_model
        self._clock = clock
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(self._period_seconds * jitter)
            await self.round()

    async def round(self) -> int:
        """Look at every namespace once; return how many pins were removed."""
        removed = 0
        try:
            for view in tuple(self._read_model.views().values()):
                removed += await self._pins.sweep(view)
        except (StoreUnavailable, NotReady) as failure:
            _log.debug("pins of sessions wait", extra={"error": failure.message})
        return removed
