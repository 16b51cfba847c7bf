"""What the audit needs from the store: to read what commits wrote, and to keep seals of it.

Entries are written by commits only (`Ledger.commit`). The suite in `tests/contracts/` holds every
implementation to the words MUST and MAY.
"""

from typing import NamedTuple, Protocol

from controlplane.domain.audit.chain import Seal, StoredEntry


class Extent(NamedTuple):
    """From where to where the audit of a namespace reaches."""

    first: int
    """Sequence of the first entry that is stored; 0: none is."""
    last: int
    """Sequence of the newest commit, whether its entry is there or not; 0: never any."""
    sealed: int
    """Sequence through which it was ever sealed, whether the seals are there or not."""


class AuditLog(Protocol):
    """The entries and seals of all namespaces. Every method MAY raise StoreUnavailable."""

    async def extent(self, namespace: str) -> Extent:
        """Return how far the audit reaches, read in one atomic step. MUST read the primary."""

    async def entries(self, namespace: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Return entries with a sequence above `after`, oldest first, as they are stored.

        MUST return whatever is there: gaps, and several entries under one sequence.
        """

    async def entries_before(self, namespace: str, *, before: int, limit: int) -> list[StoredEntry]:
        """Return entries with a sequence below `before`, newest first."""

    async def seals(self, namespace: str, *, after: int, limit: int) -> list[Seal]:
        """Return seals whose last entry is above `after`, oldest first.

        A seal that cannot be read MUST be returned as one that is not `is_whole`.
        """

    async def newest_seal(self, namespace: str) -> Seal | None:
        """Return the seal with the highest sequence; None: there is none."""

    async def append_seal(self, namespace: str, seal: Seal) -> bool:
        """Keep a seal if it continues what was sealed; return whether it was kept.

        MUST compare `seal.first - 1` with `Extent.sealed` and `seal.previous` with the head of the
        newest seal, and write, in one atomic step: of several replicas that seal the same entries
        one succeeds, and none continues a seal that a store has lost. Where nothing was ever
        sealed, a seal that begins with entry 1 continues that.
        """

    async def trim(self, namespace: str, through: int) -> int:
        """Remove entries through a sequence, and seals that end before it; return how many entries.

        MUST keep the seal that covers `through`, and `Extent.sealed`. Idempotent.
        """
