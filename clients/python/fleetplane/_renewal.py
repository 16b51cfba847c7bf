"""Replaces the certificate of a connection in time."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from fleetplane._calls import MAX_BACKOFF, Backoff, is_final, is_shut_out
from fleetplane._enrolment import Enroller
from fleetplane._exceptions import FleetError, Unauthenticated

if TYPE_CHECKING:  # the connection is made by who makes this
    from fleetplane._connected import Connection

_log: Final = logging.getLogger("fleetplane")

SLICE: Final = 30.0
"""Longest sleep in seconds: timers stand still while a machine is suspended, lives do not."""

MAX_PAUSE: Final = 60.0
"""Longest pause in seconds between attempts that the daemon refuses; and deadline of a renewal."""

PATIENCE: Final = 5.0
"""Seconds that a refused call waits for the certificate it sets off."""


class Renewal:
    """Renews a certificate when it is due, again and again until it works.

    When the certificate has ended, or the daemon says so, or hangs up on whoever shows it because
    its root is trusted no more, it enrols anew instead.

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
        patience = PATIENCE if self._hurry.is_set() else MAX_PAUSE
        self._hurry.clear()
        held = self._enroller.held
        half = self._half = max(held.expires_at - held.renew_at, 0.0) if held is not None else 0.0
        away = Backoff(max(min(1.0, half / 20), 0.01), max(min(MAX_BACKOFF, half / 4), 0.1))
        shut_out = Backoff(max(min(1.0, half / 20), 0.01), MAX_PAUSE)
        refused = False
        while True:
            left = held.expires_at - time.time() if held is not None else 0.0
            enrols, refused = refused or left <= 0, False
            try:
                if enrols:
                    config = await self._enroller.enrol()
                else:
                    config = await self._enroller.renew(self._connection, min(left, patience))
            except (FleetError, OSError, ValueError) as error:
                self._note(error, "got with the join token" if enrols else "renewed")
                if not enrols and _is_worthless(error):
                    refused = True  # it has ended for the daemon: try the join token, now
                    continue
                backoff = shut_out if isinstance(error, FleetError) and is_final(error) else away
                wait = backoff.next(error.retry_after if isinstance(error, FleetError) else None)
                await asyncio.sleep(wait if enrols else min(wait, max(left, 0.0)))
            else:
                self._connection.exchange(config)
                self._hurry.clear()
                self.error = None
                self._replaced.set()
                return

    def _note(self, error: Exception, what: str) -> None:
        level = logging.DEBUG if str(error) == str(self.error) else logging.WARNING  # once will do
        _log.log(level, "the certificate cannot be %s: %s", what, error)
        self.error = error


def _is_worthless(error: Exception) -> bool:
    """Whether the certificate does not help any more, so that another attempt takes another one."""
    return isinstance(error, Unauthenticated) or (
        isinstance(error, FleetError) and is_shut_out(error)
    )
