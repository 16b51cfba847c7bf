"""May an agent become ACTIVE? Its configuration and the policies answer."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from controlplane.domain.agents import Agent, AgentStatus, PendingActivation
from controlplane.domain.configs import (
    EffectiveConfig,
    effective_violations,
    merge,
    scopes_for_agent,
)
from controlplane.domain.configs.document import encoded
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import Decision, Effect, PolicySet, Request, validate_claims
from controlplane.services.policies.decisions import facts_of
from controlplane.services.policies.staging import rules_for
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView

ACTIVATE: Final = "activate"
"""The action that policies are asked about."""

INVALID_CONFIG: Final = "INVALID_CONFIG"
"""`decision` of a verdict that no policy was asked for."""

RECHECK_SECONDS: Final = 5.0
"""How long a refusal of unchanged inputs stands: policies may depend on the time of day."""

RECHECK_CHANGED_SECONDS: Final = 1.0
"""How long a refusal stands although a policy, a layer or the agent changed: bulk edits of a
namespace must not re-judge every refused agent at every beat."""

MAX_REFUSALS_REMEMBERED: Final = 100_000
"""Refused agents remembered per replica, about 30 MB; beyond, all are judged anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an approval of an activation is asked with."""

    claims: Mapping[str, Any]
    """The configuration."""
    decision: Decision
    rules: PolicySet


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationVerdict:
    """Whether an agent may be activated, and who says so."""

    allowed: bool
    decision: str
    """`ALLOW`, `DENY`, `REQUIRE_APPROVAL`, `LOG_ONLY` or `INVALID_CONFIG`."""
    policies: tuple[str, ...] = ()
    """Ids of the policies that determined it."""
    detail: str = ""
    """In words, for the agent's `status_reason`; empty when allowed."""
    config_digest: str = ""
    """Of the configuration that was judged, where an approval is wanted; a grant holds for no
    other."""
    judgement: Judgement | None = field(default=None, compare=False, repr=False)
    """Where an approval is wanted: what it is asked with."""

    @property
    def wants_approval(self) -> bool:
        """Whether people may allow what was not allowed."""
        return self.decision == Effect.REQUIRE_APPROVAL

    def confirmed_by(self, pending: PendingActivation | None) -> bool:
        """Return whether a grant for `pending` is the approval that is wanted.

        It is for the same configuration, and for no policy that was not asked about then.
        """
        return (
            pending is not None
            and self.wants_approval
            and pending.config_digest == self.config_digest
            and set(self.policies) <= set(pending.policies)
        )


class ActivationCheck(Protocol):
    """Asked for every agent that is about to become ACTIVE, by a beat or by an operator."""

    def may_activate(self, view: NamespaceView, agent: Agent) -> ActivationVerdict:
        """Judge from memory; never waits, never raises."""


class PolicyActivation:
    """The default check: a valid configuration, and policies that permit `activate` with it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def may_activate(self, view: NamespaceView, agent: Agent) -> ActivationVerdict:
        """Judge the agent as it is known here; see `ActivationCheck`."""
        config = effective_config(view, agent)
        wrong = effective_violations(config, view.config_schema())
        if wrong:
            return _invalid("; ".join(f"{v.field}: {v.description}" for v in wrong))
        try:
            claims = validate_claims(config_claims(config), field="config")
        except InvalidArgument as refusal:
            return _invalid(refusal.message)
        rules = rules_for(view, agent.agent_id)
        decision = rules.evaluate(
            Request(
                agent_id=agent.agent_id,
                action=ACTIVATE,
                facts=facts_of(view.name, agent),
                claims=claims,
                now_ms=self._clock.store_ms(),
            )
        )
        allowed = decision.effect in {Effect.ALLOW, Effect.LOG_ONLY}
        who = f" by {', '.join(decision.determining)}" if decision.determining else ""
        asked = decision.effect is Effect.REQUIRE_APPROVAL
        return ActivationVerdict(
            allowed=allowed,
            decision=str(decision.effect),
            policies=decision.determining,
            detail="" if allowed else f"activation was answered {decision.effect}{who}",
            config_digest=hashlib.sha256(encoded(claims)).hexdigest() if asked else "",
            judgement=Judgement(claims=claims, decision=decision, rules=rules) if asked else None,
        )


MAX_REASON_CHARACTERS: Final = 512
"""Of a `status_reason` that explains a refused activation."""


def judged(
    agent: Agent,
    verdict: ActivationVerdict,
    *,
    asked_by: str,
    now_ms: int,
    approval_id: str = "",
) -> Agent:
    """Return an agent as the verdict on its activation leaves it.

    ACTIVE if it is allowed. If an approval is wanted the activation is parked; one that is parked
    for the same already stays as it was asked first, but for its `approval_id`, if there is another
    one. A refusal ends what was parked. What keeps a
    REGISTERED agent back becomes its `status_reason`; an INACTIVE one keeps the reason why it is.
    """
    if verdict.allowed:
        return agent.moved(AgentStatus.ACTIVE)
    pending = None
    if verdict.wants_approval:
        pending = PendingActivation(
            policies=verdict.policies,
            config_digest=verdict.config_digest,
            asked_by=asked_by,
            asked_at_ms=now_ms,
            approval_id=approval_id,
        )
        known = agent.pending
        if known is not None and (known.policies, known.config_digest) == (
            pending.policies,
            pending.config_digest,
        ):
            pending = replace(known, approval_id=approval_id or known.approval_id)
    reason = agent.status_reason
    if agent.status is AgentStatus.REGISTERED:
        reason = verdict.detail[:MAX_REASON_CHARACTERS]
    return replace(agent, status_reason=reason, pending=pending)


def _invalid(why: str) -> ActivationVerdict:
    return ActivationVerdict(
        allowed=False, decision=INVALID_CONFIG, detail=f"its configuration is invalid: {why}"
    )


def effective_config(view: NamespaceView, agent: Agent) -> EffectiveConfig:
    """Return what the agent runs."""
    scopes = scopes_for_agent(agent.spec.name, agent.agent_id)
    return merge(layer for s in scopes if (layer := view.layers.get(s.key)) is not None)


def config_claims(config: EffectiveConfig) -> dict[str, Any]:
    """Return the configuration as the context of a policy request."""
    claims: dict[str, Any] = {
        "model": config.model,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "max_retries": config.max_retries,
        "timeout_seconds": config.timeout_seconds,
        "rate_limit_rpm": config.rate_limit_rpm,
        "features": dict(config.features),
        "blocked_tools": list(config.blocked_tools),
        "extra": _plain(config.extra),
    }
    if config.allowed_domains is not None:
        claims["allowed_domains"] = list(config.allowed_domains)
    return claims


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class _Refusal:
    verdict: ActivationVerdict
    agent: Agent
    policy_set: PolicySet
    layer_revisions: tuple[int, ...]
    judged_at: float


class RememberedRefusals:
    """Keeps a refused agent from being judged anew at every beat."""

    def __init__(self, check: ActivationCheck, clock: Clock) -> None:
        self._check = check
        self._clock = clock
        self._refusals: dict[tuple[str, str], _Refusal] = {}

    def may_activate(self, view: NamespaceView, agent: Agent) -> ActivationVerdict:
        """Return the verdict; a refusal is repeated until its inputs or the time changed."""
        key = (view.name, agent.agent_id)
        now = self._clock.monotonic()
        layers = _layer_revisions(view, agent)
        rules = rules_for(view, agent.agent_id)
        known = self._refusals.get(key)
        if known is not None:
            changed = (
                known.agent.spec is not agent.spec
                or known.policy_set is not rules
                or known.layer_revisions != layers
            )
            lifetime = RECHECK_CHANGED_SECONDS if changed else RECHECK_SECONDS
            if now - known.judged_at < lifetime:
                return known.verdict
        verdict = self._check.may_activate(view, agent)
        if verdict.allowed:
            self._refusals.pop(key, None)
        else:
            if len(self._refusals) >= MAX_REFUSALS_REMEMBERED:
                self._refusals.clear()
            self._refusals[key] = _Refusal(verdict, agent, rules, layers, now)
        return verdict


def _layer_revisions(view: NamespaceView, agent: Agent) -> tuple[int, ...]:
    scopes = scopes_for_agent(agent.spec.name, agent.agent_id)
    layers = (view.layers.get(scope.key) for scope in scopes)
    return tuple(layer.revision if layer is not None else 0 for layer in layers)
