"""Replaces the certificate of a connection in time."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from fleetplane._calls import Backoff
from fleetplane._enrolment import Enroller
from fleetplane._exceptions import FleetError, Unauthenticated

if TYPE_CHECKING:  # the connection is made by who makes this
    from fleetplane._connected import Connection

_log: Final = logging.getLogger("fleetplane")

SLICE: Final = 30.0
"""Longest sleep in seconds: timers stand still while a machine is suspended, lives do not."""

MAX_PAUSE: Final = 60.0
"""Longest pause in seconds between attempts; a quarter of the time left, if that is shorter."""

PATIENCE: Final = 5.0
"""Seconds that a refused call waits for the certificate it sets off."""


class Renewal:
    """Renews a certificate when it is due, again and again until it works.

    When the certificate has ended, or the daemon says so, it enrols anew instead.

    Args:
        enroller: gets certificates.
        connection: uses them.
    """

    def __init__(self, enroller: Enroller, connection: "Connection") -> None:
        self._enroller = enroller
        self._connection = connection
        self._hurry = asyncio.Event()
        self._replaced = asyncio.Event()
        self._half = 0.0
        self._hurried_at: float | None = None
        self.error: Exception | None = None
        """Why the last attempt failed; None since one worked."""

    async def run(self) -> None:
        """Keep the certificate fresh until cancelled."""
        while True:
            await self._wait_until_due()
            await self._replace()

    async def hurry(self) -> None:
        """Replace the certificate now, because the daemon refused it; return soon in any case.

        At most once in half the life of a certificate: who is shut out stays so.
        """
        now = time.monotonic()
        if self._hurried_at is not None and now - self._hurried_at < self._half:
            return
        self._hurried_at = now
        self._replaced.clear()
        self._hurry.set()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._replaced.wait()
        except TimeoutError:
            _log.debug("the certificate could not be replaced within %g s", PATIENCE)

    async def _wait_until_due(self) -> None:
        while not self._hurry.is_set():
            held = self._enroller.held
            due = held.renew_at - time.time() if held is not None else 0.0
            if due <= 0:
                return
            await self._sleep(min(due, SLICE))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or until it is urgent."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _replace(self) -> None:
        self._hurry.clear()
        held = self._enroller.held
        half = self._half = max(held.expires_at - held.renew_at, 0.0) if held is not None else 0.0
        backoff = Backoff(max(min(1.0, half / 20), 0.01), max(min(MAX_PAUSE, half / 4), 0.1))
        refused = False
        while True:
            left = held.expires_at - time.time() if held is not None else 0.0
            enrols = refused or left <= 0
            refused = False
            try:
                if enrols:
                    config = await self._enroller.enrol()
                else:
                    config = await self._enroller.renew(self._connection, min(left, MAX_PAUSE))
            except (FleetError, OSError, ValueError) as error:
                self.error = error
                what = "got with the join token" if enrols else "renewed"
                _log.warning("the certificate cannot be %s: %s", what, error)
                if isinstance(error, Unauthenticated) and not enrols:
                    refused = True  # it has ended for the daemon: try the join token, now
                    continue
                retry_after = error.retry_after if isinstance(error, FleetError) else None
            else:
                self._connection.exchange(config)
                self._hurry.clear()
                self.error = None
                self._replaced.set()
                return
            await asyncio.sleep(backoff.next(retry_after))
