"""What a transaction is made of: collections, conditions, writes, counters, and its audit entry.

Re-exported by `ports`, which says what a ledger does with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Collection(StrEnum):
    """Keyed records of a namespace, and the domain type of their values."""

    AGENTS = "agents"
    """agent_id -> domain.agents.Agent"""
    INSTANCES = "instances"
    """instance_id -> domain.agents.Instance"""
    NAMES = "names"
    """name@version -> agent_id (str)"""
    CONFIG_LAYERS = "config"
    """LayerScope.key -> domain.configs.ConfigLayer"""
    CONFIG_SCHEMAS = "schemas"
    """`extra` -> domain.configs.extra_schema.ExtraSchema"""
    POLICIES = "policies"
    """policy_id -> domain.policies.Policy"""
    TASKS = "tasks"
    """task_id -> domain.tasks.Task"""
    TASK_DATA = "taskdata"
    """data_key(task_id, part) -> bytes. Not followed: replicas read it when they need it."""
    TASK_STREAMS = "taskstreams"
    """instance_id -> domain.tasks.TaskStream"""
    ROUTES = "routes"
    """agent name -> domain.routes.Route"""
    SESSION_PINS = "pins"
    """routes.pin_key -> domain.routes.SessionPin"""
    DRAINS = "drains"
    """drains.drain_key -> domain.drains.Drain"""
    STOPS = "stops"
    """stop_id -> domain.drains.EmergencyStop"""
    STOP_ACKNOWLEDGEMENTS = "stopacks"
    """drains.acknowledgement_key -> domain.drains.StopAcknowledgement"""
    ROLLOUTS = "rollouts"
    """rollout_id -> domain.rollouts.model.Rollout"""
    ACTIVE_ROLLOUTS = "rolloutnames"
    """agent name -> rollout_id (str): one at a time"""
    NAMESPACES = "namespaces"
    """name -> domain.namespaces.Namespace; like those below only in SYSTEM_NAMESPACE"""
    ROLE_BINDINGS = "bindings"
    """binding_id -> domain.access.records.RoleBinding"""
    API_TOKENS = "apitokens"
    """token_id -> domain.access.records.ApiToken"""
    TOKEN_USES = "tokenuses"  # noqa: S105 - a name, not a secret
    """token_id -> domain.access.records.TokenUse"""
    JOIN_TOKENS = "jointokens"
    """token_id -> domain.access.records.JoinToken"""
    BANS = "bans"
    """records.ban_key -> domain.access.records.Ban"""
    POLICY_SETTINGS = "policysettings"
    """`settings` -> policy_settings.PolicySettings, `tests` -> policy_sets.tests.PolicyTests"""
    POLICY_CANDIDATES = "policysets"
    """candidate_id -> domain.policy_sets.candidates.PolicyCandidate"""
    POLICY_STAGES = "policystages"
    """`stage` -> policy_sets.candidates.PolicyStage, `live` -> policy_sets.history.PolicyHead"""
    APPROVALS = "approvals"
    """approval_id -> domain.approvals.model.Approval"""
    OPEN_APPROVALS = "openapprovals"
    """digest of the action -> approval_id (str): PENDING or GRANTED, one at a time"""
    STANDING_GRANTS = "standinggrants"
    """grant_id -> domain.approvals.model.StandingGrant"""
    WEBHOOK_OUTBOX = "outbox"
    """delivery_id -> domain.approvals.outbox.Delivery"""
    PROMPTS = "prompts"
    """name -> domain.prompts.model.Prompt"""
    PROMPT_VERSIONS = "promptversions"
    """prompts.model.version_key -> domain.prompts.model.PromptVersion"""
    PROMPT_PINS = "promptpins"
    """prompts.model.pin_key -> domain.prompts.model.PromptPin"""
    EVALUATIONS = "evaluations"
    """evaluation_id -> domain.prompts.evaluations.Evaluation"""
    EVALUATION_SCORES = "evaluationscores"
    """evaluation_id -> bytes. Not followed: read when a comparison needs it."""
    EXPERIMENTS = "experiments"
    """key -> domain.experiments.model.Experiment"""
    ACTIVE_EXPERIMENTS = "experimentsubjects"
    """experiments.model.subject_key -> key (str): one running experiment per subject"""
    EXPOSURES = "exposures"
    """experiments.model.unit_key -> domain.experiments.model.Exposure. Not followed."""
    AUDIT_KEEPING = "auditkeeping"
    """`audit` -> domain.audit.keeping.AuditKeeping. Not followed: only audits ask for it."""


UNFOLLOWED: Final = frozenset(
    {
        Collection.TASK_DATA,
        Collection.EVALUATION_SCORES,
        Collection.EXPOSURES,
        Collection.AUDIT_KEEPING,
    }
)
"""Collections that are in no change entry and in no copy: too large for every replica to hold."""


@dataclass(frozen=True, slots=True)
class Record:
    """A stored value. Values with revision/generation/time fields carry them filled in as well."""

    key: str
    value: Any
    revision: int
    generation: int
    updated_at_ms: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Expect:
    """Condition on one record. Both `None`: no condition. `revision=0`: it must not exist."""

    revision: int | None = None
    generation: int | None = None


ANY = Expect()
ABSENT = Expect(revision=0)


@dataclass(frozen=True, slots=True)
class Put:
    """Writes one record.

    With `fresh_generation` its generation becomes this commit's revision, and its creation time
    that of this commit: it is another thing under the same key.
    """

    collection: Collection
    key: str
    value: Any
    expect: Expect = ANY
    fresh_generation: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes one record; removing what is not there is no failure unless `expect` says so."""

    collection: Collection
    key: str
    expect: Expect = ANY


@dataclass(frozen=True, slots=True)
class Require:
    """A condition without a write."""

    collection: Collection
    key: str
    expect: Expect


@dataclass(frozen=True, slots=True)
class Append:
    """Adds the value to a history under this commit's revision; the newest `keep` entries stay."""

    history: str
    value: Any
    keep: int = 1000


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Gives an instance a deadline, counted from the commit on the store's clock."""

    instance_id: str
    after_ms: int


@dataclass(frozen=True, slots=True)
class ClearDeadline:
    """Takes the deadline of an instance away."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class RequireExpired:
    """A condition: the instance has a deadline and it has passed on the store's clock."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class RequireClock:
    """A condition: on the store's clock it is `not_before_ms` or later, and before `not_after_ms`.

    0 is no bound. Whoever judges by a copy of the store's clock, which may be off, makes sure.
    """

    not_before_ms: int = 0
    not_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """Adds to a counter of the namespace; counters that do not exist are 0, and 0 removes one.

    Counters are not records: they have no revision, nobody follows them, and commits that count the
    same thing never contend. A counter is never below 0 nor above 2^53 - 1: a commit that would
    bring it there fails with ConditionFailed.
    """

    counter: str
    delta: int
    at_most: int | None = None
    """A condition: the counter is not above this afterwards. ConditionFailed then carries its
    present value as `current_revision`."""


@dataclass(frozen=True, slots=True)
class ResetCount:
    """Removes a counter."""

    counter: str


Step = (
    Put
    | Delete
    | Require
    | Append
    | SetDeadline
    | ClearDeadline
    | RequireExpired
    | RequireClock
    | Count
    | ResetCount
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what to what, and why. `event` is a public event name such as `agent.degraded`.

    `address` and `caller_kind` say where the call came from that it was done for; the ledger fills
    them in (`audit.attribution`), and they are empty for what the plane does by itself.
    """

    actor: str
    method: str
    object: str
    event: str = ""
    reason: str = ""
    request_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    caller_kind: str = ""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Makes a commit idempotent: same id and digest within 10 minutes is the same commit."""

    request_id: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """All or nothing. The order of `steps` is the order of effects; conditions come first."""

    namespace: str
    steps: tuple[Step, ...]
    audit: AuditEntry
    request: RequestKey | None = None
    answer: str = ""
    """Remembered with `request` and given back by a replay, such as the id that was made."""
    durable: bool = False
    """It is answered, as a replay too, only when the store has it on its disk. Takes up to 0.2 s
    where the store syncs every second."""
