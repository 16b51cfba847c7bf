"""How many calls per second each namespace makes; for people, nothing is decided by it."""

from typing import Final

WINDOW_SECONDS: Final = 5.0
"""What a rate is the mean of: long enough to be steady, short enough to be about now."""


class CallRates:
    """Counts calls by namespace, in this window and the last; older ones are forgotten at once."""

    __slots__ = ("_begun", "_capacity", "_counts", "_last")

    def __init__(self, capacity: int) -> None:
        """Tell at most `capacity` namespaces per window apart; those beyond are not counted."""
        self._capacity = capacity
        self._begun = 0.0
        self._counts: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def count(self, namespace: str, now: float) -> None:
        """Note a call at `now`, in seconds that never go back."""
        if now - self._begun >= WINDOW_SECONDS:
            self._turn(now)
        counts = self._counts
        known = counts.get(namespace, 0)
        if known or len(counts) < self._capacity:
            counts[namespace] = known + 1

    def of(self, namespace: str, now: float) -> float:
        """Return calls per second over the last window, taking calls as evenly spread in it."""
        if now - self._begun >= WINDOW_SECONDS:
            self._turn(now)
        still_in = 1 - (now - self._begun) / WINDOW_SECONDS
        calls = self._last.get(namespace, 0) * still_in + self._counts.get(namespace, 0)
        return calls / WINDOW_SECONDS

    def _turn(self, now: float) -> None:
        passed = (now - self._begun) // WINDOW_SECONDS
        self._last = self._counts if passed == 1 else {}
        self._counts = {}
        self._begun += passed * WINDOW_SECONDS
