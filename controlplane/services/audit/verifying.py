"""Verifies the audit of a namespace as it is stored."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from controlplane.domain.audit.chain import Keys, Seal
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.refusals import AuditTrimmed
from controlplane.domain.audit.verification import Problem, ProblemKind, Verification
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.ports import AuditLog
from controlplane.services.audit.sealing import BLOCK, SUPERNUMERARY

SEALS_AT_ONCE: Final = 16
"""Seals read at once, and verified between two words about the progress: 4,096 entries, 50 ms."""

TAIL_AT_ONCE: Final = 1000
"""Entries that are not sealed yet, read at once."""

_RESTARTS: Final = 5
"""Trims under way that a verification begins anew for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationResult:
    """What came out of a verification.

    Attributes:
        verified: Everything through here is proven.
        problem: The first one; None: there is none.
        unsealed: Newest entries that are not sealed yet.
        keyless_through: Through where seals were made without a key; 0: none was.
        first: Sequence that the audit begins with.
    """

    verified: Checkpoint
    problem: Problem | None
    unsealed: int
    keyless_through: int
    first: int


class AuditVerifier:
    """Verifies. Any method may raise StoreUnavailable."""

    def __init__(self, log: AuditLog, keeper: AuditKeeper, keys: Keys) -> None:
        """Verify `log` with `keys`; `keeper` knows where each audit begins."""
        self._log = log
        self._keeper = keeper
        self._keys = keys

    async def verify(
        self, namespace: str, expected: Checkpoint | None = None
    ) -> AsyncGenerator[int | VerificationResult, None]:
        """Yield through where it is proven, again and again, and the result at the end.

        Args:
            namespace: Whose audit.
            expected: A checkpoint that somebody remembers; its sequence 0: anywhere.

        Raises:
            AuditTrimmed: the expected checkpoint is among what was trimmed.
        """
        for _ in range(_RESTARTS):
            keeping = await self._keeper.kept(namespace)
            base = keeping.base
            if base is not None and expected is not None and 0 < expected.sequence < base.sequence:
                raise AuditTrimmed(base.sequence + 1)
            check = Verification(
                namespace,
                self._keys,
                base=base,
                expected=expected,
                confirmed=keeping.confirmed,
            )
            extent = await self._log.extent(namespace)
            problem = None
            async for step in self._walk(namespace, check, extent.sealed):
                if isinstance(step, Problem):
                    problem = step
                else:
                    yield step
            if problem is None:
                problem = await self._tail(namespace, check, extent.last) or check.end()
            if problem is None or (await self._keeper.kept(namespace)).base == base:
                break
        yield VerificationResult(
            verified=check.checkpoint,
            problem=problem,
            unsealed=max(extent.last - max(extent.sealed, check.verified_through), 0),
            keyless_through=check.keyless_through,
            first=1 if base is None else base.sequence + 1,
        )

    async def _walk(
        self, namespace: str, check: Verification, sealed: int
    ) -> AsyncGenerator[int | Problem, None]:
        while check.verified_through < sealed:
            seals = await self._log.seals(
                namespace, after=check.verified_through, limit=SEALS_AT_ONCE
            )
            seals = [seal for seal in seals if seal.last <= sealed]
            if not seals:
                yield Problem(
                    kind=ProblemKind.SEAL_MISSING,
                    sequence=check.verified_through + 1,
                    detail=f"it was sealed through entry {sealed}, but the seal is not there",
                )
                return
            for seal in seals:
                problem = await self._one(namespace, check, seal)
                if problem is not None:
                    yield problem
                    return
            yield check.verified_through

    async def _one(self, namespace: str, check: Verification, seal: Seal) -> Problem | None:
        first = max(seal.first, check.verified_through + 1)
        limit = min(max(seal.last - first + 1, 1), BLOCK) + SUPERNUMERARY
        entries = await self._log.entries(namespace, after=first - 1, limit=limit)
        return check.seal(seal, [entry for entry in entries if entry.sequence <= seal.last])

    async def _tail(self, namespace: str, check: Verification, newest: int) -> Problem | None:
        at = check.verified_through
        while at < newest:
            last = min(at + TAIL_AT_ONCE, newest)
            entries = await self._log.entries(
                namespace, after=at, limit=TAIL_AT_ONCE + SUPERNUMERARY
            )
            problem = check.tail([e for e in entries if e.sequence <= last], at + 1, last)
            if problem is not None:
                return problem
            at = last
        return None
