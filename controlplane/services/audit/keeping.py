"""What becomes of the audit: exports that are confirmed, trims, retention."""

import logging
from dataclasses import dataclass
from typing import Final

from controlplane.domain.audit.chain import Keys, heads_through
from controlplane.domain.audit.keeping import (
    DETAIL_HEAD,
    DETAIL_SEQUENCE,
    EVENT_EXPORTED,
    EVENT_TRIMMED,
    KEEPING_KEY,
    NOTHING_KEPT,
    AuditKeeping,
    AuditNote,
    Checkpoint,
)
from controlplane.domain.audit.refusals import AuditNotExported
from controlplane.services.audit.ports import AuditLog
from controlplane.services.audit.times import sequence_before
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    Transaction,
)

DAY_MS: Final = 86_400_000

AUDIT_OBJECT: Final = "audit"
"""What entries about the audit itself call it."""

_ATTEMPTS: Final = 5
"""Tries against others who change the same record; two replicas need two."""

_log: Final = logging.getLogger("fleetplane.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditStatus:
    """How far the audit of a namespace reaches."""

    first: int
    last: int
    sealed: Checkpoint | None
    keeping: AuditKeeping


class AuditKeeper:
    """Keeps the record of each namespace. Any method may raise StoreUnavailable."""

    def __init__(
        self, log: AuditLog, ledger: Ledger, clock: Clock, keys: Keys, *, retention_days: int = 0
    ) -> None:
        """Keep entries for `retention_days`, and longer until they are exported; 0: for ever."""
        self._audit = log
        self._ledger = ledger
        self._clock = clock
        self._keys = keys
        self.retention_days = retention_days
        self._warned: set[str] = set()

    @property
    def key_id(self) -> str:
        """Name of the key that seals are made with; empty: none."""
        return "" if self._keys.sealing is None else self._keys.sealing.key_id

    async def kept(self, namespace: str) -> AuditKeeping:
        """Return the record of a namespace."""
        return (await self._read(namespace))[0]

    async def status(self, namespace: str) -> AuditStatus:
        """Return how far the audit reaches."""
        keeping = await self.kept(namespace)
        extent = await self._audit.extent(namespace)
        seal = await self._audit.newest_seal(namespace)
        return AuditStatus(
            first=keeping.trimmed_through + 1,
            last=extent.last,
            sealed=None if seal is None else Checkpoint(sequence=seal.last, head=seal.head.hex()),
            keeping=keeping,
        )

    async def confirm(
        self, namespace: str, checkpoint: Checkpoint, *, reason: str, actor: str
    ) -> None:
        """Note that an export through a checkpoint is in safety. Idempotent.

        Raises:
            AuditNotExported: no seal says that the head after that entry is this one.
        """
        for _ in range(_ATTEMPTS):
            keeping, revision = await self._read(namespace)
            if keeping.exports and keeping.exports[-1].checkpoint == checkpoint:
                return
            await self._require_head(namespace, keeping, checkpoint)
            after = keeping.with_export(self._note(checkpoint, actor))
            audit = _entry(actor, "ConfirmAuditExport", EVENT_EXPORTED, checkpoint, reason)
            if await self._write(namespace, after, revision, audit):
                return
        raise ConditionFailed(0)

    async def trim(
        self,
        namespace: str,
        checkpoint: Checkpoint,
        *,
        reason: str,
        actor: str,
        method: str = "TrimAudit",
    ) -> tuple[int, int]:
        """Remove entries through a checkpoint; return (first sequence, number of entries removed).

        The record goes first: verification begins behind it, whether the rest is done or not.

        Raises:
            AuditNotExported: it is not sealed so far, or the head after that entry is another one.
        """
        for _ in range(_ATTEMPTS):
            keeping, revision = await self._read(namespace)
            if checkpoint.sequence <= keeping.trimmed_through:
                break
            await self._require_head(namespace, keeping, checkpoint)
            after = keeping.with_trim(self._note(checkpoint, actor))
            audit = _entry(actor, method, EVENT_TRIMMED, checkpoint, reason)
            if await self._write(namespace, after, revision, audit):
                keeping = after
                break
        else:
            raise ConditionFailed(0)
        removed = await self._audit.trim(namespace, keeping.trimmed_through)
        return keeping.trimmed_through + 1, removed

    async def retain(self, namespace: str) -> int:
        """Let go what is old enough and exported; end trims that somebody began; return how many.

        Says once, in the log, if entries are old enough but not exported.
        """
        keeping = await self.kept(namespace)
        extent = await self._audit.extent(namespace)
        if 0 < extent.first <= keeping.trimmed_through:
            return await self._audit.trim(namespace, keeping.trimmed_through)
        if not self.retention_days:
            return 0
        before_ms = self._clock.store_ms() - self.retention_days * DAY_MS
        oldest = await self._audit.entries(namespace, after=keeping.trimmed_through, limit=1)
        if not oldest or oldest[0].at_ms >= before_ms:
            return 0
        old = await sequence_before(self._audit, namespace, before_ms)
        exported = keeping.exported
        through = min(old, 0 if exported is None else exported.sequence)
        if through < old:
            self._warn(namespace, old, through)
        if through <= keeping.trimmed_through:
            return 0
        head = await self._head_after(namespace, through)
        if head is None:
            return 0
        why = f"older than {self.retention_days} days, and exported"
        checkpoint = Checkpoint(sequence=through, head=head)
        _, removed = await self.trim(
            namespace, checkpoint, reason=why, actor=PLANE, method="retention"
        )
        return removed

    def _warn(self, namespace: str, old: int, through: int) -> None:
        if namespace in self._warned:
            return
        self._warned.add(namespace)
        _log.warning(
            "entries of the audit are older than audit_retention_days, but are not exported:"
            " they are kept",
            extra={"namespace": namespace, "old_through": old, "exported_through": through},
        )

    async def _require_head(
        self, namespace: str, keeping: AuditKeeping, checkpoint: Checkpoint
    ) -> None:
        if checkpoint == keeping.base:
            return
        head = await self._head_after(namespace, checkpoint.sequence)
        if head == checkpoint.head:
            return
        seal = await self._audit.newest_seal(namespace)
        sealed = 0 if seal is None else seal.last
        why = f"the audit is sealed through entry {sealed} only"
        if head is not None:
            why = f"the head after entry {checkpoint.sequence} is another one"
        raise AuditNotExported(why, sealed_through=sealed)

    async def _head_after(self, namespace: str, sequence: int) -> str | None:
        """Return the head after an entry, as the seals say it; None if they do not."""
        seals = await self._audit.seals(namespace, after=sequence - 1, limit=1)
        if not seals or not seals[0].is_whole or seals[0].key_id not in self._keys:
            return None
        heads = dict(heads_through(seals[0], self._keys.named(seals[0].key_id)))
        head = heads.get(sequence)
        return None if head is None else head.hex()

    async def _read(self, namespace: str) -> tuple[AuditKeeping, int]:
        (record,) = await self._ledger.read(namespace, Collection.AUDIT_KEEPING, (KEEPING_KEY,))
        return (NOTHING_KEPT, 0) if record is None else (record.value, record.revision)

    async def _write(
        self, namespace: str, after: AuditKeeping, revision: int, audit: AuditEntry
    ) -> bool:
        put = Put(Collection.AUDIT_KEEPING, KEEPING_KEY, after, Expect(revision=revision))
        try:
            await self._ledger.commit(Transaction(namespace=namespace, steps=(put,), audit=audit))
        except ConditionFailed:
            return False
        return True

    def _note(self, checkpoint: Checkpoint, actor: str) -> AuditNote:
        return AuditNote(checkpoint=checkpoint, at_ms=self._clock.store_ms(), actor=actor)


def _entry(actor: str, method: str, event: str, checkpoint: Checkpoint, reason: str) -> AuditEntry:
    return AuditEntry(
        actor=actor,
        method=method,
        object=AUDIT_OBJECT,
        event=event,
        reason=reason,
        details={DETAIL_SEQUENCE: str(checkpoint.sequence), DETAIL_HEAD: checkpoint.head},
    )
