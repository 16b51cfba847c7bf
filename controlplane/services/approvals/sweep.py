"""What time makes of approvals: they expire, more people may vote, old ones are forgotten.

Any replica may do it, and all do: each step is a commit on condition that the approval is as it was
seen and that, by the store's clock, its time has come. Time never grants anything.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from controlplane.domain.approvals.changes import due, next_due_ms
from controlplane.domain.approvals.model import Approval, ApprovalState, StandingGrant
from controlplane.services.approvals.deciding import event_of
from controlplane.services.approvals.records import approval_audit, change_steps
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    Committed,
    Delete,
    Expect,
    Ledger,
    RequireClock,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

METHOD: Final = "ApprovalSweep"

AT_ONCE: Final = 256
"""Commits of one round trip: some 20 ms of the store."""

FORGOTTEN_AT_ONCE: Final = 200
"""Records removed by one commit."""


MAX_ENDED_PER_AGENT: Final = 1_000
"""Approvals of one agent that are kept after their end, at some 1-130 KB each in every replica: an
agent that asks and takes back without end must not fill them. The audit keeps what happened."""

REPLAY_MS: Final = 10 * 60 * 1000
"""How long a use is answered again; until then it is kept, however many there are."""


class ApprovalSweep:
    """Looks at the approvals of one namespace at a time."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, *, retention_ms: int
    ) -> None:
        """Keep what ended for `retention_ms`."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._retention_ms = retention_ms
        self._nothing_until: dict[str, tuple[int, int]] = {}
        """namespace -> (version of the open approvals, when the next of them is due)"""

    async def sweep(self, namespace: str) -> int:
        """Write down what has expired or escalated; return how many this replica did.

        Raises:
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        view = self._read_model.view(namespace)
        version = view.governance.version(Collection.APPROVALS)
        now_ms = self._clock.store_ms()
        known = self._nothing_until.get(namespace)
        if known is not None and known[0] == version and now_ms < known[1]:
            return 0
        open_ones = list(_open(view))
        overdue = [one for one in open_ones if next_due_ms(one) <= now_ms]
        if not overdue:
            earliest = min(map(next_due_ms, open_ones), default=now_ms + self._retention_ms)
            self._nothing_until[namespace] = (version, earliest)
            return 0
        written = 0
        for start in range(0, len(overdue), AT_ONCE):
            batch = overdue[start : start + AT_ONCE]
            outcomes = await self._ledger.commit_many(
                [t for one in batch if (t := self._transaction(namespace, one, now_ms)) is not None]
            )
            written += sum(isinstance(outcome, Committed) for outcome in outcomes)
        return written

    async def forget(self, namespace: str) -> int:
        """Remove approvals and standing grants that ended long ago; return how many.

        Raises:
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        view = self._read_model.view(namespace)
        steps = list(islice(self._old(view, self._clock.store_ms()), FORGOTTEN_AT_ONCE))
        if not steps:
            return 0
        audit = AuditEntry(
            actor=PLANE,
            method=METHOD,
            object="approvals",
            event="approvals.forgotten",
            details={"count": str(len(steps))},
        )
        transaction = Transaction(namespace=namespace, steps=tuple(steps), audit=audit)
        (outcome,) = await self._ledger.commit_many([transaction])
        return len(steps) if isinstance(outcome, Committed) else 0

    def _transaction(self, namespace: str, before: Approval, now_ms: int) -> Transaction | None:
        after = due(before, now_ms, plane=PLANE)
        if after is None:
            return None
        return Transaction(
            namespace=namespace,
            steps=(
                *change_steps(before, after),
                RequireClock(not_before_ms=next_due_ms(before)),
            ),
            audit=approval_audit(after, METHOD, event_of(after), PLANE, after.state_reason),
        )

    def _old(self, view: NamespaceView, now_ms: int) -> Iterator[Step]:
        before_ms = now_ms - self._retention_ms
        approvals: Mapping[str, Approval] = view.governance.table(Collection.APPROVALS)
        excess = _excess(approvals, now_ms)
        for key, approval in approvals.items():
            if approval.state.is_open:
                continue
            if approval.ended_at_ms < before_ms or key in excess:
                yield Delete(Collection.APPROVALS, key, Expect(revision=approval.revision))
        grants: Mapping[str, StandingGrant] = view.governance.table(Collection.STANDING_GRANTS)
        for key, grant in grants.items():
            if min(grant.revoked_at_ms or grant.expires_at_ms, grant.expires_at_ms) < before_ms:
                yield Delete(Collection.STANDING_GRANTS, key, Expect(revision=grant.revision))


def _excess(approvals: Mapping[str, Approval], now_ms: int) -> set[str]:
    """Return which of the approvals that ended are too many of their agents: the oldest."""
    ended: dict[str, list[tuple[int, str]]] = {}
    for key, approval in approvals.items():
        if not approval.state.is_open:
            own = ended.setdefault(approval.action.agent_id, [])
            own.append((approval.ended_at_ms, key))
    oldest = (
        key
        for own in ended.values()
        if len(own) > MAX_ENDED_PER_AGENT
        for _, key in sorted(own)[: len(own) - MAX_ENDED_PER_AGENT]
    )
    return {key for key in oldest if not _may_be_repeated(approvals[key], now_ms)}


def _may_be_repeated(approval: Approval, now_ms: int) -> bool:
    used = approval.state is ApprovalState.CONSUMED
    return used and now_ms < approval.ended_at_ms + REPLAY_MS


def _open(view: NamespaceView) -> Iterator[Approval]:
    approvals: Mapping[str, Approval] = view.governance.table(Collection.APPROVALS)
    for approval_id in view.governance.table(Collection.OPEN_APPROVALS).values():
        approval = approvals.get(approval_id)
        if approval is not None and approval.state.is_open:
            yield approval
