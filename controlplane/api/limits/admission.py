"""Refuses what can wait while this replica has more to do than it can.

A refused call costs what gRPC takes for any call, a third of a millisecond; it waits for nothing,
and its caller stays away for a second. A queue would make everybody wait until nobody wants the
answers any more.
"""

from typing import Final, Protocol

from controlplane.api.context import Call
from controlplane.api.limits.precedence import shed_at
from controlplane.api.limits.waiting import Draw, draw
from controlplane.api.methods import RateClass
from controlplane.domain.access.refusals import Overloaded

RETRY_SECONDS: Final = 1.0
"""The least that a refused caller is told to wait; at most twice as long, at random: those whom one
overload has refused would otherwise be the next one."""


class Lag(Protocol):
    """How late the event loop is; `LagMeter` knows."""

    @property
    def seconds(self) -> float:
        """The lag now."""


class Admission:
    """Decides by the lag of the event loop.

    Attributes:
        refused_by_class: Calls that were refused since the start, by their class.
    """

    def __init__(self, lag: Lag, *, overload_lag_seconds: float, draw: Draw = draw) -> None:
        """Refuse from `overload_lag_seconds` on; see `precedence.shed_at` for who goes when."""
        self.refused_by_class = dict.fromkeys(RateClass, 0)
        self._lag = lag
        self._threshold = overload_lag_seconds
        self._draw = draw

    def admit(self, call: Call) -> None:
        """Let a call pass, or not.

        Raises:
            Overloaded: it can wait, and must.
        """
        lag = self._lag.seconds
        if lag < self._threshold:
            return
        times = shed_at(call.method)
        if times is None or lag < times * self._threshold:
            return
        self.refused_by_class[call.method.rate_class] += 1
        refusal = Overloaded()
        refusal.retry_after_seconds = RETRY_SECONDS * (1 + self._draw())
        raise refusal
