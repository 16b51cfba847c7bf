"""What is to be looked at when: a table of moments that gives the earliest first."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

SLACK: Final = 64
"""Outdated entries kept beyond as many as there are keys, before the heap is made anew."""


class Agenda:
    """At most one moment per key, in milliseconds. A change costs O(log n), amortised."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """What `_at` has, and entries that it no longer has."""

    def __len__(self) -> int:
        return len(self._at)

    def put(self, key: str, at_ms: int) -> None:
        """Put a key at a moment, instead of any other."""
        if self._at.get(key) == at_ms:
            return
        self._at[key] = at_ms
        heappush(self._heap, (at_ms, key))
        if len(self._heap) > 2 * len(self._at) + SLACK:
            self._heap = [(at, one) for one, at in self._at.items()]
            heapify(self._heap)

    def drop(self, key: str) -> None:
        """Take a key off; one that is not there is no failure."""
        self._at.pop(key, None)

    def due(self, now_ms: int, limit: int) -> list[str]:
        """Return at most `limit` keys whose moment has come, earliest first; they stay."""
        found: list[tuple[int, str]] = []
        for entry in self._pop_until(now_ms):
            if len(found) == limit:
                heappush(self._heap, entry)
                break
            found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return [key for _, key in found]

    def _pop_until(self, now_ms: int) -> Iterator[tuple[int, str]]:
        """Pop what is due; entries that are outdated, or there twice, are dropped."""
        last: tuple[int, str] | None = None
        while self._heap and self._heap[0][0] <= now_ms:
            entry = heappop(self._heap)
            if entry != last and self._at.get(entry[1]) == entry[0]:
                last = entry
                yield entry
