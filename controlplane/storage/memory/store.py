"""The state that the ports in this folder share."""

import os
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from controlplane.domain.audit.chain import Seal, StoredEntry
from controlplane.services.policies.decision_log_port import StoredBatch
from controlplane.services.ports import (
    BeatRecord,
    Clock,
    Collection,
    Committed,
    Record,
)

CHANGES_KEEP: Final = 10_000
"""Change entries per namespace, as on Redis."""

REQUEST_TTL_MS: Final = 10 * 60 * 1000
"""How long the result of a request is remembered: the 10 minutes of `RequestKey`."""

BEATS_KEEP: Final = 256
"""Flushes that other replicas can still read: a few seconds of them."""


@dataclass(frozen=True, slots=True)
class ChangeEntry:
    """What one commit touched."""

    revision: int
    fingerprint: str
    touched: tuple[tuple[Collection, str], ...]


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """The result of an idempotent request, and until when it is known."""

    digest: str
    committed: Committed
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class BeatEntry:
    """One flush of one replica."""

    sequence: int
    replica_id: str
    beats: tuple[BeatRecord, ...]


@dataclass(slots=True)
class StoredDecisions:
    """The log of decisions of one namespace."""

    batches: deque[StoredBatch] = field(default_factory=deque)
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    """source -> its last sequence, and when that is forgotten"""
    last: tuple[int, int] = 0, -1
    """The last place."""


@dataclass(slots=True)
class NamespaceState:
    """Everything that is stored about one namespace."""

    changes: deque[ChangeEntry]
    revision: int = 0
    epoch: str = ""
    records: dict[Collection, dict[str, Record]] = field(
        default_factory=lambda: {collection: {} for collection in Collection}
    )
    histories: dict[str, deque[Record]] = field(default_factory=dict)
    audit: list[StoredEntry] = field(default_factory=list)
    seals: list[Seal] = field(default_factory=list)
    sealed: int = 0
    requests: dict[str, RememberedRequest] = field(default_factory=dict)
    deadlines: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    beats: deque[BeatEntry] = field(default_factory=lambda: deque(maxlen=BEATS_KEEP))
    beat_sequence: int = 0
    decisions: StoredDecisions = field(default_factory=StoredDecisions)
    swept_at_ms: int | None = None
    frozen_until_ms: int = 0


class MemoryStore:
    """All namespaces, on the time of `clock`.

    `changes_keep` bounds the change feed of each namespace (at least 1).
    """

    def __init__(self, clock: Clock, *, changes_keep: int = CHANGES_KEEP) -> None:
        self.clock = clock
        self.namespaces: defaultdict[str, NamespaceState] = defaultdict(
            lambda: NamespaceState(changes=deque(maxlen=changes_keep))
        )
        self._listeners: set[Callable[[str], None]] = set()

    def now_ms(self) -> int:
        """Return the store's time."""
        return self.clock.store_ms()

    def written(self) -> frozenset[str]:
        """Return the namespaces that have had a commit."""
        return frozenset(name for name, state in self.namespaces.items() if state.revision)

    def listen(self, on_commit: Callable[[str], None]) -> None:
        """Have `on_commit` called with the namespace after each commit, until `unlisten`."""
        self._listeners.add(on_commit)

    def unlisten(self, on_commit: Callable[[str], None]) -> None:
        """Undo `listen`."""
        self._listeners.discard(on_commit)

    def announce(self, namespace: str) -> None:
        """Tell every listener that a namespace has a new revision."""
        for on_commit in tuple(self._listeners):
            on_commit(namespace)


def random_token() -> str:
    """Return 64 random bits as text: a fingerprint or an epoch."""
    return os.urandom(8).hex()
