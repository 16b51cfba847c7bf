"""Identities: unique, sortable by time, readable in a log."""

import os
import threading
import time


class TimeSortedIds:
    """UUIDv7-like ids (RFC 9562, section 5.7): 48 bits of milliseconds, then 80 random bits.

    Implements `ports.IdSource`. Within one process ids of one millisecond count up, so that they
    sort in the order in which they were made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def new_id(self, prefix: str) -> str:
        """Return a new id such as `agt-0192f0c1a2b37c3f9d0e5a6b7c8d9e0f`."""
        with self._lock:
            value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
            self._last = value = max(value, self._last + 1)
        return f"{prefix}-{value:032x}"
