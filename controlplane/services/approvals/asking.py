"""What an agent asks people about: the action as it will be bound, and what policies say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.domain.agents import Agent
from controlplane.domain.approvals.digest import bind, digest_of
from controlplane.domain.approvals.model import BoundAction, Requirement
from controlplane.domain.approvals.requirements import joined
from controlplane.domain.policies import Decision, PolicySet, Request
from controlplane.services.policies.decisions import facts_of
from controlplane.services.policies.settings import settings_of
from controlplane.services.read_model import NamespaceView


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An action that is about to happen, in terms of approvals."""

    action: BoundAction
    digest: str
    claims: Mapping[str, Any]
    """All that the requester says about it, ceilings included."""


def asked(
    view: NamespaceView,
    agent: Agent,
    *,
    action: str,
    tool: str,
    session_id: str,
    claims: Mapping[str, Any],
) -> Asked:
    """Return an action as approvals bind it; `claims` are valid.

    Raises:
        InvalidArgument: they have no canonical form.
    """
    context, ceilings = bind(claims, settings_of(view).approval.ceilings)
    bound = BoundAction(
        agent_id=agent.agent_id,
        agent_name=agent.spec.name,
        agent_version=agent.spec.version,
        session_id=session_id,
        action=action,
        tool=tool,
        context=context,
        ceilings=ceilings,
    )
    return Asked(action=bound, digest=digest_of(view.name, bound), claims=claims)


def judged(
    rules: PolicySet, namespace: str, agent: Agent, asked_for: Asked, now_ms: int
) -> Decision:
    """Return what some policies say about an action."""
    return rules.evaluate(
        Request(
            agent_id=agent.agent_id,
            action=asked_for.action.action,
            facts=facts_of(namespace, agent),
            claims=asked_for.claims,
            now_ms=now_ms,
            tool=asked_for.action.tool,
        )
    )


def requirement_in(rules: PolicySet, decision: Decision) -> Requirement:
    """Return what the policies that determined a decision ask for together."""
    found = (rules.get(policy_id) for policy_id in decision.determining)
    return joined(policy for policy in found if policy is not None)
