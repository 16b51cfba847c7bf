"""What is kept about the audit of a namespace: where it begins, what was exported and trimmed."""

from dataclasses import dataclass, replace
from typing import Final

NOTES_KEPT: Final = 100
"""Exports, and trims, that are remembered, the newest ones. All are in the audit itself."""

KEEPING_KEY: Final = "audit"
"""Key of the one record of a namespace."""

EVENT_TRIMMED: Final = "audit.trimmed"
EVENT_EXPORTED: Final = "audit.exported"
DETAIL_SEQUENCE: Final = "sequence"
DETAIL_HEAD: Final = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A place in the chain that somebody can remember: the head after an entry, in hex."""

    sequence: int
    head: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.head}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditNote:
    """An export that was confirmed, or a trim.

    Attributes:
        checkpoint: Through where.
        at_ms: When, in milliseconds since 1970.
        actor: By whom.
    """

    checkpoint: Checkpoint
    at_ms: int
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKeeping:
    """The record.

    Attributes:
        base: Through where the audit was trimmed; None: it begins with entry 1.
        exports: Exports that were confirmed, the oldest first.
        trims: Trims, the oldest first.
    """

    base: Checkpoint | None = None
    exports: tuple[AuditNote, ...] = ()
    trims: tuple[AuditNote, ...] = ()

    @property
    def trimmed_through(self) -> int:
        """Sequence of the last entry that was trimmed; 0: none."""
        return 0 if self.base is None else self.base.sequence

    @property
    def exported(self) -> Checkpoint | None:
        """The farthest checkpoint that an export was confirmed for."""
        return max(
            (note.checkpoint for note in self.exports),
            key=lambda checkpoint: checkpoint.sequence,
            default=None,
        )

    @property
    def confirmed(self) -> tuple[Checkpoint, ...]:
        """Checkpoints that exports were confirmed for, of what was not trimmed since."""
        return tuple(
            note.checkpoint
            for note in self.exports
            if note.checkpoint.sequence > self.trimmed_through
        )

    def with_export(self, note: AuditNote) -> "AuditKeeping":
        """Return the record after an export was confirmed."""
        return replace(self, exports=(*self.exports, note)[-NOTES_KEPT:])

    def with_trim(self, note: AuditNote) -> "AuditKeeping":
        """Return the record after a trim: the audit begins after its checkpoint."""
        trims = (*self.trims, note)[-NOTES_KEPT:]
        return replace(self, base=note.checkpoint, trims=trims)


NOTHING_KEPT: Final = AuditKeeping()
"""Of a namespace that was never exported nor trimmed."""
