"""The values of the policy system: policies, the request they judge, the decision they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

PRIORITY_LIMIT: Final = 1_000_000
"""Priorities lie between minus and plus this number; higher wins."""


class Effect(StrEnum):
    """What a policy wants, and what a decision says.

    LOG_ONLY permits and records. It never ends the scan and never overrides another effect.
    """

    ALLOW = "ALLOW"
    DENY = "DENY"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"
    LOG_ONLY = "LOG_ONLY"


class OnMissing(StrEnum):
    """What a DENY or REQUIRE_APPROVAL does when its condition hangs on an absent attribute.

    NO_MATCH: it does not match. MATCH: it matches (fails closed). ALLOW never matches then, and
    LOG_ONLY is observed as unknown, whatever is set here.
    """

    NO_MATCH = "NO_MATCH"
    MATCH = "MATCH"


class ExplainLevel(StrEnum):
    """How much of the reasoning a decision carries.

    NONE: nothing. DETERMINING: the policies that determined it. FULL: every enabled policy.
    """

    NONE = "NONE"
    DETERMINING = "DETERMINING"
    FULL = "FULL"


class DecisionReason(StrEnum):
    """Why a decision came out as it did.

    POLICY: the determining policies matched. GUARDRAIL: a guardrail matched. DEFAULT: nothing
    matched. LOG_ONLY: only LOG_ONLY policies matched. CONDITION_INDETERMINATE: the determining
    policies matched only because their condition could not be determined. NO_POLICY_LOADED: the
    namespace has no policy at all.
    """

    POLICY = "POLICY"
    GUARDRAIL = "GUARDRAIL"
    DEFAULT = "DEFAULT"
    LOG_ONLY = "LOG_ONLY"
    CONDITION_INDETERMINATE = "CONDITION_INDETERMINATE"
    NO_POLICY_LOADED = "NO_POLICY_LOADED"


class Truth(StrEnum):
    """A condition's value as decisions and explanations show it: true, false, unknown."""

    TRUE = "T"
    FALSE = "F"
    UNKNOWN = "U"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Globs that say what a policy is about; it is skipped where they do not match.

    `*` stays inside one segment, `**` crosses segments; segments end at `:`, `/` and `.`. An empty
    tuple matches everything; between the three fields the meaning is AND. `agents` is compared with
    the agent's id and with its name; either match counts. A target is true or false, never unknown.
    """

    actions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScope:
    """Whose policy it is: one agent name (all its versions), one agent id, or (both empty) all.

    Priorities compare inside one scope level; between levels the stricter answer wins, so a policy
    of an agent can only narrow what the namespace permits. At most one of the two may be set.
    """

    agent_name: str = ""
    agent_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """What whoever goes ahead has to do besides, such as `redact` or `notify`.

    The engine hands it on and gives it no meaning. `params` is a JSON object.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalStage:
    """One group of people who have to agree; stages are decided in their order.

    `quorum` (1-16) yes-votes pass it, `deny_quorum` (1-16) no-votes end the whole request.
    `eligible` are subjects as in role bindings (`user:..`, `group:..`, `token:..`, a SPIFFE
    pattern) or `role:approver`; empty: whoever has the permission to approve.
    """

    name: str = ""
    quorum: int = 1
    eligible: tuple[str, ...] = ()
    deny_quorum: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """Who may decide as well once a request has waited for `after_ms` milliseconds."""

    after_ms: int
    eligible: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequirement:
    """What a REQUIRE_APPROVAL asks for; the engine hands it on.

    Without stages one yes of anybody who may approve is enough. `ttl_ms` (1 s - 24 h) is the time
    to decide, `use_window_ms` (1 s - 24 h) the time to use a grant. `prevent_owner`: the agent's
    owner may not decide. `not_before_delay_ms` (0 - 24 h): a grant can be used only so long after
    the request. `irreversible`: no standing grant may stand for it.
    """

    stages: tuple[ApprovalStage, ...] = ()
    ttl_ms: int = 900_000
    use_window_ms: int = 300_000
    prevent_owner: bool = False
    not_before_delay_ms: int = 0
    escalations: tuple[Escalation, ...] = ()
    irreversible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One rule.

    `conditions` is the dictionary or the operator form of `grammar.py`. `action` is the effect.
    `priority` lies in -1,000,000..1,000,000, higher wins; equal priorities resolve by strictness
    (DENY, REQUIRE_APPROVAL, ALLOW), never by order. `guardrail` (DENY only) cannot be overridden by
    any priority or scope. A policy with neither target nor conditions needs `match_all`.
    `on_missing` None takes the namespace's default. `approval` (REQUIRE_APPROVAL only; None: one
    yes of anybody who may) and `obligations` come with the decisions that the policy determines.
    `not_before_ms` (inclusive) and `not_after_ms` (exclusive) are Unix milliseconds. `revision`,
    `updated_at_ms` and `updated_by` describe its last write; the engine does not read them.
    """

    policy_id: str
    action: Effect
    name: str = ""
    description: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    enabled: bool = True
    guardrail: bool = False
    on_missing: OnMissing | None = None
    match_all: bool = False
    targets: Target = Target()
    scope: PolicyScope = PolicyScope()
    not_before_ms: int | None = None
    not_after_ms: int | None = None
    approval: ApprovalRequirement | None = None
    obligations: tuple[Obligation, ...] = ()
    revision: int = 0
    updated_at_ms: int = 0
    updated_by: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """What is judged: one action of one agent.

    Not frozen, because one is made for every decision and freezing triples what that costs; nobody
    changes it.

    `facts` are what the control plane knows (the registry record); `claims` are what the caller
    says and has passed `validate_claims`. `tool` is empty when the action uses none. `now_ms` is
    the decision's clock in Unix milliseconds: one reading per decision and per batch.
    """

    agent_id: str
    action: str
    facts: Mapping[str, Any]
    claims: Mapping[str, Any]
    now_ms: int
    tool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A LOG_ONLY policy that matched (T) or whose condition could not be determined (U)."""

    policy_id: str
    result: Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionExplanation:
    """One node of a condition, judged.

    `kind` is `all`, `any`, `not`, `always`, `broken` or `leaf`. For a leaf: the attribute as
    written, the operator, both sides as short text (the observed one `(missing)` when absent and
    `(hidden)` when the attribute is sensitive).
    """

    kind: str
    result: Truth
    attribute: str = ""
    operator: str = ""
    expected: str = ""
    observed: str = ""
    children: tuple["ConditionExplanation", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyExplanation:
    """How one policy judged the request.

    `applies` says whether target, scope and validity period cover it; `condition` is absent when
    they do not. `matched` says whether the policy took part in the decision.
    """

    policy_id: str
    effect: Effect
    priority: int
    applies: bool
    result: Truth
    matched: bool
    condition: ConditionExplanation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one request. Instances are shared between equal answers: never compare by id.

    `determining` are the policies that made it, ordered by id; `overridden` the matching policies
    that wanted something else, highest priority first; `observations` every LOG_ONLY policy that
    matched or could not be determined; `indeterminate` every policy whose condition was unknown,
    whether or not that changed the answer. `obligations` are those of the determining policies,
    each once. `candidate_id` names the candidate that changed `revision` for this decision; empty:
    none did. `message` is one sentence for people.
    """

    effect: Effect
    reason: DecisionReason
    revision: int
    determining: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    observations: tuple[Observation, ...] = ()
    indeterminate: tuple[str, ...] = ()
    message: str = ""
    obligations: tuple[Obligation, ...] = ()
    candidate_id: str = ""
    explanation: tuple[PolicyExplanation, ...] | None = None
