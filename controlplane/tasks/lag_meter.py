"""Measures how late this replica is: the one sign of overload that no kind of work can hide."""

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

from controlplane.services.ports import Clock

SAMPLE_SECONDS: Final = 0.1
"""Pause between two samples: ten wake-ups per second cost nothing, and the end of an overload is
seen a fifth of a second after it at the latest."""

NEWEST_SHARE: Final = 0.5
"""Share of the newest sample in the mean: three late ones in a row are most of it."""

QUIET_SECONDS: Final = 10.0
"""Pause between two warnings: an overload swings around its threshold."""

_log = logging.getLogger("fleetplane.overload")


async def _at_once() -> None:
    """Be a door without a queue."""


class LagMeter:
    """Knows how late tasks get their turn and, if it may knock, how long calls wait before that.

    Attributes:
        seconds: The lag: the least of the newest sample, the one before, and the mean of the last
            few. So one pause (a collection of garbage, a process that was suspended) is no
            overload: what waited for its end is welcome. The first sample in time ends one.
    """

    __slots__ = ("_before", "_clock", "_knock", "_mean", "_warn_seconds", "_warned_at", "seconds")

    def __init__(
        self,
        clock: Clock,
        *,
        warn_seconds: float,
        knock: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        """Measure by `clock`.

        Args:
            clock: Measures.
            warn_seconds: Say so in the log when the lag reaches this.
            knock: Returns when a new call would have been answered, within a bounded time.
        """
        self.seconds = 0.0
        self._knock = knock
        self._clock = clock
        self._warn_seconds = warn_seconds
        self._warned_at = -inf
        self._mean = 0.0
        self._before = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        clock = self._clock
        while True:
            due = clock.monotonic() + SAMPLE_SECONDS
            await clock.sleep(SAMPLE_SECONDS)
            await self._knock()
            now = clock.monotonic()
            self._take(max(0.0, now - due))
            self._warn(now)

    def _take(self, sample: float) -> None:
        self._mean += NEWEST_SHARE * (sample - self._mean)
        self.seconds = min(sample, self._before, self._mean)
        self._before = sample

    def _warn(self, now: float) -> None:
        if self.seconds >= self._warn_seconds and now - self._warned_at >= QUIET_SECONDS:
            self._warned_at = now
            _log.warning(
                "overloaded: calls that can wait are refused",
                extra={"lag_seconds": round(self.seconds, 3)},
            )
