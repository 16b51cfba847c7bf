"""What the use cases need from the outside, as Protocols. `storage/` implements them.

The store is a ledger. A use case reads a few records, decides with pure rules, and commits ONE
`Transaction`: conditions, writes, history, deadlines, one change entry and one audit entry, all or
nothing (etcd's transaction, on Redis). The key words MUST and MAY are those of RFC 2119; the suite
in `tests/contracts/` holds every implementation to them.

Revisions: every commit in a namespace gets the next number (1, 2, 3 ...). A record carries
`revision` (of its last change) and `generation` (of the write that made it, kept over later changes
unless a `Put` asks for a fresh one). Times are milliseconds since 1970 on the store's clock.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from controlplane.services.transaction import (
    ABSENT,
    ANY,
    UNFOLLOWED,
    Append,
    AuditEntry,
    ClearDeadline,
    Collection,
    Count,
    Delete,
    Expect,
    Put,
    Record,
    RequestKey,
    Require,
    RequireClock,
    RequireExpired,
    ResetCount,
    SetDeadline,
    Step,
    Transaction,
)

__all__ = [
    "ABSENT",
    "ANY",
    "UNFOLLOWED",
    "Append",
    "AuditEntry",
    "BeatLog",
    "BeatRecord",
    "CatchUp",
    "ChangeFeed",
    "ClearDeadline",
    "Clock",
    "Collection",
    "Committed",
    "ConditionFailed",
    "Count",
    "Delete",
    "Expect",
    "IdSource",
    "Ledger",
    "Position",
    "Put",
    "Record",
    "RequestKey",
    "Require",
    "RequireClock",
    "RequireExpired",
    "ResetCount",
    "SetDeadline",
    "Step",
    "Touched",
    "Transaction",
]
"""What is made of steps lives in `transaction`, and is imported from here."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit happened: now, or (`replayed`) when the same request came first."""

    revision: int
    at_ms: int
    replayed: bool = False
    answer: str = ""


class ConditionFailed(Exception):
    """A condition did not hold; nothing was written.

    `step` is the index of the first failing step; `current_revision` and `current_generation`
    describe the record it names (0 if it does not exist).
    """

    def __init__(self, step: int, current_revision: int = 0, current_generation: int = 0) -> None:
        super().__init__(f"condition of step {step} does not hold")
        self.step = step
        self.current_revision = current_revision
        self.current_generation = current_generation


class Ledger(Protocol):
    """The authoritative state. Every method MAY raise StoreUnavailable."""

    async def commit(self, transaction: Transaction) -> Committed:
        """Apply a transaction.

        MUST be atomic, MUST write the change entry and the audit entry with the state, and MUST
        answer a repeated RequestKey with the first result (`replayed=True`) before it looks at any
        condition. After StoreUnavailable the transaction may or may not have been applied.

        Raises:
            ConditionFailed: a condition did not hold; nothing was written.
            RequestIdReused: the request_id is known with another digest.
        """

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        """Apply several independent transactions in one round trip, each for itself, in order.

        Items are what `commit` would return, or the exception it would raise (not raised here).
        """

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        """Return the newest records, in order; None where there is none. MUST read the primary."""

    async def read_counts(self, namespace: str, counters: Sequence[str]) -> list[int]:
        """Return counters, in order; 0 where there is none. MUST read the primary."""

    async def read_history(
        self, namespace: str, history: str, *, before: int | None = None, limit: int = 100
    ) -> list[Record]:
        """Return entries of a history, newest first, with a revision below `before`."""

    async def read_audit(
        self, namespace: str, *, after: int = 0, limit: int = 100
    ) -> list[tuple[int, int, AuditEntry]]:
        """Return (revision, at_ms, entry) of the audit log above `after`, oldest first."""

    async def find_request(self, namespace: str, request: RequestKey) -> Committed | None:
        """Return the remembered result of a request, as a replay; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the history of a namespace.

    `fingerprint` identifies the change entry at `revision`: a store that lost acknowledged writes
    and went on has another one there, which is how a broken history is noticed.
    """

    epoch: str = ""
    revision: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Touched:
    """One record that changed, as it is now (None: deleted)."""

    collection: Collection
    key: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What happened since a position: either changes, or the demand to load everything anew."""

    position: Position
    touched: tuple[Touched, ...] = ()
    resync: bool = False
    """True: history before `position` was trimmed or broken; call `load`."""
    more: bool = False
    """True: there is more; call again at once."""


class ChangeFeed(Protocol):
    """How a replica follows the ledger. Every method MAY raise StoreUnavailable."""

    async def namespaces(self) -> frozenset[str]:
        """Return every namespace that was ever written."""

    def load(self, namespace: str) -> AsyncIterator[tuple[Position, list[Touched]]]:
        """Yield all records in batches, each with the position to catch up from afterwards.

        Every batch carries the same position, taken before the first record was read: records
        MAY be newer than it, MUST NOT be older, and `catch_up` from there MUST make the copy
        exact. An empty namespace yields one empty batch.
        """

    async def catch_up(self, namespace: str, position: Position) -> CatchUp:
        """Return what changed after `position`, read in one atomic step with the records.

        MUST demand a resync if entries after `position` were trimmed, if the revision went back, if
        the entry at `position` is not the one that was there, or if the epoch changed.
        """

    def hint(self, namespace: str) -> None:
        """Be told that a commit was made here: `wait` MUST return the namespace soon."""

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Wait for news; return the namespaces that may have some.

        Wake-ups are hints: MAY be spurious, MUST NOT be lost for longer than the anti-entropy
        period (2 s; in poll mode 0.25 s). After a reconnect of the notification channel every
        namespace MUST be returned. On timeout returns what is due for a check, possibly nothing.
        """


class BeatRecord(NamedTuple):
    """The latest beat of one instance, as it is shared between replicas.

    A tuple, because one is made for every beat: a frozen dataclass costs four times as much.
    """

    instance_id: str
    generation: int
    in_flight: int
    completed: int
    failed: int
    latency_ms: float
    progress_token: str = ""
    config_attempted: int = 0
    config_running: int = 0
    config_status: int = 0
    """0 unknown, 1 applying, 2 applied, 3 failed."""
    config_error: str = ""


class BeatLog(Protocol):
    """Beats: batched, not audited, silent. Every method MAY raise StoreUnavailable."""

    async def flush(
        self, namespace: str, deadlines: Mapping[int, Sequence[str]], beats: Sequence[BeatRecord]
    ) -> int:
        """Prolong deadlines (`after_ms -> instance ids`), publish beats, return the store's time.

        MUST NOT give a deadline to an instance that has none (deregistered, lost), and MUST NOT
        shorten one. One round trip.
        """

    async def read_beats(
        self, cursors: Mapping[str, str]
    ) -> dict[str, tuple[str, list[BeatRecord]]]:
        """Return what OTHER replicas flushed since the cursor of each namespace, and new cursors.

        The cursor "" means "from now on".
        """

    async def due(
        self, namespace: str, *, limit: int, freeze_gap_ms: int, grace_ms: int
    ) -> tuple[int, int, list[str]]:
        """Return (store's time, number of all deadlines, instances whose deadline has passed).

        Records that somebody looked. If nobody looked for longer than `freeze_gap_ms` (the store or
        every replica was away), nothing is due for `grace_ms`. At most `limit`, oldest first.
        """

    async def deadlines(self, namespace: str) -> Mapping[str, int]:
        """Return the deadline of every instance that has one."""


class Clock(Protocol):
    """Time inside this process."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def store_ms(self) -> int:
        """Return the best estimate of the store's clock, in milliseconds since 1970."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class IdSource(Protocol):
    """Makes identities."""

    def new_id(self, prefix: str) -> str:
        """Return a unique, sortable id such as `agt-0192...`."""
