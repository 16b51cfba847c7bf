"""Notes calls that would have changed something and were refused, and writes them to the audit.

What is noted is counted per caller, network, method and reason, and written as one entry each every
few seconds: a flood of refusals makes few entries, holds up no call and takes little memory. One
that goes on, from everywhere and by every method there is, makes one entry per second: what goes
beyond is counted on and written when its turn comes, each source in turn.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.domain.namespaces import NamespaceState
from controlplane.domain.token_bucket import TokenBucket
from controlplane.services.ports import AuditEntry, Clock, Ledger, Transaction
from controlplane.services.read_model import ReadModel

MAX_NOTED: Final = 256
"""Kinds of refusals noted at once, about 300 KB; what comes beyond is counted together."""

MAX_OF_SOURCE: Final = 32
"""Kinds noted at once of one caller on one network, so that he leaves room for others; what comes
beyond is counted without its method."""

ENTRIES_PER_SECOND: Final = 1.0
"""Entries of one replica on the average: 35 MB of the store per day at most. They cannot go away
before they are exported, and nobody needs a credential to cause them."""

BURST_SECONDS: Final = 300.0
"""What may be written at once, in seconds of `ENTRIES_PER_SECOND`: more than `MAX_NOTED`."""

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


_Source = tuple[str, str]
"""Who, and from where."""


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
        self._kinds: Counter[_Source] = Counter()
        self._budget = TokenBucket(BURST_SECONDS)

    @property
    def noted(self) -> int:
        """Kinds of refusals that are not written down yet."""
        return len(self._tallies)

    def note(self, refusal: Refusal, request_id: str) -> None:
        """Count one; at once, and without asking the store."""
        now_ms = self._clock.store_ms()
        tally = self._tallies.get(refusal)
        if tally is None and self._kinds[_source(refusal)] >= MAX_OF_SOURCE:
            refusal = replace(refusal, namespace="", method=OTHERS)
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
            self._kinds[_source(refusal)] += 1
        else:
            tally.count += 1
            tally.last_ms = now_ms

    async def write(self, *, everything: bool = False) -> int:
        """Write down what was counted; return how many entries that made.

        What the store does not take, or there is no budget for, is counted on, and written the next
        time. `everything`: there is no next time.

        Raises:
            StoreUnavailable: the store does not answer.
            NotReady: this replica does not know yet which namespaces there are.
        """
        refusals = self._take(everything=everything)
        if not refusals:
            return 0
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
            self._take_back(dict(refusals))
            raise
        lost = {
            refusal: tally
            for (refusal, tally), outcome in zip(refusals, outcomes, strict=True)
            if isinstance(outcome, StoreUnavailable)
        }
        self._take_back(lost)
        return len(refusals) - len(lost)

    def _take(self, *, everything: bool) -> list[tuple[Refusal, _Tally]]:
        """Return what is to be written now: the first kind of each source before any second one."""
        turns: Counter[_Source] = Counter()
        waiting: list[tuple[int, Refusal]] = []
        for refusal in self._tallies:
            source = _source(refusal)
            waiting.append((turns[source], refusal))
            turns[source] += 1
        waiting.sort(key=itemgetter(0))
        now = self._clock.monotonic()
        taken: list[tuple[Refusal, _Tally]] = []
        for _, refusal in waiting:
            if not everything and self._budget.spend(1, ENTRIES_PER_SECOND, now):
                break
            taken.append((refusal, self._tallies.pop(refusal)))
        self._kinds = Counter(map(_source, self._tallies))
        return taken

    def _take_back(self, taken: Mapping[Refusal, _Tally]) -> None:
        for refusal, tally in taken.items():
            newer = self._tallies.get(refusal)
            if newer is not None:
                tally.count += newer.count
                tally.last_ms = newer.last_ms
            self._tallies[refusal] = tally
        self._kinds = Counter(map(_source, self._tallies))

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


def _source(refusal: Refusal) -> _Source:
    return refusal.actor, refusal.network


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
