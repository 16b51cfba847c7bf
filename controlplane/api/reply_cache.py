"""Remembers ready replies of questions that are asked over and over.

Works with `pipeline.raw_unary`: the request's bytes are the key, the version of the data that
answered is the condition, the reply's bytes are the value.
"""

from collections.abc import Hashable
from typing import Final

MEBIBYTE: Final = 1024 * 1024
DEFAULT_BYTES: Final = 64 * MEBIBYTE

_Entry = tuple[Hashable, bytes]


class ReplyCache:
    """Ready replies by request, bounded in number and in bytes; every operation is O(1).

    Two generations take turns: entries go into the young one; when it is full, it becomes the old
    one and the old one is dropped as a whole. An entry that is used moves to the young one, so what
    is asked often stays.
    """

    __slots__ = ("_capacity", "_limit", "_old", "_old_bytes", "_young", "_young_bytes")

    def __init__(self, capacity: int, *, maximum_bytes: int = DEFAULT_BYTES) -> None:
        """Hold at most `capacity` replies (at least 2) and `maximum_bytes` of keys and replies.

        Raises:
            ValueError: `capacity` is below 2 or `maximum_bytes` is not positive.
        """
        if capacity < 2 or maximum_bytes < 1:  # noqa: PLR2004 - one per generation
            raise ValueError("a reply cache needs room for two replies")
        self._capacity = capacity // 2
        self._limit = maximum_bytes // 2
        self._young: dict[bytes, _Entry] = {}
        self._old: dict[bytes, _Entry] = {}
        self._young_bytes = 0
        self._old_bytes = 0

    def __len__(self) -> int:
        """Return how many replies are held; one that moved between generations may count twice."""
        return len(self._young) + len(self._old)

    @property
    def held_bytes(self) -> int:
        """Bytes of all keys and replies."""
        return self._young_bytes + self._old_bytes

    def get(self, key: bytes, version: Hashable) -> bytes | None:
        """Return the reply to `key` made of `version`, or None."""
        entry = self._young.get(key)
        if entry is not None:
            return entry[1] if entry[0] == version else None
        entry = self._old.get(key)
        if entry is None or entry[0] != version:
            return None
        self.put(key, version, entry[1])
        return entry[1]

    def put(self, key: bytes, version: Hashable, reply: bytes) -> None:
        """Remember a reply; one that would fill a quarter of the cache by itself is not kept."""
        size = len(key) + len(reply)
        if size * 2 > self._limit:
            return
        previous = self._young.get(key)
        if previous is not None:
            self._young_bytes -= len(key) + len(previous[1])
        elif len(self._young) >= self._capacity:
            self._turn()
        if self._young_bytes + size > self._limit:
            self._young.pop(key, None)
            self._turn()
        self._young[key] = (version, reply)
        self._young_bytes += size

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old = {}, {}
        self._young_bytes = self._old_bytes = 0

    def _turn(self) -> None:
        self._old, self._old_bytes = self._young, self._young_bytes
        self._young, self._young_bytes = {}, 0
