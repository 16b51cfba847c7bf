"""Why a decision came out as it did: every policy's condition, node by node.

Explaining judges again, by walking the parsed condition; it is for people and costs accordingly.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fleetplane_policy.combining import is_candidate
from fleetplane_policy.compiled import CompiledPolicy
from fleetplane_policy.compiler import (
    ABSENT,
    UNREADABLE,
    ConditionCompiler,
    compile_reader,
)
from fleetplane_policy.model import (
    ConditionExplanation,
    Decision,
    Effect,
    ExplainLevel,
    PolicyExplanation,
    Request,
)
from fleetplane_policy.nodes import All, Always, AnyOf, Broken, Leaf, Node, Not
from fleetplane_policy.truth import ERROR, FALSE, NEGATED, SHOWN, TRUE

_TEXT_LIMIT: Final = 200  # characters of one shown value: readable, and no way to smuggle payloads


def explain(
    policies: Iterable[CompiledPolicy], request: Request, decision: Decision, level: ExplainLevel
) -> tuple[PolicyExplanation, ...]:
    """Explain the determining policies, or (FULL) every enabled one, highest priority first."""
    shown = [p for p in policies if p.policy.enabled]
    if level is ExplainLevel.DETERMINING:
        ids = {*decision.determining, *(o.policy_id for o in decision.observations)}
        shown = [p for p in shown if p.policy_id in ids]
    shown.sort(key=lambda p: (-p.priority, p.policy_id))
    return tuple(explain_policy(policy, request) for policy in shown)


def explain_policy(policy: CompiledPolicy, request: Request) -> PolicyExplanation:
    """Explain one policy, whether or not it applies."""
    covered = policy.in_scope(request) and policy.covers(request.action, request.tool)
    applies = covered and policy.applies(request)
    value = policy.judge(request) if applies else FALSE
    return PolicyExplanation(
        policy_id=policy.policy_id,
        effect=policy.effect,
        priority=policy.priority,
        applies=applies,
        result=SHOWN[value],
        matched=is_candidate(policy, value) or (policy.effect is Effect.LOG_ONLY and value == TRUE),
        condition=_explain_node(policy.node, request)[0] if applies else None,
    )


def _explain_node(node: Node, request: Request) -> tuple[ConditionExplanation, int]:
    match node:
        case All(items):
            return _explain_items("all", items, request)
        case AnyOf(items):
            return _explain_items("any", items, request)
        case Not(item):
            child, value = _explain_node(item, request)
            value = NEGATED[value]
            return ConditionExplanation(kind="not", result=SHOWN[value], children=(child,)), value
        case Always():
            return ConditionExplanation(kind="always", result=SHOWN[TRUE]), TRUE
        case Broken(why):
            return ConditionExplanation(kind="broken", result=SHOWN[ERROR], expected=why), ERROR
        case Leaf():
            return _explain_leaf(node, request)


def _explain_items(
    kind: str, items: tuple[Node, ...], request: Request
) -> tuple[ConditionExplanation, int]:
    judged = [_explain_node(item, request) for item in items]
    absorbing, neutral = (FALSE, TRUE) if kind == "all" else (TRUE, FALSE)
    values = [value for _, value in judged]
    value = absorbing if absorbing in values else max(neutral, *values)
    children = tuple(child for child, _ in judged)
    return ConditionExplanation(kind=kind, result=SHOWN[value], children=children), value


def _explain_leaf(leaf: Leaf, request: Request) -> tuple[ConditionExplanation, int]:
    try:
        value = ConditionCompiler().compile(leaf)(request)
        observed = _observed(leaf, compile_reader(leaf.attribute)(request))
    except Exception:  # noqa: BLE001 - explain what the decision did: a defect is an ERROR
        value, observed = ERROR, "(unreadable)"
    explanation = ConditionExplanation(
        kind="leaf",
        result=SHOWN[value],
        attribute=leaf.attribute.shown,
        operator=leaf.operator,
        expected=_text(leaf.value),
        observed=observed,
    )
    return explanation, value


def _observed(leaf: Leaf, value: Any) -> str:
    if value is ABSENT:
        return "(missing)"
    if leaf.attribute.sensitive:
        return "(hidden)"
    return "(not a map)" if value is UNREADABLE else _text(value)


def _text(value: Any) -> str:
    text = repr(_in_order(value))
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}..."


def _in_order(value: Any) -> Any:
    """Return a value with the keys of its maps in order: messages keep none."""
    if isinstance(value, Mapping):
        return {key: _in_order(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return type(value)(map(_in_order, value))
    return value
