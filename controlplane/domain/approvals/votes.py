"""Votes: who may say yes or no, and what becomes of an approval by it.

The requester, those who wait with him, and the agent itself never vote; nor does its owner, if a
policy says so. The API tokens that a person has made vote for that person. Everybody votes once, in
the stage whose turn it is. While nobody is authenticated, everybody is the same somebody: nobody
can be told from the requester, and the record says so.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from controlplane.domain.access.subjects import GROUP, check_subject, is_pattern
from controlplane.domain.approvals.model import (
    ROOM_FOR_VOTES,
    VOTES,
    Approval,
    ApprovalDecision,
    ApprovalState,
    Entry,
    EntryKind,
    Stage,
    Voter,
)
from controlplane.domain.approvals.people import is_among, is_owner
from controlplane.domain.approvals.record import noted, require_room
from controlplane.domain.approvals.refusals import (
    ApprovalExpired,
    ApprovalNotOpen,
    NotEligible,
    SelfApproval,
    VoteConflict,
)
from controlplane.domain.approvals.requirements import eligible_in, open_stage, votes_in
from controlplane.domain.errors import InvalidArgument

_KINDS: Final = {
    ApprovalDecision.GRANT: EntryKind.GRANT,
    ApprovalDecision.DENY: EntryKind.DENY,
    ApprovalDecision.ADVISE: EntryKind.ADVICE,
}


def decided(
    approval: Approval,
    voter: Voter,
    decision: ApprovalDecision,
    *,
    comment: str,
    vote_id: str,
    now_ms: int,
) -> Approval:
    """Return an approval with a vote; as it was if the voter has said just that already.

    Raises:
        VoteConflict: the voter has said something else, or used the vote_id for something else.
        ApprovalNotOpen: it is not PENDING.
        ApprovalExpired: time to decide is over.
        SelfApproval: the voter has asked for it.
        NotEligible: the voter may not vote in the stage whose turn it is.
        LimitExceeded: the record is full.
    """
    kind = _KINDS[decision]
    if _has_said(approval, voter, kind, vote_id):
        return approval
    require_pending(approval, now_ms)
    require_room(approval, spare=ROOM_FOR_VOTES if kind is EntryKind.ADVICE else 0)
    if kind is EntryKind.ADVICE:
        return noted(approval, kind, by=voter.name, at_ms=now_ms, comment=comment, id=vote_id)
    stage = open_stage(approval)
    if stage is None:
        raise ApprovalNotOpen(approval.approval_id, approval.state, "all stages are complete")
    giver = _seat_of(approval, voter, stage, now_ms)
    voted = noted(
        approval,
        kind,
        by=voter.name,
        at_ms=now_ms,
        stage=stage.name,
        comment=comment,
        id=vote_id,
        delegate=giver,
        subjects=voter.subjects,
        person=voter.person,
    )
    return _counted(voted, stage, voter.name, now_ms)


def delegated(
    approval: Approval, voter: Voter, delegate: str, *, until_ms: int, comment: str, now_ms: int
) -> Approval:
    """Return an approval for which a voter has handed his vote to somebody else.

    The voter must be eligible himself, now or in a later stage, and has no vote any more.

    Raises:
        InvalidArgument: `delegate` is not one subject, is the voter or the requester; `until` is
            over.
        ApprovalNotOpen: it is not PENDING.
        ApprovalExpired: time to decide is over.
        SelfApproval: the voter has asked for it.
        NotEligible: the voter has no vote of his own.
        LimitExceeded: the record is full.
    """
    require_pending(approval, now_ms)
    require_room(approval)
    check_subject(delegate, "delegate")
    if delegate.startswith(GROUP) or is_pattern(delegate):
        raise InvalidArgument.of("delegate", "must be one person or program, not several")
    if delegate in {voter.name, *voter.subjects}:
        raise InvalidArgument.of("delegate", "must be somebody else")
    if delegate in {approval.requested_by, *approval.waiters}:
        raise InvalidArgument.of("delegate", "must not be who asks for the approval")
    if until_ms and until_ms <= now_ms:
        raise InvalidArgument.of("until", "must be later than now")
    stages = approval.requirement.stages
    _require_slot(approval, voter, (open_stage(approval) or stages[-1]).name)
    if not any(_is_eligible(approval, stage, voter, now_ms) for stage in stages):
        raise NotEligible(
            approval.approval_id, voter.name, stages[0].name, "a vote by delegation stays"
        )
    return noted(
        approval,
        EntryKind.DELEGATED,
        by=voter.name,
        at_ms=now_ms,
        comment=comment,
        delegate=delegate,
        until_ms=until_ms,
        subjects=voter.subjects,
        person=voter.person,
    )


def may_decide(approval: Approval, voter: Voter, now_ms: int) -> bool:
    """Return whether a vote of somebody would be taken now."""
    stage = open_stage(approval)
    if (
        approval.state is not ApprovalState.PENDING
        or now_ms >= approval.expires_at_ms
        or stage is None
        or not voter.may_approve
        or any(entry.by == voter.name for entry in approval.entries if entry.kind in VOTES)
    ):
        return False
    try:
        _seat_of(approval, voter, stage, now_ms)
    except (NotEligible, SelfApproval):
        return False
    return True


def may_decide_now(approval: Approval, now_ms: int) -> tuple[str, ...]:
    """Return the subjects whose votes would be taken now, delegates included."""
    stage = open_stage(approval)
    if approval.state is not ApprovalState.PENDING or stage is None:
        return ()
    delegates = (
        entry.delegate for entry in _delegations(approval, now_ms) if _gives(approval, entry, stage)
    )
    eligible = eligible_in(stage, now_ms - approval.opened_at_ms)
    return tuple(dict.fromkeys((*eligible, *delegates)))


def require_pending(approval: Approval, now_ms: int) -> None:
    """Check that an approval can still be decided.

    Raises:
        ApprovalNotOpen: it is not PENDING.
        ApprovalExpired: time to decide is over.
    """
    if approval.state is ApprovalState.EXPIRED:
        raise ApprovalExpired(approval.approval_id)
    if approval.state is not ApprovalState.PENDING:
        raise ApprovalNotOpen(approval.approval_id, approval.state)
    if now_ms >= approval.expires_at_ms:
        raise ApprovalExpired(approval.approval_id)


def _has_said(approval: Approval, voter: Voter, kind: EntryKind, vote_id: str) -> bool:
    for entry in approval.entries:
        if entry.by != voter.name or entry.kind not in {*VOTES, EntryKind.ADVICE}:
            continue
        if vote_id and entry.id == vote_id:
            if entry.kind is kind:
                return True
            raise VoteConflict(approval.approval_id, voter.name)
        if kind in VOTES and entry.kind in VOTES:
            if entry.kind is kind:
                return True
            raise VoteConflict(approval.approval_id, voter.name)
    return False


def _seat_of(approval: Approval, voter: Voter, stage: Stage, now_ms: int) -> str:
    """Return who handed a voter the vote that he has in a stage; empty: it is his own.

    Raises:
        SelfApproval: he has asked for it.
        NotEligible: he has none.
    """
    _require_slot(approval, voter, stage.name)
    if _is_eligible(approval, stage, voter, now_ms):
        return ""
    for entry in _delegations(approval, now_ms):
        if entry.delegate in {voter.name, *voter.subjects} and _gives(approval, entry, stage):
            return entry.by
    raise NotEligible(approval.approval_id, voter.name, stage.name)


def _require_slot(approval: Approval, voter: Voter, stage: str) -> None:
    """Check that nothing keeps somebody from voting, whatever the stage."""
    if not (voter.is_anybody or approval.unauthenticated):
        is_agent = bool(voter.agent_name) and voter.agent_name == approval.action.agent_name
        if is_agent or not voter.names.isdisjoint({approval.requested_by, *approval.waiters}):
            raise SelfApproval(approval.approval_id, voter.name)
    if approval.requirement.prevent_owner and is_owner(
        approval.agent_owner, voter.name, (*voter.subjects, voter.person)
    ):
        raise NotEligible(approval.approval_id, voter.name, stage, "it owns the agent")
    for entry in approval.entries:
        if voter.names.isdisjoint({entry.by, entry.person or entry.by}):
            continue
        if entry.kind is EntryKind.DELEGATED:
            raise NotEligible(approval.approval_id, voter.name, stage, "it has delegated its vote")
        if entry.kind in VOTES:
            raise NotEligible(approval.approval_id, voter.name, stage, "it has voted")


def _is_eligible(approval: Approval, stage: Stage, voter: Voter, now_ms: int) -> bool:
    if voter.is_anybody:
        return True
    eligible = eligible_in(stage, now_ms - approval.opened_at_ms)
    return is_among(eligible, voter.name, voter.subjects, may_approve=voter.may_approve)


def _delegations(approval: Approval, now_ms: int) -> Iterable[Entry]:
    """Yield what was handed on, holds still, and was not used yet."""
    used = {entry.delegate for entry in approval.entries if entry.kind in VOTES}
    for entry in approval.entries:
        holds = entry.until_ms == 0 or now_ms < entry.until_ms
        if entry.kind is EntryKind.DELEGATED and holds and entry.by not in used:
            yield entry


def _gives(approval: Approval, delegation: Entry, stage: Stage) -> bool:
    eligible = eligible_in(stage, delegation.at_ms - approval.opened_at_ms)
    return is_among(eligible, delegation.by, delegation.subjects, may_approve=True)


def _counted(approval: Approval, stage: Stage, by: str, now_ms: int) -> Approval:
    """Return what a vote in a stage makes of an approval."""
    if votes_in(approval, stage, EntryKind.DENY) >= stage.deny_quorum:
        return replace(
            approval,
            state=ApprovalState.DENIED,
            state_reason=f"denied by {by}",
            ended_at_ms=now_ms,
        )
    if open_stage(approval) is None:
        return granted(approval, f"granted by {by}", now_ms)
    return approval


def granted(approval: Approval, why: str, now_ms: int) -> Approval:
    """Return a PENDING approval as a grant; the time to use it begins when it can be used."""
    begins = max(now_ms, approval.not_before_ms)
    return replace(
        approval,
        state=ApprovalState.GRANTED,
        state_reason=why,
        granted_at_ms=now_ms,
        use_until_ms=begins + approval.requirement.use_window_ms,
    )
