"""What the log of decisions needs from a store, as a Protocol. `storage/` implements it.

The log of a namespace is a sequence of batches in the order in which the store took them. A batch
is opaque bytes (`decision_packing`) under a head that lets readers skip it unread. Places in the
log are `<milliseconds>-<number>` on the store's clock, as text, and sort as the two numbers do; any
such text may be asked for, whether a batch is there or not. The suite in `tests/contracts/` holds
every implementation to the key words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

SOURCE_MEMORY_SECONDS: Final = 24 * 60 * 60
"""How long a source that is silent is remembered: who repeats a batch later writes it twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionBatch:
    """Some decisions as they are stored.

    `source` numbers its batches with `sequence`, upwards from 1; together they make a repetition
    harmless. `first_ms` and `last_ms` are when the earliest and the latest of its `count` decisions
    were made; a batch that stands for a gap has a `count` of 0.
    """

    source: str
    sequence: int
    count: int
    first_ms: int
    last_ms: int
    packed: bytes


class StoredBatch(NamedTuple):
    """A batch at its place in the log."""

    place: str
    batch: DecisionBatch

    @property
    def at_ms(self) -> int:
        """When the store took it."""
        return ms_of_place(self.place)


class DecisionLog(Protocol):
    """The recorded decisions. Every method MAY raise StoreUnavailable."""

    async def append(
        self, namespace: str, batch: DecisionBatch, *, memory_seconds: int = SOURCE_MEMORY_SECONDS
    ) -> bool:
        """Add a batch at the end; return False if it was there already.

        MUST have happened when this returns, as durably as commits of the ledger. After
        StoreUnavailable it may or may not have; repeating it MUST NOT write it twice within
        `memory_seconds`. A batch whose `sequence` is not above the last one of its `source`
        MUST be taken for a repetition.
        """

    async def newest(
        self, namespace: str, *, before: str = "", from_ms: int = 0, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches from the newest backwards: below the place `before` ("": all of them).

        None that the store took before `from_ms`. MUST read the primary.
        """

    async def oldest(
        self, namespace: str, *, after: str, to_ms: int, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches in their order: above the place `after`, taken at `to_ms` or earlier."""

    async def trim(self, namespace: str, *, keep_ms: int, max_bytes: int) -> int:
        """Drop the oldest batches: those older than `keep_ms`, and what exceeds `max_bytes`.

        Bytes are those of heads and packed decisions. MAY leave some for the next call when there
        are many; returns how many it dropped, 0 when nothing is left to drop.
        """

    async def erase(self, namespace: str) -> None:
        """Drop the whole log of a namespace."""


def place_at(at_ms: int) -> str:
    """Return the place before everything that the store took in that millisecond or later."""
    return f"{max(at_ms, 0)}-0"


def ms_of_place(place: str) -> int:
    """Return the milliseconds of a place."""
    return int(place.partition("-")[0])
