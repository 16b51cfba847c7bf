"""Policies that arrive and decisions that are handed out, between messages and the engine.

Needs the extra `policies`, like everything that imports this module.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fleetplane._values import from_struct, to_struct
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane_policy import (
    ConditionExplanation,
    Decision,
    DecisionReason,
    Effect,
    ExplainLevel,
    Obligation,
    OnMissing,
    Policy,
    PolicyExplanation,
    PolicyScope,
    Target,
    Truth,
)

_NANOSECONDS: Final = 1_000_000  # per millisecond

_EFFECTS: Final[Mapping[int, Effect]] = MappingProxyType(
    {pb.PolicyAction.Value(f"POLICY_ACTION_{effect.name}"): effect for effect in Effect}
)
_ACTIONS: Final = MappingProxyType(
    {effect: pb.PolicyAction.ValueType(number) for number, effect in _EFFECTS.items()}
)
_ON_MISSING: Final[Mapping[int, OnMissing | None]] = MappingProxyType(
    {
        pb.ON_MISSING_UNSPECIFIED: None,
        pb.ON_MISSING_NO_MATCH: OnMissing.NO_MATCH,
        pb.ON_MISSING_MATCH: OnMissing.MATCH,
    }
)
_REASONS: Final = MappingProxyType(
    {
        DecisionReason.POLICY: pb.PolicyDecision.REASON_POLICY,
        DecisionReason.GUARDRAIL: pb.PolicyDecision.REASON_GUARDRAIL,
        DecisionReason.DEFAULT: pb.PolicyDecision.REASON_DEFAULT,
        DecisionReason.CONDITION_INDETERMINATE: pb.PolicyDecision.REASON_CONDITION_INDETERMINATE,
        DecisionReason.NO_POLICY_LOADED: pb.PolicyDecision.REASON_NO_POLICY_LOADED,
        DecisionReason.LOG_ONLY: pb.PolicyDecision.REASON_OBSERVED,
    }
)
_TRUTHS: Final = MappingProxyType(
    {
        Truth.TRUE: pb.TRUTH_TRUE,
        Truth.FALSE: pb.TRUTH_FALSE,
        Truth.UNKNOWN: pb.TRUTH_UNKNOWN,
    }
)
LEVELS: Final = MappingProxyType(
    {
        pb.EXPLAIN_LEVEL_NONE: ExplainLevel.NONE,
        pb.EXPLAIN_LEVEL_DETERMINING: ExplainLevel.DETERMINING,
        pb.EXPLAIN_LEVEL_FULL: ExplainLevel.FULL,
    }
)
"""How much to explain, by its number."""


def effect_of(action: int) -> Effect:
    """Return an effect; one that this SDK is too old to know refuses."""
    return _EFFECTS.get(action, Effect.DENY)


def on_missing_of(number: int) -> OnMissing | None:
    """Return what absent attributes mean; what this SDK is too old to know fails closed."""
    return _ON_MISSING.get(number, OnMissing.MATCH)


def policy_of(message: pb.Policy) -> Policy:
    """Return a policy for the engine: all of it that a decision depends on."""
    targets = message.targets
    return Policy(
        policy_id=message.policy_id,
        name=message.name,
        description=message.description,
        conditions=from_struct(message.conditions),
        action=effect_of(message.action),
        priority=message.priority,
        enabled=message.enabled,
        guardrail=message.guardrail,
        on_missing=on_missing_of(message.on_missing),
        match_all=message.match_all,
        targets=Target(
            actions=tuple(targets.actions),
            tools=tuple(targets.tools),
            agents=tuple(targets.agents),
        ),
        scope=PolicyScope(agent_name=message.agent_name, agent_id=message.agent_id),
        not_before_ms=_milliseconds(message, "not_before"),
        not_after_ms=_milliseconds(message, "not_after"),
        obligations=tuple(
            Obligation(name=one.name, params=from_struct(one.params)) for one in message.obligations
        ),
    )


def _milliseconds(message: pb.Policy, field: str) -> int | None:
    if not message.HasField(field):  # type: ignore[arg-type]  # one of two literals
        return None
    moment = getattr(message, field)
    milliseconds: int = moment.seconds * 1000 + moment.nanos // _NANOSECONDS
    return milliseconds


def decision_message(decision: Decision) -> pb.PolicyDecision:
    """Return a decision as the server would answer it, without its id."""
    message = pb.PolicyDecision(
        action=_ACTIONS[decision.effect],
        reason=_REASONS[decision.reason],
        message=decision.message,
        policy_revision=decision.revision,
        candidate_id=decision.candidate_id,
        determining_policies=decision.determining,
        overridden_policies=decision.overridden,
        observed_policies=[
            one.policy_id for one in decision.observations if one.result is Truth.TRUE
        ],
        indeterminate_policies=decision.indeterminate,
    )
    for obligation in decision.obligations:
        message.obligations.add(name=obligation.name, params=to_struct(obligation.params))
    for explanation in decision.explanation or ():
        message.explanations.append(_explanation(explanation))
    return message


def _explanation(explanation: PolicyExplanation) -> pb.PolicyExplanation:
    condition = explanation.condition
    return pb.PolicyExplanation(
        policy_id=explanation.policy_id,
        action=_ACTIONS[explanation.effect],
        priority=explanation.priority,
        applies=explanation.applies,
        result=_TRUTHS[explanation.result],
        matched=explanation.matched,
        condition=_trace(condition) if condition is not None else None,
    )


def _trace(node: ConditionExplanation) -> pb.ConditionTrace:
    return pb.ConditionTrace(
        kind=node.kind,
        result=_TRUTHS[node.result],
        attribute=node.attribute,
        operator=node.operator,
        expected=node.expected,
        observed=node.observed,
        children=[_trace(child) for child in node.children],
    )
