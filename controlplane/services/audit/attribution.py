"""Writes into each audit entry where the call came from that it was made for.

The edge notes it once per call; commits run in the task of the call, or in one that the call has
started, and find it there. Loops of the plane have none, and their entries say nothing of it.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Final, Protocol

from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Ledger,
    Record,
    RequestKey,
    Transaction,
)


class Origin(Protocol):
    """Where a call comes from. Asked only when something is committed."""

    @property
    def address(self) -> str:
        """Address of the peer, such as `ipv4:127.0.0.1:40112`."""

    @property
    def caller_kind(self) -> str:
        """What the caller is, a `CallerKind`."""


_ORIGIN: Final[ContextVar[Origin | None]] = ContextVar("fleetplane_origin", default=None)


def enter_origin(origin: Origin) -> None:
    """Attribute what this task commits from now on, and the tasks that it starts."""
    _ORIGIN.set(origin)


class AttributedLedger:
    """`ports.Ledger` around another one; reads are passed on."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner

    async def commit(self, transaction: Transaction) -> Committed:
        """Apply a transaction; see `Ledger.commit`."""
        return await self._inner.commit(_attributed(transaction))

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        """Apply several transactions; see `Ledger.commit_many`."""
        return await self._inner.commit_many([_attributed(t) for t in transactions])

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


def _attributed(transaction: Transaction) -> Transaction:
    origin = _ORIGIN.get()
    if origin is None or transaction.audit.caller_kind:
        return transaction
    audit = replace(transaction.audit, address=origin.address, caller_kind=origin.caller_kind)
    return replace(transaction, audit=audit)
