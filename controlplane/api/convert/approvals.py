"""Approvals between the wire and the domain."""

from collections.abc import Callable, Iterable, Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import MAX_REASON_BYTES
from controlplane.api.convert.values import (
    EnumPair,
    bounded_ms,
    json_to_struct,
    moment,
    ms_to_timestamp,
    struct_to_json,
    timestamp_to_ms,
)
from controlplane.domain.approvals.digest import canonical
from controlplane.domain.approvals.model import (
    MAX_COMMENT_BYTES,
    Approval,
    ApprovalDecision,
    ApprovalState,
    BoundAction,
    Entry,
    EntryKind,
    StandingGrant,
    Voter,
)
from controlplane.domain.approvals.requirements import eligible_in, open_stage, votes_in
from controlplane.domain.approvals.votes import may_decide, may_decide_now
from controlplane.domain.errors import InvalidArgument
from controlplane.services.approvals.deciding import Ballot
from controlplane.services.approvals.pages import ApprovalFilter
from controlplane.services.approvals.waiting import (
    LONGEST_WAIT_MS,
    Bookmark,
    Delta,
    SnapshotPart,
    WatchEvent,
)
from fleetplane.v1 import approval_service_pb2 as pb
from fleetplane.v1 import watch_pb2

MAX_ID_BYTES = 128
"""Of what clients choose to make a call idempotent."""

MAX_CONDITION_BYTES = 64 * 1024
"""Serialised conditions of a standing grant."""

STATES = EnumPair(pb.ApprovalState, "APPROVAL_STATE_", ApprovalState)
_DECISIONS = EnumPair(pb.ApprovalDecision, "APPROVAL_DECISION_", ApprovalDecision)
_KINDS = EnumPair(pb.ApprovalEntry.Kind, "KIND_", EntryKind)

Render = Callable[[Approval], pb.Approval]
"""Shows an approval to a caller."""


def filter_from_proto(chosen: pb.ApprovalFilter) -> ApprovalFilter:
    """Return which approvals are wanted.

    Raises:
        InvalidArgument: an unknown state.
    """
    return ApprovalFilter(
        states=frozenset(
            STATES.from_wire(state, f"filter.states[{place}]")
            for place, state in enumerate(chosen.states)
        ),
        agent_id=chosen.agent_id,
        agent_name=chosen.agent_name,
        mine=chosen.mine,
    )


def wait_from_proto(request: pb.WaitApprovalRequest) -> int:
    """Return how long to wait, in milliseconds.

    Raises:
        InvalidArgument: longer than 55 s, or malformed.
    """
    if not request.HasField("timeout"):
        return LONGEST_WAIT_MS
    return bounded_ms(
        request.timeout, "timeout", least=0, most=LONGEST_WAIT_MS, said="at most 55 s"
    )


def ballot_from_proto(request: pb.DecideApprovalRequest, prefix: str = "") -> Ballot:
    """Return a vote; `prefix` says where it was found.

    Raises:
        InvalidArgument: no approval, no decision, or a comment or vote_id that is too long.
    """
    if not request.approval_id:
        raise InvalidArgument.of(f"{prefix}approval_id", "is required")
    return Ballot(
        approval_id=request.approval_id,
        decision=_DECISIONS.from_wire(request.decision, f"{prefix}decision"),
        comment=comment_from_proto(request.comment, f"{prefix}comment"),
        vote_id=id_from_proto(request.vote_id, f"{prefix}vote_id"),
        expected_revision=request.expected_revision,
    )


def comment_from_proto(text: str, field: str = "comment") -> str:
    """Return a comment.

    Raises:
        InvalidArgument: `field` is longer than 4,096 bytes.
    """
    if len(text.encode()) > MAX_COMMENT_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_COMMENT_BYTES:,} bytes")
    return text


def id_from_proto(text: str, field: str) -> str:
    """Return what a client chose to make a call idempotent; may be empty.

    Raises:
        InvalidArgument: `field` is longer than 128 bytes, or holds characters that do not print.
    """
    if len(text.encode()) > MAX_ID_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_ID_BYTES} bytes")
    if not text.isprintable():
        raise InvalidArgument.of(field, "holds characters that do not print")
    return text


def moment_from_proto(timestamp: Timestamp, field: str, *, given: bool) -> int:
    """Return a moment that has to be there.

    Raises:
        InvalidArgument: `field` is missing or malformed.
    """
    if not given:
        raise InvalidArgument.of(field, "is required")
    return timestamp_to_ms(timestamp, field)


def grant_from_proto(grant: pb.StandingGrant) -> StandingGrant:
    """Return a grant in advance, without an id; what it means is judged by the domain.

    Raises:
        InvalidArgument: no end, or conditions that are too large or not JSON.
    """
    if grant.conditions.ByteSize() > MAX_CONDITION_BYTES:
        raise InvalidArgument.of("grant.conditions", f"are larger than {MAX_CONDITION_BYTES} bytes")
    return StandingGrant(
        grant_id="",
        agent_name=grant.agent_name,
        agent_id=grant.agent_id,
        action=grant.action,
        tool=grant.tool,
        conditions=struct_to_json(grant.conditions, "grant.conditions"),
        max_uses=grant.max_uses,
        expires_at_ms=moment_from_proto(
            grant.expires_at, "grant.expires_at", given=grant.HasField("expires_at")
        ),
        reason=_reason(grant.reason),
        created_by="",
    )


def _reason(text: str) -> str:
    if len(text.encode()) > MAX_REASON_BYTES:
        raise InvalidArgument.of("grant.reason", f"is longer than {MAX_REASON_BYTES:,} bytes")
    return text


def grant_to_proto(grant: StandingGrant) -> pb.StandingGrant:
    """Return a grant in advance as a message."""
    return pb.StandingGrant(
        grant_id=grant.grant_id,
        agent_name=grant.agent_name,
        agent_id=grant.agent_id,
        action=grant.action,
        tool=grant.tool,
        conditions=json_to_struct(grant.conditions),
        max_uses=grant.max_uses,
        expires_at=ms_to_timestamp(grant.expires_at_ms),
        reason=grant.reason,
        uses=grant.uses,
        created_by=grant.created_by,
        created_at=moment(grant.created_at_ms),
        revoked_at=moment(grant.revoked_at_ms),
        revoked_by=grant.revoked_by,
        revision=grant.revision,
    )


def approval_to_proto(
    approval: Approval, namespace: str, now_ms: int, voter: Voter | None = None
) -> pb.Approval:
    """Return an approval as a message, as `voter` sees it (None: as nobody in particular)."""
    return pb.Approval(
        approval_id=approval.approval_id,
        namespace=namespace,
        state=STATES.to_wire(approval.state),
        state_reason=approval.state_reason,
        action=_action(approval.action, namespace),
        digest=approval.digest,
        requested_by=approval.requested_by,
        unauthenticated=approval.unauthenticated,
        waiters=approval.waiters,
        agent_owner=approval.agent_owner,
        policies=approval.policies,
        decision_id=approval.decision_id,
        policy_revision=approval.policy_revision,
        stages=_stages(approval, now_ms),
        escalations=_escalations(approval, now_ms),
        prevent_owner=approval.requirement.prevent_owner,
        irreversible=approval.requirement.irreversible,
        entries=[_entry(entry) for entry in approval.entries],
        may_decide_now=may_decide_now(approval, now_ms),
        caller_may_decide=voter is not None and may_decide(approval, voter, now_ms),
        created_at=ms_to_timestamp(approval.opened_at_ms),
        not_before=moment(approval.not_before_ms),
        expires_at=ms_to_timestamp(approval.expires_at_ms),
        granted_at=moment(approval.granted_at_ms),
        use_until=moment(approval.use_until_ms),
        ended_at=moment(approval.ended_at_ms),
        standing_grant_id=approval.standing_grant_id,
        consume_id=approval.consume_id,
        revision=approval.revision,
    )


def watched_to_proto(event: WatchEvent, render: Render) -> pb.WatchApprovalsResponse:
    """Return an event of a watch as a message."""
    response = pb.WatchApprovalsResponse(position=position_to_proto(event.position))
    match event:
        case SnapshotPart(approvals=approvals, complete=complete):
            response.snapshot.approvals.extend(map(render, approvals))
            response.snapshot.complete = complete
        case Delta(approvals=approvals, removed_ids=removed):
            response.delta.approvals.extend(map(render, approvals))
            response.delta.removed_approval_ids.extend(removed)
        case Bookmark():
            response.bookmark.SetInParent()
    return response


def approvals_go_away(last: watch_pb2.GoAway) -> pb.WatchApprovalsResponse:
    """Return the last message of a watch that the server ends."""
    return pb.WatchApprovalsResponse(go_away=last)


def _action(action: BoundAction, namespace: str) -> pb.BoundAction:
    return pb.BoundAction(
        agent_id=action.agent_id,
        agent_name=action.agent_name,
        agent_version=action.agent_version,
        session_id=action.session_id,
        action=action.action,
        tool=action.tool,
        context=json_to_struct(action.context),
        ceilings=action.ceilings,
        canonical=canonical(namespace, action).decode(),
    )


def _stages(approval: Approval, now_ms: int) -> Iterator[pb.ApprovalStageProgress]:
    current = open_stage(approval) if approval.state is ApprovalState.PENDING else None
    for stage in approval.requirement.stages:
        grants = votes_in(approval, stage, EntryKind.GRANT)
        yield pb.ApprovalStageProgress(
            name=stage.name,
            quorum=stage.quorum,
            deny_quorum=stage.deny_quorum,
            eligible=eligible_in(stage, now_ms - approval.opened_at_ms),
            grants=grants,
            denials=votes_in(approval, stage, EntryKind.DENY),
            complete=grants >= stage.quorum,
            open=stage is current,
        )


def _escalations(approval: Approval, now_ms: int) -> Iterable[pb.ApprovalEscalation]:
    for stage in approval.requirement.stages:
        for one in stage.escalations:
            at_ms = approval.opened_at_ms + one.after_ms
            yield pb.ApprovalEscalation(
                at=ms_to_timestamp(at_ms),
                eligible=one.eligible,
                active=now_ms >= at_ms,
                stage=stage.name,
            )


def _entry(entry: Entry) -> pb.ApprovalEntry:
    return pb.ApprovalEntry(
        sequence=entry.sequence,
        kind=_KINDS.to_wire(entry.kind),
        by=entry.by,
        at=ms_to_timestamp(entry.at_ms),
        stage=entry.stage,
        comment=entry.comment,
        id=entry.id,
        delegate=entry.delegate,
        until=moment(entry.until_ms),
        digest=entry.digest,
    )
