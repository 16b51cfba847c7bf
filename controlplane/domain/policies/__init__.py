"""The policy engine: pure, synchronous, without clock or I/O.

Start at `engine.PolicySet`. Semantics: `truth.py` (unknowns), `combining.py` (who wins),
`grammar.py` (how conditions are written), `operators.py` (the table of operators),
`attributes.py` (facts and claims).
"""

from controlplane.domain.policies.attributes import (
    DEFAULT_SCHEMA,
    Attribute,
    AttributeSchema,
    AttributeType,
    Source,
)
from controlplane.domain.policies.claims import (
    CLAIM_BYTES_LIMIT,
    CLAIM_DEPTH_LIMIT,
    validate_claims,
)
from controlplane.domain.policies.engine import OnError, PolicySet, Quarantined
from controlplane.domain.policies.lint import LintCode, LintWarning, lint
from controlplane.domain.policies.model import (
    PRIORITY_LIMIT,
    ConditionExplanation,
    Decision,
    DecisionReason,
    Effect,
    ExplainLevel,
    Observation,
    OnMissing,
    Policy,
    PolicyExplanation,
    PolicyScope,
    Request,
    Target,
    Truth,
)
from controlplane.domain.policies.validation import (
    is_identifier,
    require_valid_policy,
    validate_policy,
)

__all__ = [
    "CLAIM_BYTES_LIMIT",
    "CLAIM_DEPTH_LIMIT",
    "DEFAULT_SCHEMA",
    "PRIORITY_LIMIT",
    "Attribute",
    "AttributeSchema",
    "AttributeType",
    "ConditionExplanation",
    "Decision",
    "DecisionReason",
    "Effect",
    "ExplainLevel",
    "LintCode",
    "LintWarning",
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
    "is_identifier",
    "lint",
    "require_valid_policy",
    "validate_claims",
    "validate_policy",
]
