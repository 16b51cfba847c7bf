"""Writes refused calls to the audit, every few seconds."""

import asyncio
import logging
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.audit.refused import RefusedCalls
from controlplane.services.ports import Clock

PERIOD_SECONDS: Final = 2.0
"""Time between two writes: what one caller is refused in it, for one reason, is one entry."""

LAST_WRITE_SECONDS: Final = 1.0
"""How long the last write may hold up a shutdown."""

_log: Final = logging.getLogger("fleetplane.audit")


class RefusalWriter:
    """The loop; every replica writes what it has refused itself."""

    def __init__(
        self, refused: RefusedCalls, clock: Clock, *, period_seconds: float = PERIOD_SECONDS
    ) -> None:
        self._refused = refused
        self._clock = clock
        self._period_seconds = period_seconds
        self.failures = 0
        """Writes that the store did not take."""

    async def run(self) -> None:
        """Write until cancelled, and once more then."""
        try:
            while True:
                await self._clock.sleep(self._period_seconds)
                await self.round()
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(LAST_WRITE_SECONDS):
                    await self.round(everything=True)
            except TimeoutError:
                _log.warning("refused calls of the last seconds are not in the audit")
            raise

    async def round(self, *, everything: bool = False) -> None:
        """Write once; see `RefusedCalls.write`."""
        try:
            await self._refused.write(everything=everything)
        except (StoreUnavailable, NotReady) as failure:
            self.failures += 1
            _log.debug("refused calls are written later", extra={"error": failure.message})
