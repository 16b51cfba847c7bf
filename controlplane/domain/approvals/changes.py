"""What becomes of approvals besides votes: opened, taken back, prolonged, used, over."""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.approvals.digest import within_ceilings
from controlplane.domain.approvals.model import (
    MAX_LIFE_MS,
    MAX_WAITERS,
    ROOM_FOR_VOTES,
    Approval,
    ApprovalState,
    EntryKind,
)
from controlplane.domain.approvals.record import noted, require_room
from controlplane.domain.approvals.refusals import (
    AlreadyConsumed,
    ApprovalExpired,
    ApprovalNotOpen,
    DigestMismatch,
)
from controlplane.domain.approvals.votes import granted, require_pending
from controlplane.domain.errors import InvalidArgument, LimitExceeded


def opened(approval: Approval, *, standing_grant_id: str = "", plane: str = "") -> Approval:
    """Return a new approval with the first line of its record and its times filled in.

    With `standing_grant_id` it is GRANTED at once; `plane` says so.
    """
    requirement = approval.requirement
    begins = approval.opened_at_ms
    not_before = begins + requirement.delay_ms if requirement.delay_ms else 0
    approval = noted(
        replace(
            approval,
            expires_at_ms=begins + min(requirement.ttl_ms, MAX_LIFE_MS),
            not_before_ms=not_before,
        ),
        EntryKind.REQUESTED,
        by=approval.requested_by,
        at_ms=begins,
    )
    if not standing_grant_id:
        return approval
    approval = noted(
        replace(approval, standing_grant_id=standing_grant_id),
        EntryKind.STANDING_GRANT,
        by=plane,
        at_ms=begins,
        id=standing_grant_id,
    )
    return granted(approval, f"granted by standing grant {standing_grant_id}", begins)


def joined_by(approval: Approval, who: str) -> Approval:
    """Return an approval that somebody waits for; as it was if that is known.

    Raises:
        LimitExceeded: `MAX_WAITERS` wait already.
    """
    if who in {approval.requested_by, *approval.waiters}:
        return approval
    if len(approval.waiters) >= MAX_WAITERS:
        raise LimitExceeded("callers who wait for one approval", limit=MAX_WAITERS)
    return replace(approval, waiters=(*approval.waiters, who))


def cancelled(approval: Approval, *, by: str, reason: str, now_ms: int) -> Approval:
    """Return a PENDING approval that nobody wants any more; as it is if it was taken back.

    Raises:
        ApprovalNotOpen: it is in another state.
        ApprovalExpired: its time is over, be it that nobody has written that down yet.
    """
    if approval.state is ApprovalState.CANCELLED:
        return approval
    require_pending(approval, now_ms)
    state = ApprovalState.CANCELLED
    return _ended(approval, state, EntryKind.CANCELLED, by, reason or f"by {by}", now_ms)


def revoked(approval: Approval, *, by: str, reason: str, now_ms: int) -> Approval:
    """Return a GRANTED approval that was taken back; as it is if that happened already.

    Raises:
        ApprovalNotOpen: it is in another state.
        ApprovalExpired: its time is over, be it that nobody has written that down yet.
    """
    if approval.state is ApprovalState.REVOKED:
        return approval
    if approval.state is ApprovalState.GRANTED and now_ms >= approval.use_until_ms:
        raise ApprovalExpired(approval.approval_id)
    if approval.state is not ApprovalState.GRANTED:
        raise ApprovalNotOpen(approval.approval_id, approval.state)
    return _ended(approval, ApprovalState.REVOKED, EntryKind.REVOKED, by, reason, now_ms)


def superseded(approval: Approval, *, by: str, reason: str, now_ms: int) -> Approval:
    """Return an open approval that the policies of today are not satisfied with."""
    return _ended(approval, ApprovalState.SUPERSEDED, EntryKind.SUPERSEDED, by, reason, now_ms)


def extended(
    approval: Approval, expires_at_ms: int, *, by: str, reason: str, now_ms: int
) -> Approval:
    """Return a PENDING approval with more (or less) time to decide.

    Raises:
        ApprovalNotOpen: it is not PENDING.
        ApprovalExpired: its time is over already.
        InvalidArgument: `expires_at` is not later than now, or beyond `MAX_LIFE_MS`.
        LimitExceeded: the record is full.
    """
    require_pending(approval, now_ms)
    require_room(approval, spare=ROOM_FOR_VOTES)
    if not now_ms < expires_at_ms <= approval.opened_at_ms + MAX_LIFE_MS:
        raise InvalidArgument.of(
            "expires_at", "must be later than now, and at most 24 h after it was opened"
        )
    return noted(
        replace(approval, expires_at_ms=expires_at_ms),
        EntryKind.EXTENDED,
        by=by,
        at_ms=now_ms,
        comment=reason,
        until_ms=expires_at_ms,
    )


def require_usable(
    approval: Approval, digest: str, ceilings: Mapping[str, float], now_ms: int
) -> None:
    """Check that a grant is for an action, and can be used now; policies are not asked.

    The first that holds is raised.

    Raises:
        AlreadyConsumed: it was used.
        ApprovalExpired: it has expired, or will not be usable at `now_ms` any more.
        ApprovalNotOpen: it is in another state than GRANTED, or cannot be used yet.
        DigestMismatch: it is for another action, or for a lower ceiling.
    """
    approval_id = approval.approval_id
    if approval.state is ApprovalState.CONSUMED:
        raise AlreadyConsumed(approval_id)
    if approval.state is ApprovalState.EXPIRED:
        raise ApprovalExpired(approval_id)
    if approval.state is not ApprovalState.GRANTED:
        raise ApprovalNotOpen(approval_id, approval.state)
    if now_ms >= approval.use_until_ms:
        raise ApprovalExpired(approval_id)
    if now_ms < approval.not_before_ms:
        raise ApprovalNotOpen(approval_id, approval.state, "it cannot be used yet")
    require_same_action(approval, digest, ceilings)


def require_same_action(approval: Approval, digest: str, ceilings: Mapping[str, float]) -> None:
    """Check that an approval is for an action.

    Raises:
        DigestMismatch: it is for another one, or for a lower ceiling.
    """
    if digest == approval.digest and within_ceilings(ceilings, approval.action.ceilings):
        return
    why = "" if digest != approval.digest else "it is above what was approved"
    raise DigestMismatch(approval.approval_id, digest=digest, approved=approval.digest, why=why)


def consumed(approval: Approval, consume_id: str, *, by: str, now_ms: int) -> Approval:
    """Return a GRANTED approval as used up."""
    ended = _ended(
        approval, ApprovalState.CONSUMED, EntryKind.CONSUMED, by, "used", now_ms, consume_id
    )
    return replace(ended, consume_id=consume_id)


def due(approval: Approval, now_ms: int, *, plane: str) -> Approval | None:
    """Return what time has made of an approval; None: nothing. It never grants.

    Escalations are noted, so that those who may vote by now are told.
    """
    match approval.state:
        case ApprovalState.PENDING if now_ms >= approval.expires_at_ms:
            return _expired(approval, "nobody decided in time", now_ms, plane)
        case ApprovalState.GRANTED if now_ms >= approval.use_until_ms:
            return _expired(approval, "the grant was not used in time", now_ms, plane)
        case ApprovalState.PENDING:
            reached = _escalations_until(approval, now_ms)
            if len(reached) <= approval.escalated:
                return None
            said = f"{', '.join(dict.fromkeys(s for one in reached for s in one))} may vote"
            return noted(
                replace(approval, escalated=len(reached)),
                EntryKind.ESCALATED,
                by=plane,
                at_ms=now_ms,
                comment=said,
            )
        case _:
            return None


def next_due_ms(approval: Approval) -> int:
    """Return when time will make something of an open approval."""
    if approval.state is ApprovalState.GRANTED:
        return approval.use_until_ms
    waits = sorted(
        one.after_ms for stage in approval.requirement.stages for one in stage.escalations
    )[approval.escalated :]
    return min([approval.expires_at_ms, *(approval.opened_at_ms + wait for wait in waits)])


def _escalations_until(approval: Approval, now_ms: int) -> list[tuple[str, ...]]:
    return [
        one.eligible
        for stage in approval.requirement.stages
        for one in stage.escalations
        if now_ms >= approval.opened_at_ms + one.after_ms
    ]


def _expired(approval: Approval, why: str, now_ms: int, plane: str) -> Approval:
    return _ended(approval, ApprovalState.EXPIRED, EntryKind.EXPIRED, plane, why, now_ms)


def _ended(
    approval: Approval,
    state: ApprovalState,
    kind: EntryKind,
    by: str,
    why: str,
    now_ms: int,
    id: str = "",  # noqa: A002 - the name of the field
) -> Approval:
    if not approval.state.is_open:
        raise ApprovalNotOpen(approval.approval_id, approval.state)
    ended = noted(approval, kind, by=by, at_ms=now_ms, comment=why, id=id)
    return replace(ended, state=state, state_reason=why, ended_at_ms=now_ms)


def seen(approval: Approval, now_ms: int) -> Approval:
    """Return an approval as it is to be shown: whose time is over is EXPIRED, written down or not.

    Nobody can decide on it or use it any more, so it does not become anything else.
    """
    ends = next_end_ms(approval)
    if not approval.state.is_open or now_ms < ends:
        return approval
    return replace(
        approval, state=ApprovalState.EXPIRED, state_reason="its time is over", ended_at_ms=ends
    )


def next_end_ms(approval: Approval) -> int:
    """Return when the time of an open approval is over."""
    if approval.state is ApprovalState.GRANTED:
        return approval.use_until_ms
    return approval.expires_at_ms
