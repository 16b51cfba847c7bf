"""Notes calls that would have changed something and were refused, and writes them to the audit.

What is noted is counted per caller, network, method and reason, and written as one entry each every
few seconds: a flood of refusals makes few entries, holds up no call and takes little memory.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.ports import AuditEntry, Clock, Ledger, Transaction
from controlplane.services.read_model import ReadModel

MAX_NOTED: Final = 256
"""Kinds of refusals noted at once, about 300 KB; what comes beyond is counted together."""

EVENT_REFUSED: Final = "call.refused"

OTHERS: Final = "(others)"
"""In place of caller and address of refusals that are counted together."""

_log: Final = logging.getLogger("fleetplane.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is counted together.

    Attributes:
        namespace: Where the caller was let in or may know that he was not; empty: nowhere.
        actor: Who called.
        caller_kind: What the caller is.
        network: Where from, without the port.
        method: What was called.
        reason: The `ErrorReason` without its prefix.
    """

    namespace: str
    actor: str
    caller_kind: str
    network: str
    method: str
    reason: str


@dataclass(slots=True)
class _Tally:
    count: int
    first_ms: int
    last_ms: int
    request_id: str


class RefusedCalls:
    """Counts refusals, and writes them down."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, clock: Clock) -> None:
        """Write to `ledger`; namespaces are those that `read_model` knows."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._tallies: dict[Refusal, _Tally] = {}

    @property
    def noted(self) -> int:
        """Kinds of refusals that are not written down yet."""
        return len(self._tallies)

    def note(self, refusal: Refusal, request_id: str) -> None:
        """Count one; at once, and without asking the store."""
        now_ms = self._clock.store_ms()
        tally = self._tallies.get(refusal)
        if tally is None and len(self._tallies) >= MAX_NOTED:
            refusal = Refusal(
                namespace="",
                actor=OTHERS,
                caller_kind="",
                network=OTHERS,
                method=OTHERS,
                reason=refusal.reason,
            )
            tally = self._tallies.get(refusal)
        if tally is None:
            self._tallies[refusal] = _Tally(1, now_ms, now_ms, request_id)
        else:
            tally.count += 1
            tally.last_ms = now_ms

    async def write(self) -> int:
        """Write down what was counted; return how many entries that made.

        What the store does not take is counted on, and written the next time.

        Raises:
            StoreUnavailable: the store does not answer.
            NotReady: this replica does not know yet which namespaces there are.
        """
        taken, self._tallies = self._tallies, {}
        if not taken:
            return 0
        refusals = list(taken.items())
        try:
            transactions = [
                Transaction(
                    namespace=self._place(refusal.namespace),
                    steps=(),
                    audit=_entry(refusal, tally),
                )
                for refusal, tally in refusals
            ]
            outcomes = await self._ledger.commit_many(transactions)
        except (StoreUnavailable, NotReady):
            self._take_back(taken)
            raise
        lost = {
            refusal: tally
            for (refusal, tally), outcome in zip(refusals, outcomes, strict=True)
            if isinstance(outcome, StoreUnavailable)
        }
        self._take_back(lost)
        return len(refusals) - len(lost)

    def _take_back(self, taken: Mapping[Refusal, _Tally]) -> None:
        for refusal, tally in taken.items():
            newer = self._tallies.get(refusal)
            if newer is not None:
                tally.count += newer.count
                tally.last_ms = newer.last_ms
            self._tallies[refusal] = tally

    def _place(self, namespace: str) -> str:
        """Return where a refusal is written: nothing must come into being by a refused call."""
        record = self._read_model.access.namespaces.get(namespace)
        if record is not None:
            is_active = record.state is NamespaceState.ACTIVE
            return namespace if is_active else SYSTEM_NAMESPACE
        # Without authentication namespaces are there as soon as something is in them.
        position = self._read_model.position_of(namespace)
        is_used = position is not None and position.revision > 0
        return namespace if is_used else SYSTEM_NAMESPACE


def _entry(refusal: Refusal, tally: _Tally) -> AuditEntry:
    return AuditEntry(
        actor=refusal.actor,
        method=refusal.method,
        object=f"methods/{refusal.method}",
        event=EVENT_REFUSED,
        reason=refusal.reason,
        request_id=tally.request_id,
        details={
            "count": str(tally.count),
            "first_ms": str(tally.first_ms),
            "last_ms": str(tally.last_ms),
        },
        address=refusal.network,
        caller_kind=refusal.caller_kind,
    )
