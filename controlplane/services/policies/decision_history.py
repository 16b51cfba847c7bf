"""The decisions that were made, newest first: read by who searches, replays or reports them.

    async for record in history.newest(namespace, limit=10_000):
        ...

The order is that of recording: decisions of one replica come in their order, those of several
replicas mix within a tenth of a second, and what an agent reports late comes when it was reported.
"""

import logging
from collections.abc import AsyncIterator
from typing import Final

from controlplane.domain.decisions.records import DecisionGap, DecisionRecord
from controlplane.services.policies.decision_log_port import DecisionBatch, DecisionLog, StoredBatch
from controlplane.services.policies.decision_packing import (
    Columns,
    PackedGap,
    UnreadableBatch,
    record_of,
    unpack,
)

BATCHES_PER_READ: Final = 8
"""Batches in one reply of the store: some hundred KB, and a few milliseconds to unpack each."""

_log: Final = logging.getLogger("fleetplane.decisions")


class DecisionHistory:
    """Iterates over the log."""

    def __init__(self, log: DecisionLog) -> None:
        self._decisions = log

    async def newest(
        self, namespace: str, *, limit: int, from_ms: int = 0
    ) -> AsyncIterator[DecisionRecord]:
        """Yield at most `limit` decisions, newest first, recorded at `from_ms` or later.

        Gaps are left out. Claims are as they were stored: see `DecisionRecord.masked_paths`.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        left = limit
        async for stored in self.batches(namespace, from_ms=from_ms):
            columns = content_of(stored.batch)
            if not isinstance(columns, Columns):
                continue
            for row in reversed(range(len(columns.decision_id))):
                if left <= 0:
                    return
                left -= 1
                yield record_of(columns, row)

    async def batches(
        self, namespace: str, *, before: str = "", from_ms: int = 0
    ) -> AsyncIterator[StoredBatch]:
        """Yield batches, newest first, below the place `before` ("": all)."""
        while True:
            page = await self._decisions.newest(
                namespace, before=before, from_ms=from_ms, limit=BATCHES_PER_READ
            )
            for stored in page:
                yield stored
            if len(page) < BATCHES_PER_READ:
                return
            before = page[-1].place

    async def stored_after(
        self, namespace: str, *, after: str, to_ms: int
    ) -> AsyncIterator[StoredBatch]:
        """Yield batches in their order: above the place `after`, recorded at `to_ms` or earlier."""
        while True:
            page = await self._decisions.oldest(
                namespace, after=after, to_ms=to_ms, limit=BATCHES_PER_READ
            )
            for stored in page:
                yield stored
            if len(page) < BATCHES_PER_READ:
                return
            after = page[-1].place


def content_of(batch: DecisionBatch) -> Columns | DecisionGap | None:
    """Return what a batch holds; None if a newer release wrote it, or it is damaged."""
    try:
        content = unpack(batch.packed)
    except UnreadableBatch as error:
        _log.warning("recorded decisions cannot be read", extra={"why": str(error)})
        return None
    return content.gap if isinstance(content, PackedGap) else content
