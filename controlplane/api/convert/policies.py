"""Policies and decisions between the wire and the domain."""

from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.api.convert.policy_attachments import (
    approval_from_proto,
    approval_to_proto,
    obligations_from_proto,
    obligations_to_proto,
)
from controlplane.api.convert.values import (
    EnumPair,
    json_to_struct,
    ms_to_timestamp,
    struct_to_json,
    timestamp_to_ms,
)
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policies import (
    ConditionExplanation,
    Decision,
    DecisionReason,
    Effect,
    ExplainLevel,
    OnMissing,
    Policy,
    PolicyExplanation,
    PolicyScope,
    Target,
    Truth,
)
from controlplane.services.policies.decisions import Question
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane.v1.approval_service_pb2 import ConsumeApprovalRequest

MAX_BATCH = 256
"""Items of BatchEvaluatePolicy: a batch must not hold up the loop for more than a few ms."""

MAX_CONDITION_BYTES = 64 * 1024
"""Serialised conditions of one policy."""

MAX_CONTEXT_BYTES = 64 * 1024
"""Serialised context of one question."""

MAX_SESSION_BYTES = 256
"""Length of a session's id, as of a task's."""

EFFECTS = EnumPair(pb.PolicyAction, "POLICY_ACTION_", Effect)
"""The four answers."""

ON_MISSING = EnumPair(pb.OnMissing, "ON_MISSING_", OnMissing)
"""What an absent attribute means."""

_EXPLAIN = EnumPair(pb.ExplainLevel, "EXPLAIN_LEVEL_", ExplainLevel)

REASONS = {
    DecisionReason.POLICY: pb.PolicyDecision.REASON_POLICY,
    DecisionReason.GUARDRAIL: pb.PolicyDecision.REASON_GUARDRAIL,
    DecisionReason.DEFAULT: pb.PolicyDecision.REASON_DEFAULT,
    DecisionReason.CONDITION_INDETERMINATE: pb.PolicyDecision.REASON_CONDITION_INDETERMINATE,
    DecisionReason.NO_POLICY_LOADED: pb.PolicyDecision.REASON_NO_POLICY_LOADED,
    DecisionReason.LOG_ONLY: pb.PolicyDecision.REASON_OBSERVED,
}
"""Why a decision came out as it did."""

_TRUTHS = {
    Truth.TRUE: pb.TRUTH_TRUE,
    Truth.FALSE: pb.TRUTH_FALSE,
    Truth.UNKNOWN: pb.TRUTH_UNKNOWN,
}

_FIELDS = {
    "name": ("name",),
    "description": ("description",),
    "conditions": ("conditions",),
    "action": ("action",),
    "priority": ("priority",),
    "enabled": ("enabled",),
    "guardrail": ("guardrail",),
    "on_missing": ("on_missing",),
    "match_all": ("match_all",),
    "targets": ("targets",),
    "agent_name": ("scope",),
    "agent_id": ("scope",),
    "not_before": ("not_before_ms",),
    "not_after": ("not_after_ms",),
    "approval": ("approval",),
    "obligations": ("obligations",),
}
"""Path of an update mask -> attributes of `Policy`."""


def policy_from_proto(policy: pb.Policy, *, mask: Sequence[str] | None = None) -> Policy:
    """Return the policy of a request; what its conditions mean is judged by the domain.

    With `mask` (attributes of `Policy`) the action may be missing if it is not among them.

    Raises:
        InvalidArgument: no action, an unknown enum value, conditions that are too large.
    """
    if policy.conditions.ByteSize() > MAX_CONDITION_BYTES:
        raise InvalidArgument.of(
            "policy.conditions", f"are larger than {MAX_CONDITION_BYTES} bytes"
        )
    ignored = None if mask is None or "action" in mask else Effect.LOG_ONLY
    return Policy(
        policy_id=policy.policy_id,
        name=policy.name,
        description=policy.description,
        conditions=struct_to_json(policy.conditions, "policy.conditions"),
        action=EFFECTS.from_wire(policy.action, "policy.action", unspecified=ignored),
        priority=policy.priority,
        enabled=policy.enabled,
        guardrail=policy.guardrail,
        on_missing=(
            ON_MISSING.from_wire(policy.on_missing, "policy.on_missing")
            if policy.on_missing
            else None
        ),
        match_all=policy.match_all,
        targets=Target(
            actions=tuple(policy.targets.actions),
            tools=tuple(policy.targets.tools),
            agents=tuple(policy.targets.agents),
        ),
        scope=PolicyScope(agent_name=policy.agent_name, agent_id=policy.agent_id),
        not_before_ms=(
            timestamp_to_ms(policy.not_before, "policy.not_before")
            if policy.HasField("not_before")
            else None
        ),
        not_after_ms=(
            timestamp_to_ms(policy.not_after, "policy.not_after")
            if policy.HasField("not_after")
            else None
        ),
        approval=(
            approval_from_proto(policy.approval, "policy.approval")
            if policy.HasField("approval")
            else None
        ),
        obligations=obligations_from_proto(policy.obligations, "policy.obligations"),
    )


def mask_from_proto(paths: Iterable[str]) -> list[str]:
    """Return the attributes of `Policy` that an update mask names.

    Raises:
        InvalidArgument: it is empty, or names something that cannot be changed.
    """
    named = list(paths)
    if not named:
        raise InvalidArgument.of("update_mask", "must name at least one field")
    wrong = [
        FieldViolation("update_mask", f"{path!r} is not a field that can be changed")
        for path in named
        if path not in _FIELDS
    ]
    if wrong:
        raise InvalidArgument(*wrong)
    return list(dict.fromkeys(attribute for path in named for attribute in _FIELDS[path]))


def on_missing_to_wire(on_missing: OnMissing | None) -> "pb.OnMissing.ValueType":
    """Return what an absent attribute means on the wire; None is unspecified."""
    if on_missing is None:
        return pb.ON_MISSING_UNSPECIFIED
    number: pb.OnMissing.ValueType = ON_MISSING.to_wire(on_missing)
    return number


def policy_to_proto(policy: Policy) -> pb.Policy:
    """Return a policy as a message."""
    targets = policy.targets
    return pb.Policy(
        policy_id=policy.policy_id,
        name=policy.name,
        description=policy.description,
        conditions=json_to_struct(policy.conditions),
        action=EFFECTS.to_wire(policy.action),
        priority=policy.priority,
        enabled=policy.enabled,
        guardrail=policy.guardrail,
        on_missing=on_missing_to_wire(policy.on_missing),
        match_all=policy.match_all,
        targets=pb.PolicyTargets(
            actions=targets.actions, tools=targets.tools, agents=targets.agents
        ),
        agent_name=policy.scope.agent_name,
        agent_id=policy.scope.agent_id,
        not_before=_timestamp(policy.not_before_ms),
        not_after=_timestamp(policy.not_after_ms),
        approval=approval_to_proto(policy.approval) if policy.approval is not None else None,
        obligations=obligations_to_proto(policy.obligations),
        revision=policy.revision,
        updated_at=_timestamp(policy.updated_at_ms or None),
        updated_by=policy.updated_by,
    )


def explain_from_proto(level: "pb.ExplainLevel.ValueType") -> ExplainLevel:
    """Return how much to explain.

    Raises:
        InvalidArgument: an unknown level.
    """
    return _EXPLAIN.from_wire(level, "explain", unspecified=ExplainLevel.NONE)


def question_from_proto(
    item: pb.EvaluatePolicyRequest | pb.EvaluationItem | ConsumeApprovalRequest, within: int
) -> Question:
    """Return the question of a request or of one item of a batch; `within` so many bytes.

    Raises:
        InvalidArgument: no agent_id, or a context that is too large or not JSON.
    """
    if not item.agent_id:
        raise InvalidArgument.of("agent_id", "is required")
    context = item.context
    if within > MAX_CONTEXT_BYTES < context.ByteSize():  # counting costs as much as parsing
        raise InvalidArgument.of("context", f"is larger than {MAX_CONTEXT_BYTES} bytes")
    return Question(
        agent_id=item.agent_id,
        action=item.action,
        tool=item.tool,
        claims=struct_to_json(context, "context"),
        session_id=session_from_proto(item.session_id) if item.session_id else "",
    )


def session_from_proto(text: str, field: str = "session_id") -> str:
    """Return the id of a session.

    Raises:
        InvalidArgument: it is too long.
    """
    if len(text.encode()) > MAX_SESSION_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_SESSION_BYTES} bytes")
    return text


def decision_to_proto(decision: Decision) -> pb.PolicyDecision:
    """Return a decision as a message, without its id."""
    message = pb.PolicyDecision(
        action=EFFECTS.to_wire(decision.effect),
        reason=REASONS[decision.reason],
        message=decision.message,
        policy_revision=decision.revision,
        candidate_id=decision.candidate_id,
    )
    if decision.determining:
        message.determining_policies.extend(decision.determining)
    if decision.overridden:
        message.overridden_policies.extend(decision.overridden)
    if decision.observations:
        message.observed_policies.extend(
            o.policy_id for o in decision.observations if o.result is Truth.TRUE
        )
    if decision.obligations:
        message.obligations.extend(obligations_to_proto(decision.obligations))
    if decision.indeterminate:
        message.indeterminate_policies.extend(decision.indeterminate)
    if decision.explanation:
        message.explanations.extend(explanation_to_proto(e) for e in decision.explanation)
    return message


def explanation_to_proto(explanation: PolicyExplanation) -> pb.PolicyExplanation:
    """Return how one policy judged as a message."""
    condition = explanation.condition
    return pb.PolicyExplanation(
        policy_id=explanation.policy_id,
        action=EFFECTS.to_wire(explanation.effect),
        priority=explanation.priority,
        applies=explanation.applies,
        result=_TRUTHS[explanation.result],
        matched=explanation.matched,
        condition=_trace_to_proto(condition) if condition is not None else None,
    )


def _trace_to_proto(node: ConditionExplanation) -> pb.ConditionTrace:
    return pb.ConditionTrace(
        kind=node.kind,
        result=_TRUTHS[node.result],
        attribute=node.attribute,
        operator=node.operator,
        expected=node.expected,
        observed=node.observed,
        children=[_trace_to_proto(child) for child in node.children],
    )


def _timestamp(ms: int | None) -> Timestamp | None:
    return None if ms is None else ms_to_timestamp(ms)
