"""Who matched a filter: a set of agent ids that is read in pages and shares, in order."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from controlplane.domain.selection import RejectionReason
from controlplane.services.id_order import IdOrder

DENSE = 16
"""A set that holds at least one in so many agents is put in order by walking the sorted list of
all; a rarer one is sorted by itself."""

NearMiss = tuple[str, RejectionReason, str]
"""agent_id, the first condition that it fails, and that in words."""


class Matches:
    """The agents that match a filter. Good until the next change of the index that made it."""

    __slots__ = ("_everybody", "_order", "_own", "ids", "near", "version")

    def __init__(
        self, everybody: IdOrder, version: int, ids: AbstractSet[str], own: set[str] | None
    ) -> None:
        """Take over a result.

        Args:
            everybody: All agents.
            version: Of the index when it was made.
            ids: Who matches.
            own: The same set if it belongs to the result, which then keeps it up to date; None if
                it belongs to the index.
        """
        self.version = version
        self.ids = ids
        """Who matches, in no order. Not to be changed."""
        self.near: tuple[int, list[NearMiss]] | None = None
        """What `near_misses` found for how many; forgotten with the next change."""
        self._own = own
        self._everybody = everybody
        self._order: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def kept(self) -> int:
        """How many ids are in memory because of this result."""
        return 0 if self._own is None else len(self._own)

    def follow(
        self, version: int, judged: Iterable[tuple[str, bool]], ids: AbstractSet[str] | None
    ) -> None:
        """Bring the result up to `version`: agents that changed, and whether they match now.

        `ids` is the set that the index keeps, where the result has none of its own.
        """
        self.version = version
        self.near = None
        if ids is not None:
            self.ids = ids
        for agent_id, matches in judged:
            if self._own is not None:
                (self._own.add if matches else self._own.discard)(agent_id)
            if self._order is not None:
                _put(self._order, agent_id, present=matches)

    def page(self, after_id: str, size: int) -> list[str]:
        """Return at most `size` ids behind `after_id` ("" for the first), in order."""
        order = self._sorted()
        if order is None:
            return _walk(self._everybody.ids(), self.ids, after_id, size)
        start = bisect_right(order, after_id)
        return order[start : start + size]

    def share(self, number: int, of: int) -> list[str]:
        """Return the share `number` (0 ... `of` - 1) of the ids: about every `of`-th, in order.

        The shares together are all ids, each once; none is chosen by when its agents came.
        """
        order = self._sorted()
        if order is not None:
            return order[number::of]
        ids = self.ids
        return [agent_id for agent_id in self._everybody.ids()[number::of] if agent_id in ids]

    def _sorted(self) -> list[str] | None:
        """Return the ids in order if they are few among all; None if walking is cheaper."""
        if len(self.ids) * DENSE >= len(self._everybody):
            self._order = None
        elif self._order is None:
            self._order = sorted(self.ids)
        return self._order


def _put(order: list[str], agent_id: str, *, present: bool) -> None:
    position = bisect_left(order, agent_id)
    there = position < len(order) and order[position] == agent_id
    if present and not there:
        insort(order, agent_id)
    elif there and not present:
        del order[position]


def _walk(order: Sequence[str], ids: AbstractSet[str], after_id: str, size: int) -> list[str]:
    page: list[str] = []
    start, step = bisect_right(order, after_id), 2 * size
    while len(page) < size and start < len(order):
        page += [agent_id for agent_id in order[start : start + step] if agent_id in ids]
        start, step = start + step, 2 * step
    return page[:size]
