"""Policies and decisions as tables and trees."""

from collections.abc import Iterable, Iterator

from controlplane.cli.moments import moment
from controlplane.cli.rendering import Column, fields, short, table
from controlplane.cli.styles import STATUS_COLOURS, Colour, coloured, printable
from fleetplane import OnMissing, PolicyAction, from_struct
from fleetplane.v1 import policy_service_pb2 as pb

_TRUTHS = {
    pb.TRUTH_TRUE: ("true", Colour.GOOD),
    pb.TRUTH_FALSE: ("false", Colour.FAINT),
    pb.TRUTH_UNKNOWN: ("unknown", Colour.WARNING),
}


def policies_table(policies: Iterable[pb.Policy]) -> str:
    """Lay out policies, one per line."""
    columns = (
        Column("POLICY", flexible=True),
        Column("PRIORITY", right=True),
        Column("ACTION"),
        Column("ON"),
        Column("FOR", flexible=True),
        Column("REVISION", right=True),
        Column("CONDITIONS", flexible=True),
    )
    rows = [
        (
            one.policy_id,
            str(one.priority),
            PolicyAction(one.action).name,
            "yes" if one.enabled else "no",
            one.agent_name or one.agent_id or "all",
            str(one.revision),
            short(from_struct(one.conditions)),
        )
        for one in policies
    ]
    return table(columns, rows)


def policy_details(policy: pb.Policy) -> str:
    """Lay out everything about one policy."""
    targets = policy.targets
    return fields(
        {
            "policy": policy.policy_id,
            "name": policy.name,
            "description": policy.description,
            "action": PolicyAction(policy.action).name,
            "priority": str(policy.priority),
            "enabled": "yes" if policy.enabled else "no",
            "guardrail": "yes" if policy.guardrail else "",
            "on missing": OnMissing(policy.on_missing).name if policy.on_missing else "(default)",
            "match all": "yes" if policy.match_all else "",
            "actions": ", ".join(targets.actions),
            "tools": ", ".join(targets.tools),
            "agents": ", ".join(targets.agents),
            "agent name": policy.agent_name,
            "agent id": policy.agent_id,
            "not before": moment(policy.not_before),
            "not after": moment(policy.not_after),
            "changed": f"{moment(policy.updated_at)} by {policy.updated_by or '?'}"
            f" (revision {policy.revision})",
            "conditions": short(from_struct(policy.conditions)),
        }
    )


def decision_details(decision: pb.PolicyDecision) -> str:
    """Lay out a decision and how every policy came to its result."""
    head = fields(
        {
            "decision": PolicyAction(decision.action).name,
            "why": decision.message,
            "reason": pb.PolicyDecision.Reason.Name(decision.reason).removeprefix("REASON_"),
            "decided by": ", ".join(decision.determining_policies),
            "overridden": ", ".join(decision.overridden_policies),
            "observed": ", ".join(decision.observed_policies),
            "could not be told": ", ".join(decision.indeterminate_policies),
            "revision": str(decision.policy_revision),
            "id": decision.decision_id,
        }
    )
    trees = [line for one in decision.explanations for line in _policy_lines(one)]
    return "\n".join([head, "", *trees]) if trees else head


def _policy_lines(one: pb.PolicyExplanation) -> Iterator[str]:
    action = PolicyAction(one.action).name
    title = coloured(printable(one.policy_id), Colour.STRONG)
    head = f"{title}  {coloured(action, STATUS_COLOURS.get(action))}, priority {one.priority}: "
    if not one.applies:
        yield head + coloured("does not apply", Colour.FAINT)
        return
    yield head + (coloured("matches", Colour.GOOD) if one.matched else "does not match")
    if one.HasField("condition"):
        yield from _tree(one.condition, "", last=True)


def _tree(node: pb.ConditionTrace, indent: str, *, last: bool) -> Iterator[str]:
    word, colour = _TRUTHS.get(node.result, ("?", None))
    branch = "└─ " if last else "├─ "
    yield f"{indent}{branch}{coloured(word, colour)}  {printable(_condition(node))}"
    below = indent + ("   " if last else "│  ")
    for index, child in enumerate(node.children):
        yield from _tree(child, below, last=index == len(node.children) - 1)


def _condition(node: pb.ConditionTrace) -> str:
    if node.kind != "leaf":
        return node.kind
    return f"{node.attribute} {node.operator} {node.expected}   found: {node.observed}"
