"""What people do to approvals: vote, delegate, take back, prolong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.domain.approvals import changes, votes
from controlplane.domain.approvals.model import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    EntryKind,
)
from controlplane.domain.errors import DomainError, RevisionConflict
from controlplane.domain.identity import Caller
from controlplane.services.approvals.records import (
    DURABLE_STATES,
    MAX_ROUNDS,
    ApprovalRecords,
    Change,
    approval_audit,
    change_steps,
    contended,
    in_time,
    require_in_time,
    stamped,
)
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    ConditionFailed,
    Ledger,
    Step,
    Transaction,
)

MAX_BATCH: Final = 100
"""Votes of one call."""

_EVENTS: Final = {
    EntryKind.GRANT: "approval.voted",
    EntryKind.DENY: "approval.voted",
    EntryKind.ADVICE: "approval.advised",
    EntryKind.DELEGATED: "approval.delegated",
    EntryKind.EXTENDED: "approval.extended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """One vote, as it was sent."""

    approval_id: str
    decision: ApprovalDecision
    comment: str = ""
    vote_id: str = ""
    expected_revision: int = 0


class ApprovalDecisions:
    """Takes what people say. Each is one commit, on condition that nothing else was said."""

    def __init__(self, ledger: Ledger, records: ApprovalRecords, clock: Clock) -> None:
        self._ledger = ledger
        self._records = records
        self._clock = clock

    async def decide(self, namespace: str, ballot: Ballot, *, caller: Caller) -> Approval:
        """Vote; the same vote again changes nothing.

        Raises:
            ApprovalNotFound: there is none.
            RevisionConflict: it is not as it was shown.
            DomainError: as `votes.decided`.
        """
        return await self._change(
            namespace,
            ballot.approval_id,
            self._vote(namespace, ballot, caller),
            "DecideApproval",
            caller,
            ballot.comment,
        )

    async def decide_many(
        self, namespace: str, ballots: Sequence[Ballot], *, all_or_nothing: bool, caller: Caller
    ) -> list[Approval | DomainError]:
        """Vote on several approvals: each for itself, or all of them in one commit.

        Raises:
            DomainError: with `all_or_nothing`, the first refusal.
        """
        if all_or_nothing:
            return [*await self._decide_all(namespace, ballots, caller)]
        outcomes: list[Approval | DomainError] = []
        for ballot in ballots:
            try:
                outcomes.append(await self.decide(namespace, ballot, caller=caller))
            except DomainError as refusal:
                outcomes.append(refusal)
        return outcomes

    async def delegate(
        self,
        namespace: str,
        approval_id: str,
        delegate: str,
        *,
        until_ms: int,
        comment: str,
        expected_revision: int,
        caller: Caller,
    ) -> Approval:
        """Hand the caller's vote to somebody else.

        Raises:
            ApprovalNotFound: there is none.
            RevisionConflict: it is not as it was shown.
            DomainError: as `votes.delegated`.
        """

        def change(approval: Approval, now_ms: int) -> Approval:
            voter = self._records.voter(caller, namespace)
            after = votes.delegated(
                approval, voter, delegate, until_ms=until_ms, comment=comment, now_ms=now_ms
            )
            _require_revision(approval, expected_revision)
            return after

        return await self._change(
            namespace, approval_id, change, "DelegateApproval", caller, comment
        )

    async def cancel(
        self, namespace: str, approval_id: str, *, reason: str, caller: Caller
    ) -> Approval:
        """Take a PENDING approval back; idempotent.

        Raises:
            ApprovalNotFound: there is none.
            ApprovalNotOpen: it is in another state.
            ApprovalExpired: its time is over.
        """

        def change(approval: Approval, now_ms: int) -> Approval:
            return changes.cancelled(approval, by=caller.name, reason=reason, now_ms=now_ms)

        return await self._change(namespace, approval_id, change, "CancelApproval", caller, reason)

    async def revoke(
        self, namespace: str, approval_id: str, *, reason: str, caller: Caller
    ) -> Approval:
        """Take a grant back that was not used; idempotent.

        Raises:
            ApprovalNotFound: there is none.
            ApprovalNotOpen: it is in another state.
            ApprovalExpired: its time is over.
        """

        def change(approval: Approval, now_ms: int) -> Approval:
            return changes.revoked(approval, by=caller.name, reason=reason, now_ms=now_ms)

        return await self._change(namespace, approval_id, change, "RevokeApproval", caller, reason)

    async def extend(
        self, namespace: str, approval_id: str, expires_at_ms: int, *, reason: str, caller: Caller
    ) -> Approval:
        """Give those who decide more time.

        Raises:
            ApprovalNotFound: there is none.
            DomainError: as `changes.extended`.
        """

        def change(approval: Approval, now_ms: int) -> Approval:
            return changes.extended(
                approval, expires_at_ms, by=caller.name, reason=reason, now_ms=now_ms
            )

        return await self._change(namespace, approval_id, change, "ExtendApproval", caller, reason)

    def _vote(self, namespace: str, ballot: Ballot, caller: Caller) -> Change:
        voter = self._records.voter(caller, namespace)

        def change(approval: Approval, now_ms: int) -> Approval:
            after = votes.decided(
                approval,
                voter,
                ballot.decision,
                comment=ballot.comment,
                vote_id=ballot.vote_id,
                now_ms=now_ms,
            )
            if after is not approval:
                _require_revision(approval, ballot.expected_revision)
            return after

        return change

    async def _change(
        self,
        namespace: str,
        approval_id: str,
        change: Change,
        method: str,
        caller: Caller,
        reason: str,
    ) -> Approval:
        return await self._records.change(
            namespace,
            approval_id,
            change,
            now_ms=self._clock.store_ms,
            method=method,
            event=event_of,
            actor=caller.name,
            reason=reason,
        )

    async def _decide_all(
        self, namespace: str, ballots: Sequence[Ballot], caller: Caller
    ) -> list[Approval]:
        for _ in range(MAX_ROUNDS):
            steps: list[Step] = []
            changed: list[Approval] = []  # by step
            outcomes: list[Approval] = []
            durable = False
            for ballot in ballots:
                before = await self._records.stored(namespace, ballot.approval_id)
                change = self._vote(namespace, ballot, caller)
                after = change(before, self._clock.store_ms())
                outcomes.append(after)
                if after is not before:
                    steps += (*change_steps(before, after), *in_time(before))
                    changed += [before] * (len(steps) - len(changed))
                    durable = durable or after.state in DURABLE_STATES
            if not steps:
                return outcomes
            try:
                committed = await self._ledger.commit(
                    Transaction(
                        namespace=namespace,
                        steps=tuple(steps),
                        audit=_audit_of_all(ballots, outcomes, caller),
                        durable=durable,
                    )
                )
            except ConditionFailed as lost:
                require_in_time(changed[lost.step], steps[lost.step])
                continue
            return [stamped(outcome, committed) for outcome in outcomes]
        raise contended()


def event_of(approval: Approval) -> str:
    """Return the public name of what the last line of a record says."""
    if approval.state is ApprovalState.PENDING:
        return _EVENTS.get(approval.entries[-1].kind, "approval.updated")
    return f"approval.{approval.state.lower()}"


def _audit_of_all(
    ballots: Sequence[Ballot], outcomes: Sequence[Approval], caller: Caller
) -> AuditEntry:
    """Return one line about all of them: the first as usual, the others by id and state."""
    method = "BatchDecideApprovals"
    audit = approval_audit(outcomes[0], method, "approval.voted", caller.name, ballots[0].comment)
    return AuditEntry(
        actor=audit.actor,
        method=method,
        object="approvals",
        event=audit.event,
        reason=audit.reason,
        details={one.approval_id: str(one.state) for one in outcomes},
    )


def _require_revision(approval: Approval, expected: int) -> None:
    if expected not in {0, approval.revision}:
        raise RevisionConflict(
            f"approval {approval.approval_id!r}", expected=expected, current=approval.revision
        )
