"""When API tokens were last used: noted on every call, written at most once an hour."""

import logging
from typing import Final

from controlplane.domain.access.records import SYSTEM_NAMESPACE, TokenUse
from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    Record,
    Transaction,
)
from controlplane.services.read_model import ReadModel

PERIOD_MS: Final = 3_600_000
"""Milliseconds between two writes of one token: a list says when it was used to within an hour."""

TICK_SECONDS: Final = 60.0
"""Time between two rounds: how much of the hour may be lost when the process ends."""

_log = logging.getLogger("fleetplane.identity")


class TokenUses:
    """Notes uses; `run` is the loop that writes them, one per replica."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        clock: Clock,
        *,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._used: set[str] = set()
        self.note = self._used.add
        """Note that a token was used: `note(token_id)`. Costs next to nothing."""

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._clock.sleep(self._tick_seconds)
            try:
                await self.write()
            except (StoreUnavailable, NotReady) as error:
                # It is only for people who look; the next round knows more.
                _log.debug("uses of tokens were not written", extra={"error": error.reason})

    async def write(self) -> int:
        """Write the uses noted since the last call, unless it was done within the hour; count them.

        Raises:
            StoreUnavailable: the store is away; what was noted stays noted.
            NotReady: nothing is loaded yet.
        """
        now_ms = self._clock.store_ms()
        written = self._read_model.access.token_uses
        used = tuple(self._used)
        due = [one for one in used if one not in written or _is_due(written[one].at_ms, now_ms)]
        count = await self._write(due, now_ms) if due else 0
        self._used.difference_update(used)
        return count

    async def _write(self, token_ids: list[str], now_ms: int) -> int:
        # Other replicas may have been quicker, and this one's copy may not say so yet.
        records = await self._ledger.read(SYSTEM_NAMESPACE, Collection.TOKEN_USES, token_ids)
        outcomes = await self._ledger.commit_many(
            [
                _use(token_id, record, now_ms)
                for token_id, record in zip(token_ids, records, strict=True)
                if record is None or _is_due(record.value.at_ms, now_ms)
            ]
        )
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, ConditionFailed):
                raise outcome
        return sum(isinstance(outcome, Committed) for outcome in outcomes)


def _is_due(written_at_ms: int, now_ms: int) -> bool:
    return now_ms - written_at_ms >= PERIOD_MS


def _use(token_id: str, record: Record | None, now_ms: int) -> Transaction:
    expect = Expect(revision=record.revision if record is not None else 0)
    use = TokenUse(token_id=token_id, at_ms=now_ms)
    return Transaction(
        namespace=SYSTEM_NAMESPACE,
        steps=(Put(Collection.TOKEN_USES, token_id, use, expect),),
        audit=AuditEntry(
            actor=PLANE,
            method="NoteTokenUse",
            object=f"apitokens/{token_id}",
            event="api_token.used",
        ),
    )
