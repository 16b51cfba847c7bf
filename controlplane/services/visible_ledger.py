"""A ledger whose commits are visible here before they are answered.

Followers lag by about a millisecond. Whoever registers an agent and then looks for it, at the same
replica, must find it; so a commit made for a caller waits for this replica's own copy. Other
replicas are reached with `min_revision`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from controlplane.domain.errors import NotReady
from controlplane.services.hub import namespace_topic
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Ledger,
    Record,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

PATIENCE_SECONDS: Final = 0.5
"""Longest wait: the write is safe, and a follower that lags longer must not hold up its author."""


class VisibleLedger:
    """`ports.Ledger` around another one; reads are passed on."""

    def __init__(self, inner: Ledger, read_model: ReadModel, hint: Callable[[str], None]) -> None:
        """Wait on `read_model` after commits to `inner`; `hint` tells its follower of them."""
        self._inner = inner
        self._read_model = read_model
        self._hint = hint

    async def commit(self, transaction: Transaction) -> Committed:
        """Apply a transaction and wait until this replica has seen it."""
        committed = await self._inner.commit(transaction)
        await self._seen(transaction.namespace, committed.revision)
        return committed

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        """Apply several transactions and wait until this replica has seen them all."""
        outcomes = await self._inner.commit_many(transactions)
        newest: dict[str, int] = {}
        for transaction, outcome in zip(transactions, outcomes, strict=True):
            if isinstance(outcome, Committed):
                namespace = transaction.namespace
                newest[namespace] = max(newest.get(namespace, 0), outcome.revision)
        for namespace, revision in newest.items():
            await self._seen(namespace, revision)
        return outcomes

    async def _seen(self, namespace: str, revision: int) -> None:
        self._hint(namespace)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with self._read_model.hub.subscribe((namespace_topic(namespace),)) as news:
                    while self._read_model.view(namespace).position.revision < revision:
                        await news.wait()
        except (TimeoutError, NotReady):
            return

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        """Return the newest records."""
        return await self._inner.read(namespace, collection, keys)

    async def read_counts(self, namespace: str, counters: Sequence[str]) -> list[int]:
        """Return counters."""
        return await self._inner.read_counts(namespace, counters)

    async def read_history(
        self, namespace: str, history: str, *, before: int | None = None, limit: int = 100
    ) -> list[Record]:
        """Return entries of a history, newest first."""
        return await self._inner.read_history(namespace, history, before=before, limit=limit)

    async def read_audit(
        self, namespace: str, *, after: int = 0, limit: int = 100
    ) -> list[tuple[int, int, AuditEntry]]:
        """Return entries of the audit log, oldest first."""
        return await self._inner.read_audit(namespace, after=after, limit=limit)

    async def find_request(self, namespace: str, request: RequestKey) -> Committed | None:
        """Return the remembered result of a request."""
        return await self._inner.find_request(namespace, request)
