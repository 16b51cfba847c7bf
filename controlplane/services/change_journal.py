"""The latest changes of agents in a namespace: what a watcher missed, without looking at all."""

from collections import deque
from collections.abc import Collection

_KEPT_IDS = 20_000
"""Changes kept: what a watcher may miss while it reconnects, at some 100 bytes each."""


class ChangeJournal:
    """Which agents, or instances of agents, changed at which revision. Bounded."""

    def __init__(self, kept_ids: int = _KEPT_IDS) -> None:
        self._kept_ids = kept_ids
        self._entries: deque[tuple[int, tuple[str, ...]]] = deque()
        self._size = 0
        self._floor: int | None = None
        """Changes up to here are not known; None before the first note."""

    def note(self, agent_ids: Collection[str], revision: int) -> None:
        """Note what changed on the way to `revision`.

        Every change must be noted, in order. The first note is that of the initial load, or of its
        first batch: its revision is where knowledge begins.
        """
        if self._floor is None:
            self._floor = revision
        if not agent_ids or revision <= self._floor:
            return
        self._entries.append((revision, tuple(agent_ids)))
        self._size += len(agent_ids)
        while self._size > self._kept_ids:
            self._floor, dropped = self._entries.popleft()
            self._size -= len(dropped)

    def since(self, revision: int) -> set[str] | None:
        """Return the ids of agents that changed after `revision`; None if that is not known."""
        if self._floor is None or revision < self._floor:
            return None
        changed: set[str] = set()
        for at, agent_ids in reversed(self._entries):
            if at <= revision:
                break
            changed.update(agent_ids)
        return changed
