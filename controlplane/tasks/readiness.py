"""Keeps the health service honest: ready means that this replica can do its job now."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import Clock

PROBE_SECONDS = 1.0
"""Pause between two probes of the store."""

_log = logging.getLogger("fleetplane.readiness")


class Readiness(Protocol):
    """Whom to tell."""

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - reads as a sentence
        """Say whether the replica is ready."""


class ReadinessProbe:
    """Ready once the first snapshot is served, and while the store was there lately.

    A short absence of the store changes nothing: reads are answered from memory and agents keep
    their connections. A long one takes the replica out of load balancing.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[None]],
        caught_up: asyncio.Event,
        health: Readiness,
        clock: Clock,
        *,
        unready_after_seconds: float,
        on_contact: Callable[[], None] = lambda: None,
    ) -> None:
        """Probe with `ping`; `on_contact` hears whenever the store has answered."""
        self._ping = ping
        self._caught_up = caught_up
        self._health = health
        self._clock = clock
        self._patience = unready_after_seconds
        self._on_contact = on_contact
        self._ready = False

    async def run(self) -> None:
        """Probe until cancelled."""
        await self._caught_up.wait()
        last_contact = self._clock.monotonic()
        self._on_contact()
        while True:
            self._tell(self._clock.monotonic() - last_contact < self._patience)
            await self._clock.sleep(PROBE_SECONDS)
            try:
                await self._ping()
            except StoreUnavailable:
                continue
            last_contact = self._clock.monotonic()
            self._on_contact()

    def _tell(self, ready: bool) -> None:  # noqa: FBT001 - one private switch
        if ready == self._ready:
            return
        self._ready = ready
        self._health.set_ready(ready)
        if ready:
            _log.info("ready")
        else:
            _log.error("not ready: the store is away", extra={"seconds": self._patience})
