"""A ledger that fails on demand, before or after it did what it was asked."""

from collections import deque
from collections.abc import Sequence

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Ledger,
    Record,
    RequestKey,
    Transaction,
)


class FaultyLedger:
    """`services.ports.Ledger` around another one. Faults are consumed by calls in their order."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner
        self._faults: deque[Exception] = deque()
        self._lost_answers = 0
        self.commits = 0
        """Commits that reached the inner ledger."""

    def fail_next(self, error: Exception | None = None, *, times: int = 1) -> None:
        """Make the next calls raise `error` (StoreUnavailable) without doing anything."""
        self._faults.extend([error or StoreUnavailable()] * times)

    def execute_then_fail(self, *, times: int = 1) -> None:
        """Make the next commits happen and yet be reported as StoreUnavailable."""
        self._lost_answers += times

    async def commit(self, transaction: Transaction) -> Committed:
        self._fail()
        self.commits += 1
        committed = await self._inner.commit(transaction)
        self._lose_answer()
        return committed

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        self._fail()
        self.commits += len(transactions)
        outcomes = await self._inner.commit_many(transactions)
        self._lose_answer()
        return outcomes

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        self._fail()
        return await self._inner.read(namespace, collection, keys)

    async def read_counts(self, namespace: str, counters: Sequence[str]) -> list[int]:
        self._fail()
        return await self._inner.read_counts(namespace, counters)

    async def read_history(
        self, namespace: str, history: str, *, before: int | None = None, limit: int = 100
    ) -> list[Record]:
        self._fail()
        return await self._inner.read_history(namespace, history, before=before, limit=limit)

    async def read_audit(
        self, namespace: str, *, after: int = 0, limit: int = 100
    ) -> list[tuple[int, int, AuditEntry]]:
        self._fail()
        return await self._inner.read_audit(namespace, after=after, limit=limit)

    async def find_request(self, namespace: str, request: RequestKey) -> Committed | None:
        self._fail()
        return await self._inner.find_request(namespace, request)

    def _fail(self) -> None:
        if self._faults:
            raise self._faults.popleft()

    def _lose_answer(self) -> None:
        if self._lost_answers:
            self._lost_answers -= 1
            raise StoreUnavailable
