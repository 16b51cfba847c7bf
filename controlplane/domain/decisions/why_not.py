"""Why a policy did not decide, as one reason and one sentence."""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.policies import Decision, Effect, Policy, PolicyExplanation, Truth


class WhyNotReason(StrEnum):
    """The reasons, in the order in which they are looked for."""

    NOT_FOUND = "NOT_FOUND"
    DISABLED = "DISABLED"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    CONDITION_FALSE = "CONDITION_FALSE"
    CONDITION_UNKNOWN = "CONDITION_UNKNOWN"
    DECIDED = "DECIDED"
    OBSERVES = "OBSERVES"
    OVERRIDDEN = "OVERRIDDEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNot:
    """The answer."""

    policy_id: str
    reason: WhyNotReason
    message: str
    explanation: PolicyExplanation | None = None


def why_not(
    policy_id: str, policy: Policy | None, judged: PolicyExplanation | None, decision: Decision
) -> WhyNot:
    """Say why a policy did not decide; `judged` and `decision` are of the same revision."""
    if policy is None or judged is None:
        return WhyNot(
            policy_id=policy_id,
            reason=WhyNotReason.NOT_FOUND,
            message=f"there is no policy {policy_id!r} in that revision",
        )
    if not policy.enabled:
        return WhyNot(
            policy_id=policy_id,
            reason=WhyNotReason.DISABLED,
            message=f"the policy {policy_id!r} is disabled",
        )
    reason, message = _judged(policy, judged, decision)
    return WhyNot(policy_id=policy_id, reason=reason, message=message, explanation=judged)


def _judged(
    policy: Policy, judged: PolicyExplanation, decision: Decision
) -> tuple[WhyNotReason, str]:
    if not judged.applies:
        return (
            WhyNotReason.NOT_APPLICABLE,
            "its targets, scope or validity period do not cover the action",
        )
    if policy.policy_id in decision.determining:
        return WhyNotReason.DECIDED, "it did decide"
    if judged.result is Truth.FALSE:
        return WhyNotReason.CONDITION_FALSE, "its condition does not hold"
    if judged.result is Truth.UNKNOWN and not judged.matched:
        return (
            WhyNotReason.CONDITION_UNKNOWN,
            "its condition cannot be determined: an attribute is absent or of another type",
        )
    if policy.action is Effect.LOG_ONLY:
        return WhyNotReason.OBSERVES, "it matched, and only observes"
    winners = ", ".join(decision.determining) or "the default"
    return WhyNotReason.OVERRIDDEN, f"it matched, and lost to {winners}"
