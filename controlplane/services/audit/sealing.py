"""Seals what commits have written. Any replica may; the store lets one of them succeed."""

import logging
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from controlplane.domain.audit.chain import (
    DIGEST_BYTES,
    NO_LEAF,
    Keys,
    StoredEntry,
    genesis,
    leaf_of,
    seal_of,
)
from controlplane.services.audit.ports import AuditLog, Extent
from controlplane.services.ports import Clock

BLOCK: Final = 256
"""Entries under one seal: 8 KiB of leaves, half a millisecond of this replica."""

SUPERNUMERARY: Final = 16
"""Entries more than a block has numbers that may be among what is read: somebody has added them."""

RIPE_MS: Final = 1000
"""Age of the oldest entry from which on fewer are sealed: by then replicas of the store have them,
and a fail-over does not lose what was sealed."""

SETTLED_SECONDS: Final = 60.0
"""How long a seal must have been known for its loss to be no fail-over: those lose seconds."""

_log: Final = logging.getLogger("fleetplane.audit")


class Outcome(Enum):
    """What came of an attempt to seal."""

    NOTHING = auto()
    """There was nothing to seal, or nothing old enough."""
    SEALED = auto()
    OVERTAKEN = auto()
    """Somebody else has sealed meanwhile."""
    STUCK = auto()
    """The newest seal is gone or damaged: nothing can continue it. Or all of them are gone: who
    removes them to have what he altered sealed anew is not helped."""


@dataclass(slots=True)
class _End:
    """Where the chain of a namespace ends."""

    sequence: int
    head: bytes
    since: float
    """When that was learnt, in seconds of the monotonic clock."""


class AuditSealer:
    """Seals; remembers where each chain ends. Any method may raise StoreUnavailable."""

    def __init__(self, log: AuditLog, clock: Clock, keys: Keys) -> None:
        """Seal with the first of `keys`; none: without one."""
        self._audit = log
        self._clock = clock
        self._key = keys.sealing
        self._ends: dict[str, _End] = {}
        self._stuck: set[str] = set()

    def sealed_through(self, namespace: str) -> int:
        """Return through where a namespace is sealed, as far as it is known here."""
        end = self._ends.get(namespace)
        return 0 if end is None else end.sequence

    async def seal(self, namespace: str) -> Outcome:
        """Seal everything that is ripe."""
        extent = await self._audit.extent(namespace)
        if self._are_seals_gone(namespace, extent):
            return Outcome.STUCK
        outcome = Outcome.NOTHING
        while True:
            end = await self._end(namespace, extent)
            if end is None:
                return Outcome.STUCK
            if end.sequence >= extent.last:
                return outcome
            made = await self._seal_block(namespace, end, extent.last)
            if made is not Outcome.SEALED:
                return made if made is Outcome.OVERTAKEN else outcome
            outcome = made

    async def _seal_block(self, namespace: str, end: _End, newest: int) -> Outcome:
        last = min(end.sequence + BLOCK, newest)
        entries = await self._audit.entries(
            namespace, after=end.sequence, limit=BLOCK + SUPERNUMERARY
        )
        present: dict[int, StoredEntry] = {}
        for entry in entries:
            present.setdefault(entry.sequence, entry)
        if last - end.sequence < BLOCK and not self._is_ripe(entries):
            return Outcome.NOTHING
        is_whole = all(n in present for n in range(end.sequence + 1, last + 1))
        if not is_whole and (await self._audit.extent(namespace)).last < newest:
            # Nothing was removed: the store has failed over to a replica that had less.
            return Outcome.NOTHING
        leaves = [
            leaf_of(present[sequence]) if sequence in present else NO_LEAF
            for sequence in range(end.sequence + 1, last + 1)
        ]
        seal = seal_of(end.sequence + 1, leaves, end.head, self._key)
        if not await self._audit.append_seal(namespace, seal):
            self._ends.pop(namespace, None)
            return Outcome.OVERTAKEN
        self._ends[namespace] = _End(seal.last, seal.head, self._clock.monotonic())
        if NO_LEAF in leaves:
            missing = seal.first + leaves.index(NO_LEAF)
            _log.error(
                "an entry of the audit is missing that was written",
                extra={"namespace": namespace, "sequence": missing},
            )
        return Outcome.SEALED

    async def _end(self, namespace: str, extent: Extent) -> _End | None:
        known = self._ends.get(namespace)
        if known is not None and known.sequence == extent.sealed:
            return known
        if known is not None and known.sequence > extent.sealed:
            # Made after `extent` was read.
            return known
        if extent.sealed == 0:
            return _End(0, genesis(namespace), self._clock.monotonic())
        seal = await self._audit.newest_seal(namespace)
        if seal is None or seal.last < extent.sealed or len(seal.head) != DIGEST_BYTES:
            self._say_stuck(namespace, extent)
            return None
        self._stuck.discard(namespace)
        end = _End(seal.last, seal.head, self._clock.monotonic())
        self._ends[namespace] = end
        return end

    def _are_seals_gone(self, namespace: str, extent: Extent) -> bool:
        """Return whether all seals were removed; forget the end of what a fail-over has lost."""
        known = self._ends.get(namespace)
        if known is None or known.sequence <= extent.sealed:
            return False
        are_old = self._clock.monotonic() - known.since >= SETTLED_SECONDS
        if extent.sealed == 0 and extent.last >= known.sequence and are_old:
            self._say_stuck(namespace, extent)
            return True
        del self._ends[namespace]
        return False

    def _say_stuck(self, namespace: str, extent: Extent) -> None:
        if namespace not in self._stuck:
            self._stuck.add(namespace)
            _log.error(
                "the newest seal of the audit is missing or damaged: nothing more is sealed",
                extra={"namespace": namespace, "sealed_through": extent.sealed},
            )

    def _is_ripe(self, entries: list[StoredEntry]) -> bool:
        return not entries or entries[0].at_ms <= self._clock.store_ms() - RIPE_MS
