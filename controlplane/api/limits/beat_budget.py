"""Bounds what one heartbeat stream may say per second."""

from collections.abc import Callable
from math import inf

from controlplane.api.limits.waiting import Draw, draw, time_to_wait
from controlplane.domain.access.refusals import RateLimited
from controlplane.domain.token_bucket import TokenBucket
from controlplane.services.ports import Clock


def _ignored() -> None:
    """Be told about refusals, and do nothing."""


class BeatBudget:
    """The beats of one stream: a bucket of its own, so that nobody's beats are paid by others."""

    __slots__ = ("_bucket", "_clock", "_draw", "_rate", "_refused")

    def __init__(
        self,
        clock: Clock,
        *,
        beats_per_second: float = inf,
        refused: Callable[[], None] = _ignored,
        draw: Draw = draw,
    ) -> None:
        """Allow `beats_per_second` (ten seconds' worth at once; default: any number).

        `refused` is called with each refusal.
        """
        self._bucket = TokenBucket()
        self._clock = clock
        self._rate = beats_per_second
        self._refused = refused
        self._draw = draw

    def spend(self, beats: int) -> None:
        """Pay for one message; call it before the beats are counted.

        A message without beats costs as much as one beat: reading and answering it is the larger
        part of the work.

        Raises:
            RateLimited: per `stream`; end the stream with it. Nothing was taken.
        """
        rate = self._rate
        if rate == inf:
            return
        wait = self._bucket.spend(max(beats, 1), rate, self._clock.monotonic())
        if wait:
            self._refused()
            raise RateLimited(
                "beats per second",
                limit=round(rate),
                per="stream",
                retry_after_seconds=time_to_wait(wait, self._draw),
            )
