"""All agent ids in order, brought up to date when somebody asks for them."""

from bisect import bisect_left, insort
from collections.abc import Sequence

_FEW = 64
"""Up to this many ids are inserted or deleted one by one, at 30 us each in a list of 100,000; for
more the list is made anew."""


_MOST_WAITING = 4096
"""Newcomers that are left for the next one who asks: sorting them in takes 5 ms. While a fleet is
loaded there are more, and then nobody should have to wait for all of them at once."""


class IdOrder:
    """Ids that come and go, as a sorted list."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._newcomers: set[str] = set()
        self._leavers: set[str] = set()

    def __len__(self) -> int:
        return len(self._order) + len(self._newcomers) - len(self._leavers)

    def add(self, identity: str) -> None:
        """Add an id that is not there."""
        if identity in self._leavers:
            self._leavers.discard(identity)
        else:
            self._newcomers.add(identity)
            if len(self._newcomers) > _MOST_WAITING:
                self.ids()

    def remove(self, identity: str) -> None:
        """Remove an id that is there."""
        if identity in self._newcomers:
            self._newcomers.discard(identity)
        else:
            self._leavers.add(identity)

    def ids(self) -> Sequence[str]:
        """Return all ids in order. Not to be changed, and only good until the next change."""
        if self._leavers:
            self._let_go(self._leavers)
            self._leavers = set()
        if self._newcomers:
            self._take_in(self._newcomers)
            self._newcomers = set()
        return self._order

    def _let_go(self, leavers: set[str]) -> None:
        if len(leavers) > _FEW:
            self._order = [identity for identity in self._order if identity not in leavers]
            return
        for identity in leavers:
            del self._order[bisect_left(self._order, identity)]

    def _take_in(self, newcomers: set[str]) -> None:
        if len(newcomers) > _FEW:
            self._order.extend(newcomers)
            self._order.sort()
            return
        for identity in newcomers:
            insort(self._order, identity)
