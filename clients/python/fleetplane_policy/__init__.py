"""The policy engine: pure, synchronous, without clock or I/O.

Start at `engine.PolicySet`. Semantics: `truth.py` (unknowns), `combining.py` (who wins),
`grammar.py` (how conditions are written), `operators.py` (the table of operators),
`attributes.py` (facts and claims).

The daemon decides with it, and so does an agent's own process that follows the policies. It imports
neither of them. Its dependencies come with `fleetplane-client[policies]`.
"""

from fleetplane_policy.attributes import (
    DEFAULT_SCHEMA,
    Attribute,
    AttributeSchema,
    AttributeType,
    Source,
)
from fleetplane_policy.claims import (
    CLAIM_BYTES_LIMIT,
    CLAIM_DEPTH_LIMIT,
    validate_claims,
)
from fleetplane_policy.digest import digest_of, policy_digest, same_content, set_digest
from fleetplane_policy.engine import OnError, PolicySet, Quarantined
from fleetplane_policy.errors import FieldViolation, MalformedInput
from fleetplane_policy.lint import LintCode, LintWarning, lint
from fleetplane_policy.model import (
    PRIORITY_LIMIT,
    ApprovalRequirement,
    ApprovalStage,
    ConditionExplanation,
    Decision,
    DecisionReason,
    Effect,
    Escalation,
    ExplainLevel,
    Obligation,
    Observation,
    OnMissing,
    Policy,
    PolicyExplanation,
    PolicyScope,
    Request,
    Target,
    Truth,
)
from fleetplane_policy.reads import claims_read, overlaps, settled
from fleetplane_policy.validation import (
    is_identifier,
    require_valid_policy,
    validate_policy,
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
    "FieldViolation",
    "LintCode",
    "LintWarning",
    "MalformedInput",
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
