"""Policies, as the daemon sees them: `fleetplane_policy`, refusing in the domain's words.

The engine lives beside the SDK, because agents decide with the same code in their own process. Here
is what the daemon uses of it; what the engine refuses is `InvalidArgument` here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import fleetplane_policy as engine
from controlplane.domain.errors import FieldViolation, InvalidArgument
from fleetplane_policy import (
    CLAIM_BYTES_LIMIT,
    CLAIM_DEPTH_LIMIT,
    DEFAULT_SCHEMA,
    PRIORITY_LIMIT,
    ApprovalRequirement,
    ApprovalStage,
    Attribute,
    AttributeSchema,
    AttributeType,
    ConditionExplanation,
    Decision,
    DecisionReason,
    Effect,
    Escalation,
    ExplainLevel,
    LintCode,
    LintWarning,
    Obligation,
    Observation,
    OnError,
    OnMissing,
    Policy,
    PolicyExplanation,
    PolicyScope,
    PolicySet,
    Quarantined,
    Request,
    Source,
    Target,
    Truth,
    claims_read,
    digest_of,
    is_identifier,
    lint,
    overlaps,
    policy_digest,
    same_content,
    set_digest,
    settled,
)

__all__ = [
    "CLAIM_BYTES_LIMIT",
    "CLAIM_DEPTH_LIMIT",
    "DEFAULT_SCHEMA",
    "PRIORITY_LIMIT",
    "ApprovalRequirement",
    "ApprovalStage",
    "Attribute",
    "AttributeSchema",
    "AttributeType",
    "ConditionExplanation",
    "Decision",
    "DecisionReason",
    "Effect",
    "Escalation",
    "ExplainLevel",
    "LintCode",
    "LintWarning",
    "Obligation",
    "Observation",
    "OnError",
    "OnMissing",
    "Policy",
    "PolicyExplanation",
    "PolicyScope",
    "PolicySet",
    "Quarantined",
    "Request",
    "Source",
    "Target",
    "Truth",
    "claims_read",
    "compile_policies",
    "digest_of",
    "is_identifier",
    "lint",
    "overlaps",
    "policy_digest",
    "require_valid_policy",
    "same_content",
    "set_digest",
    "settled",
    "validate_claims",
    "validate_policy",
]


def validate_claims(claims: Mapping[str, Any], *, field: str = "context") -> dict[str, Any]:
    """Check a caller's claims and return them with every string in Unicode NFC.

    Raises:
        InvalidArgument: as `fleetplane_policy.validate_claims` refuses them.
    """
    try:
        return engine.validate_claims(claims, field=field)
    except engine.MalformedInput as refused:
        raise _refusal(refused.violations) from None


def validate_policy(
    policy: Policy, schema: AttributeSchema = DEFAULT_SCHEMA
) -> tuple[FieldViolation, ...]:
    """Return everything wrong with a policy, with paths such as `conditions.estimted_cost`."""
    found = engine.validate_policy(policy, schema)
    return tuple(FieldViolation(v.field, v.description) for v in found)


def require_valid_policy(policy: Policy, schema: AttributeSchema = DEFAULT_SCHEMA) -> None:
    """Refuse a policy that is not valid.

    Raises:
        InvalidArgument: with every violation.
    """
    violations = validate_policy(policy, schema)
    if violations:
        raise InvalidArgument(*violations)


def compile_policies(
    policies: Iterable[Policy],
    *,
    revision: int,
    default_effect: Effect = Effect.ALLOW,
    on_missing: OnMissing = OnMissing.NO_MATCH,
) -> PolicySet:
    """Compile policies that somebody wrote.

    Raises:
        InvalidArgument: a policy id twice, or a policy that is not valid; with every violation.
    """
    try:
        return PolicySet.compile(
            policies, revision=revision, default_effect=default_effect, on_missing=on_missing
        )
    except engine.MalformedInput as refused:
        raise _refusal(refused.violations) from None


def _refusal(violations: Iterable[engine.FieldViolation]) -> InvalidArgument:
    return InvalidArgument(*(FieldViolation(v.field, v.description) for v in violations))
