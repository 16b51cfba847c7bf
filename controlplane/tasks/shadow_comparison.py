"""The loop that compares what was decided with what a shadowed candidate would have decided."""

import logging
from typing import Final

from controlplane.services.policies.shadow import Shadow
from controlplane.services.ports import Clock

PAUSE_SECONDS: Final = 0.05
"""Between two goes: the thread leaves most of the processor to those who are answered."""

_log: Final = logging.getLogger("fleetplane.policies")


class ShadowComparison:
    """Owns the work; nothing of it may stop the replica."""

    def __init__(self, shadow: Shadow, clock: Clock) -> None:
        self._shadow = shadow
        self._clock = clock

    async def run(self) -> None:
        """Compare as long as the replica runs."""
        while True:
            await self._shadow.heard.wait()
            try:
                await self._shadow.compare()
            except Exception:  # noqa: BLE001 - a comparison must not end the replica
                _log.exception("a comparison with a shadowed candidate failed")
            await self._clock.sleep(PAUSE_SECONDS)
