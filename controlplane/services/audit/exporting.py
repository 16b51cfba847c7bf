"""Exports what is sealed of the audit, as lines that verify without a daemon."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Final

from controlplane.domain.audit.chain import genesis
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.refusals import AuditTrimmed
from controlplane.domain.errors import InvalidArgument
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.lines import (
    checkpoint_line,
    entry_line,
    header_line,
    seal_line,
)
from controlplane.services.audit.ports import AuditLog
from controlplane.services.audit.sealing import BLOCK, SUPERNUMERARY

SEALS_AT_ONCE: Final = 16
"""Seals read at once."""

CHUNK_BYTES: Final = 512 * 1024
"""Lines sent together; a message may have 4 MiB, and no line is nearly as long."""


class AuditExport:
    """Exports. Any method may raise StoreUnavailable."""

    def __init__(self, log: AuditLog, keeper: AuditKeeper) -> None:
        """Export `log`; `keeper` knows where each audit begins."""
        self._log = log
        self._keeper = keeper

    async def export(
        self, namespace: str, *, after: int
    ) -> AsyncGenerator[bytes | Checkpoint, None]:
        """Yield whole lines, then the checkpoint that they end with.

        Goes through what is sealed when it begins.

        Args:
            namespace: Whose audit.
            after: The sequence that a seal ends with; 0: from the first entry there is.

        Raises:
            AuditTrimmed: what comes after `after` was trimmed.
            InvalidArgument: `after_sequence` is no sequence that a seal ends with.
        """
        base = (await self._keeper.kept(namespace)).base
        sealed = (await self._log.extent(namespace)).sealed
        reached = await self._begin(namespace, after, base)
        if not after or reached == base:
            yield header_line(namespace, base)
        while reached.sequence < sealed:
            seals = await self._log.seals(namespace, after=reached.sequence, limit=SEALS_AT_ONCE)
            if not seals:
                break
            for seal in seals:
                entries = await self._log.entries(
                    namespace, after=reached.sequence, limit=BLOCK + SUPERNUMERARY
                )
                under = [entry for entry in entries if entry.sequence <= seal.last]
                for chunk in _chunks((*map(entry_line, under), seal_line(seal))):
                    yield chunk
                reached = Checkpoint(sequence=seal.last, head=seal.head.hex())
        yield checkpoint_line(reached)
        yield reached

    async def _begin(self, namespace: str, after: int, base: Checkpoint | None) -> Checkpoint:
        """Return the place that an export begins at."""
        start = base or Checkpoint(sequence=0, head=genesis(namespace).hex())
        if after in {0, start.sequence}:
            return start
        if after < start.sequence:
            raise AuditTrimmed(start.sequence + 1)
        seals = await self._log.seals(namespace, after=after - 1, limit=1)
        if not seals or seals[0].last != after:
            raise InvalidArgument.of("after_sequence", "must be the last entry of a seal, or 0")
        return Checkpoint(sequence=after, head=seals[0].head.hex())


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines joined to pieces of about `CHUNK_BYTES`."""
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= CHUNK_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
