"""Recorded decisions between the wire and the domain."""

from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.approvals import STATES
from controlplane.api.convert.policies import (
    EFFECTS,
    MAX_CONTEXT_BYTES,
    REASONS,
    decision_to_proto,
    explanation_to_proto,
    session_from_proto,
)
from controlplane.api.convert.requests import required
from controlplane.api.convert.values import (
    bounded_ms,
    json_to_struct,
    ms_to_timestamp,
    struct_to_json,
    timestamp_to_ms,
)
from controlplane.domain.approvals.model import Approval
from controlplane.domain.decisions.query import FOREVER_MS, DecisionQuery
from controlplane.domain.decisions.records import DecisionGap, DecisionRecord, GapCause, Origin
from controlplane.domain.decisions.why_not import WhyNot, WhyNotReason
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import Decision, Effect, Observation, Truth
from controlplane.services.policies.decision_replay import Explained
from controlplane.services.policies.decision_reports import LocalDecision, Report
from controlplane.services.policies.recorded_decisions import DecisionPage
from fleetplane.v1 import decision_service_pb2 as pb
from fleetplane.v1 import policy_service_pb2 as policy_pb

MAX_REPORTED: Final = 500
"""Decisions of one report: a few milliseconds."""

MAX_BATCH_ID_BYTES: Final = 128
"""As long as a request_id."""

MAX_NAME_BYTES: Final = 256
"""Of the policies, messages and digests that a report names."""

MAX_POLICIES: Final = 1_000
"""Policies that one reported decision may name."""

LONGEST_LATENCY_MS: Final = 60 * 60 * 1000
"""Of a reported decision; no policy takes that long, a process that was stopped may."""

MAX_MESSAGE_BYTES: Final = 4_096
"""Of the sentence that a reported decision carries."""

_ORIGINS: Final = {
    Origin.SERVER: pb.DECISION_ORIGIN_SERVER,
    Origin.LOCAL: pb.DECISION_ORIGIN_LOCAL,
}
_CAUSES: Final = {
    GapCause.OVERFLOW: pb.DECISION_GAP_CAUSE_OVERFLOW,
    GapCause.NOT_REPORTED: pb.DECISION_GAP_CAUSE_NOT_REPORTED,
}
_WHY_NOT: Final = {
    reason: pb.WhyNot.Reason.Value(f"REASON_{reason.name}") for reason in WhyNotReason
}
_REASON_OF: Final = {wire: reason for reason, wire in REASONS.items()}
_NANOSECONDS: Final = 1_000_000_000


ApprovalOf = Callable[[str], Approval | None]
"""Returns the approval that a decision opened, by its id; None: it opened none, or that is gone."""


def record_to_proto(record: DecisionRecord, approval_of: ApprovalOf) -> pb.RecordedDecision:
    """Return a recorded decision as a message."""
    decision = decision_to_proto(record.decision)
    decision.decision_id = record.decision_id
    if record.decision.effect is Effect.REQUIRE_APPROVAL:
        approval = approval_of(record.decision_id)
        if approval is not None:
            decision.approval_id = approval.approval_id
            decision.approval_state = STATES.to_wire(approval.state)
    return pb.RecordedDecision(
        decision=decision,
        agent_id=record.agent_id,
        agent_name=record.agent_name,
        agent_version=record.agent_version,
        session_id=record.session_id,
        action=record.action,
        tool=record.tool,
        context=json_to_struct(record.claims),
        facts=json_to_struct(record.facts),
        made_at=ms_to_timestamp(record.at_ms),
        origin=_ORIGINS[record.origin],
        caller=record.caller,
        latency=_duration(record.latency_ns),
        policy_digest=record.policy_digest,
        sample_rate=record.sample_rate,
        masked_paths=record.masked_paths,
    )


def page_to_proto(page: DecisionPage, approval_of: ApprovalOf) -> pb.QueryDecisionsResponse:
    """Return a page of the log as a message, without its token."""
    return pb.QueryDecisionsResponse(
        entries=[
            pb.DecisionEntry(gap=_gap_to_proto(entry))
            if isinstance(entry, DecisionGap)
            else pb.DecisionEntry(decision=record_to_proto(entry, approval_of))
            for entry in page.entries
        ],
        scanned=page.scanned,
    )


def explained_to_proto(explained: Explained, approval_of: ApprovalOf) -> pb.ExplainDecisionResponse:
    """Return an explanation as a message."""
    replayed = decision_to_proto(explained.replayed)
    replayed.decision_id = explained.recorded.decision_id
    response = pb.ExplainDecisionResponse(
        recorded=record_to_proto(explained.recorded, approval_of),
        replayed=replayed,
        explained_by=pb.EXPLAINED_BY_RECORDED_REVISION
        if explained.by_recorded_revision
        else pb.EXPLAINED_BY_CURRENT_REVISION,
        not_replayable_policies=explained.unreliable,
    )
    if explained.why_not is not None:
        response.why_not.CopyFrom(_why_not_to_proto(explained.why_not))
    return response


def query_from_proto(request: pb.QueryDecisionsRequest) -> DecisionQuery:
    """Return what is looked for.

    Raises:
        InvalidArgument: a time, an effect or a reason that is none.
    """
    effects = [EFFECTS.from_wire(effect, "effects") for effect in request.effects]
    for reason in request.reasons:
        if reason not in _REASON_OF:
            raise InvalidArgument.of("reasons", "holds one that is not known here")
    return DecisionQuery(
        from_ms=timestamp_to_ms(getattr(request, "from"), "from")
        if request.HasField("from")
        else 0,
        to_ms=timestamp_to_ms(request.to, "to") if request.HasField("to") else FOREVER_MS,
        agent_id=request.agent_id,
        agent_name=request.agent_name,
        action=request.action,
        tool=request.tool,
        session_id=request.session_id,
        effects=frozenset(effects),
        reasons=frozenset(_REASON_OF[reason] for reason in request.reasons),
        policy_id=request.policy_id,
    )


def report_from_proto(request: pb.RecordDecisionsRequest) -> Report:
    """Return what an agent reports.

    Raises:
        InvalidArgument: something is missing, too large or too many.
    """
    if len(request.decisions) > MAX_REPORTED:
        raise InvalidArgument.of("decisions", f"holds more than {MAX_REPORTED}")
    if len(required(request.batch_id, "batch_id").encode()) > MAX_BATCH_ID_BYTES:
        raise InvalidArgument.of("batch_id", f"is longer than {MAX_BATCH_ID_BYTES} bytes")
    return Report(
        agent_id=required(request.agent_id, "agent_id"),
        batch_id=request.batch_id,
        decisions=[
            _local_from_proto(one, f"decisions[{number}]")
            for number, one in enumerate(request.decisions)
        ],
        number_lost=request.number_lost,
        lost_from_ms=timestamp_to_ms(request.lost_from, "lost_from"),
        lost_to_ms=timestamp_to_ms(request.lost_to, "lost_to"),
    )


def _local_from_proto(one: pb.LocalDecision, field: str) -> LocalDecision:
    if one.context.ByteSize() > MAX_CONTEXT_BYTES:
        raise InvalidArgument.of(f"{field}.context", f"is larger than {MAX_CONTEXT_BYTES} bytes")
    if len(one.policy_digest) > MAX_NAME_BYTES:
        raise InvalidArgument.of(f"{field}.policy_digest", "is none")
    if not one.HasField("made_at"):
        raise InvalidArgument.of(f"{field}.made_at", "is required")
    return LocalDecision(
        decision_id=one.decision.decision_id,
        decision=_decision_from_proto(one.decision, f"{field}.decision"),
        at_ms=timestamp_to_ms(one.made_at, f"{field}.made_at"),
        action=one.action,
        tool=one.tool,
        session_id=session_from_proto(one.session_id, f"{field}.session_id"),
        claims=struct_to_json(one.context, f"{field}.context"),
        latency_ns=_nanoseconds(one.latency, f"{field}.latency"),
        policy_digest=one.policy_digest,
    )


def _decision_from_proto(decision: policy_pb.PolicyDecision, field: str) -> Decision:
    if decision.reason not in _REASON_OF:
        raise InvalidArgument.of(f"{field}.reason", "is not known here")
    if len(decision.message.encode()) > MAX_MESSAGE_BYTES:
        raise InvalidArgument.of(f"{field}.message", f"is longer than {MAX_MESSAGE_BYTES} bytes")
    return Decision(
        effect=EFFECTS.from_wire(decision.action, f"{field}.action"),
        reason=_REASON_OF[decision.reason],
        revision=decision.policy_revision,
        determining=_policies(decision.determining_policies, f"{field}.determining_policies"),
        overridden=_policies(decision.overridden_policies, f"{field}.overridden_policies"),
        observations=tuple(
            Observation(policy_id=policy_id, result=Truth.TRUE)
            for policy_id in _policies(decision.observed_policies, f"{field}.observed_policies")
        ),
        indeterminate=_policies(decision.indeterminate_policies, f"{field}.indeterminate_policies"),
        message=decision.message,
    )


def _policies(policy_ids: Iterable[str], field: str) -> tuple[str, ...]:
    named = tuple(policy_ids)
    if len(named) > MAX_POLICIES or any(len(one.encode()) > MAX_NAME_BYTES for one in named):
        raise InvalidArgument.of(
            field, f"holds more than {MAX_POLICIES}, or one longer than {MAX_NAME_BYTES} bytes"
        )
    return named


def _gap_to_proto(gap: DecisionGap) -> pb.DecisionGap:
    return pb.DecisionGap(
        number_lost=gap.number_lost,
        first_at=ms_to_timestamp(gap.first_ms),
        last_at=ms_to_timestamp(gap.last_ms),
        cause=_CAUSES[gap.cause],
        source=gap.source,
    )


def _why_not_to_proto(why_not: WhyNot) -> pb.WhyNot:
    message = pb.WhyNot(
        policy_id=why_not.policy_id, reason=_WHY_NOT[why_not.reason], message=why_not.message
    )
    if why_not.explanation is not None:
        message.explanation.CopyFrom(explanation_to_proto(why_not.explanation))
    return message


def _nanoseconds(duration: Duration, field: str) -> int:
    bounded_ms(duration, field, least=0, most=LONGEST_LATENCY_MS, said="0 - 1 h")
    return duration.seconds * _NANOSECONDS + duration.nanos


def _duration(nanoseconds: int) -> Duration:
    seconds, nanos = divmod(nanoseconds, _NANOSECONDS)
    return Duration(seconds=seconds, nanos=nanos)
