"""Recorded decisions as lines and words."""

from collections.abc import Iterable, Iterator
from typing import Final

from controlplane.cli.moments import moment
from controlplane.cli.policy_views import decision_details
from controlplane.cli.rendering import fields, short
from controlplane.cli.styles import STATUS_COLOURS, Colour, coloured, printable
from fleetplane import PolicyAction, from_struct
from fleetplane.v1 import decision_service_pb2 as pb
from fleetplane.v1 import policy_service_pb2 as policy_pb

_ALMOST: Final = 3
"""Policies that are named as having almost matched: more would bury what decided."""


def entry_line(entry: pb.DecisionEntry) -> str:
    """Return one entry of the log on one line."""
    if entry.HasField("gap"):
        return _gap_line(entry.gap)
    one = entry.decision
    effect = PolicyAction(one.decision.action).name
    agent = f"{one.agent_name}@{one.agent_version}" if one.agent_name else one.agent_id
    parts = [
        moment(one.made_at),
        one.decision.decision_id,
        coloured(effect, STATUS_COLOURS.get(effect)),
        printable(agent),
        coloured(printable(one.action), Colour.STRONG),
        printable(one.tool),
        printable(", ".join(one.decision.determining_policies)),
        "(by the agent)" if one.origin == pb.DECISION_ORIGIN_LOCAL else "",
    ]
    return "  ".join(part for part in parts if part)


def explanation_text(explained: pb.ExplainDecisionResponse) -> str:
    """Say in words how a decision came about, then show every policy."""
    recorded = explained.recorded
    parts = [fields(_head(recorded)), "", *_sentences(explained)]
    if explained.replayed.explanations:
        parts += ["", decision_details(explained.replayed)]
    return "\n".join(parts)


def _head(recorded: pb.RecordedDecision) -> dict[str, str]:
    made_by = "the agent itself" if recorded.origin == pb.DECISION_ORIGIN_LOCAL else ""
    return {
        "decision": recorded.decision.decision_id,
        "made": moment(recorded.made_at),
        "made by": made_by,
        "asked by": recorded.caller,
        "agent": f"{recorded.agent_name}@{recorded.agent_version} ({recorded.agent_id})",
        "session": recorded.session_id,
        "action": recorded.action,
        "tool": recorded.tool,
        "context": short(from_struct(recorded.context)),
        "masked": ", ".join(recorded.masked_paths),
        "answer": PolicyAction(recorded.decision.action).name,
        "revision": str(recorded.decision.policy_revision),
    }


def _sentences(explained: pb.ExplainDecisionResponse) -> Iterator[str]:
    decision = explained.recorded.decision
    yield f"It was {PolicyAction(decision.action).name}: {printable(decision.message)}."
    if decision.determining_policies:
        yield f"Decided by {_named(decision.determining_policies)}."
    if decision.overridden_policies:
        yield f"Matched and lost: {_named(decision.overridden_policies)}."
    if decision.observed_policies:
        yield f"Matched and only observed: {_named(decision.observed_policies)}."
    if decision.indeterminate_policies:
        unknown = _named(decision.indeterminate_policies)
        yield f"Could not be told, for want of an attribute: {unknown}."
    for near, why in _almost(explained.replayed):
        yield f"Almost matched: {printable(near)}, but {printable(why)}."
    if explained.explained_by == pb.EXPLAINED_BY_CURRENT_REVISION:
        yield coloured(
            "The policies of then are not known any more: what follows is by those of today.",
            Colour.BAD,
        )
    if explained.not_replayable_policies:
        masked = _named(explained.not_replayable_policies)
        yield f"Read masked values, and may have said something else then: {masked}."
    if explained.HasField("why_not"):
        answer = explained.why_not
        yield f"Why not {printable(answer.policy_id)}: {printable(answer.message)}."


def _almost(decision: policy_pb.PolicyDecision) -> Iterator[tuple[str, str]]:
    """Yield policies of which one condition alone did not hold, and which one that was."""
    found = 0
    for one in decision.explanations:
        if one.matched or not one.applies or not one.HasField("condition"):
            continue
        leaves = list(_leaves([one.condition]))
        failed = [leaf for leaf in leaves if leaf.result != policy_pb.TRUTH_TRUE]
        if len(leaves) > 1 and len(failed) == 1 and one.condition.kind == "all":
            leaf = failed[0]
            expected = f"{leaf.attribute} {leaf.operator} {leaf.expected}"
            yield one.policy_id, f"{expected} does not hold: it is {leaf.observed}"
            found += 1
            if found == _ALMOST:
                return


def _leaves(nodes: Iterable[policy_pb.ConditionTrace]) -> Iterator[policy_pb.ConditionTrace]:
    for node in nodes:
        if node.kind == "leaf":
            yield node
        yield from _leaves(node.children)


def _gap_line(gap: pb.DecisionGap) -> str:
    cause = pb.DecisionGapCause.Name(gap.cause).removeprefix("DECISION_GAP_CAUSE_").lower()
    text = (
        f"{moment(gap.first_at)}  {gap.number_lost} decisions were not recorded"
        f" until {moment(gap.last_at)} ({cause.replace('_', ' ')}, {printable(gap.source)})"
    )
    return coloured(text, Colour.BAD)


def _named(policy_ids: Iterable[str]) -> str:
    return ", ".join(printable(policy_id) for policy_id in policy_ids)
