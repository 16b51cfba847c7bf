"""Python SDK of Fleetplane, the control plane for fleets of AI agents.

`Agent` is an agent: registered, alive, configured, within its rights. `FleetClient` is every call
of the control plane. `Catalogue` is a watched copy of the registry. All of them raise
`FleetError`.
"""

from fleetplane._agent import Agent
from fleetplane._approval_states import ApprovalState, ApprovalVote
from fleetplane._approval_watch import ApprovalsChanged, ApprovalsSnapshot, ApprovalWatch
from fleetplane._approvals import VoteOutcome
from fleetplane._audit_watch import AuditExporting, AuditVerifying, AuditWatch
from fleetplane._catalogue import Catalogue
from fleetplane._channel import ChannelConfig, RetryPolicy, TlsConfig
from fleetplane._client import FleetClient
from fleetplane._config import EffectiveConfig, Position, Scope
from fleetplane._dealing import DealtVariant
from fleetplane._decisions import DecisionFilter
from fleetplane._details import FieldViolation
from fleetplane._enrolled import EnrolledIdentity
from fleetplane._enums import (
    Activation,
    AgentStatus,
    AnalysisKind,
    AnalysisSource,
    AuditProblemKind,
    BatchMode,
    CallerKind,
    ConfigStatus,
    DrainAction,
    DrainPhase,
    ExplainLevel,
    NamespaceState,
    OnInconclusive,
    OnMissing,
    PolicyAction,
    RolloutPauseReason,
    RolloutPhase,
    RolloutVerdict,
    RouteRule,
    StopOutcome,
    TaskReason,
    TaskState,
)
from fleetplane._exceptions import (
    AlreadyExists,
    ApprovalRefused,
    ApprovalRequired,
    DeadlineExceeded,
    FailedPrecondition,
    FleetError,
    InternalError,
    InvalidArgument,
    LeaseFenced,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PolicyDenied,
    Reason,
    RevisionConflict,
    StalePolicies,
    TaskCancelled,
    TaskFailed,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from fleetplane._experiment_side import LocalExperiments
from fleetplane._experiment_spec import (
    AssignmentReason,
    ExperimentSpec,
    ExperimentState,
    ExperimentUnit,
    ExperimentVerdict,
    Metric,
    MetricDirection,
    MetricKind,
    MetricStanding,
    RecordingState,
    Variant,
)
from fleetplane._experiment_watch import ExperimentWatch
from fleetplane._fail_modes import FailMode, LocalDecisions
from fleetplane._following import RolloutWatch, TaskWatch
from fleetplane._namespaces import QuotaFields
from fleetplane._permits import Permit
from fleetplane._policies import Evaluation, PolicyFields
from fleetplane._policy_stages import (
    DecisionDurability,
    DecisionLogRule,
    PolicyChangeKind,
    PolicyStageKind,
    PolicyTest,
    PolicyTestAgent,
)
from fleetplane._presence import AgentState
from fleetplane._prompt_cache import PromptCache
from fleetplane._prompt_evaluations import ScoredItem
from fleetplane._prompt_values import (
    GateVerdict,
    PromptMessage,
    PromptReason,
    PromptVersion,
    ResolvedPrompt,
)
from fleetplane._prompt_watch import PromptState, PromptWatch
from fleetplane._requirements import (
    ApprovalRequirement,
    ApprovalStage,
    Escalation,
    Obligation,
)
from fleetplane._rollout_plan import RolloutAnalysis, RolloutPlan, RolloutStep
from fleetplane._session import FleetSession
from fleetplane._spec import AgentSpec, FilterFields, InstanceSpec, Registration, SpecFields
from fleetplane._task_context import TaskContext, TaskHandler, TaskRejected
from fleetplane._task_spec import Data, TaskFields, TaskSubmission
from fleetplane._values import from_struct, to_struct
from fleetplane._version import __version__
from fleetplane._watches import (
    AgentsChanged,
    AgentsEvent,
    AgentsSnapshot,
    AgentsUnchanged,
    AgentWatch,
    ConfigUpdate,
    ConfigWatch,
)
from fleetplane._work import Task, WorkMeter
from fleetplane_prompts import VariableError, VariableSpec, VariableType

__all__ = [
    "Activation",
    "Agent",
    "AgentSpec",
    "AgentState",
    "AgentStatus",
    "AgentWatch",
    "AgentsChanged",
    "AgentsEvent",
    "AgentsSnapshot",
    "AgentsUnchanged",
    "AlreadyExists",
    "AnalysisKind",
    "AnalysisSource",
    "ApprovalRefused",
    "ApprovalRequired",
    "ApprovalRequirement",
    "ApprovalStage",
    "ApprovalState",
    "ApprovalVote",
    "ApprovalWatch",
    "ApprovalsChanged",
    "ApprovalsSnapshot",
    "AssignmentReason",
    "AuditExporting",
    "AuditProblemKind",
    "AuditVerifying",
    "AuditWatch",
    "BatchMode",
    "CallerKind",
    "Catalogue",
    "ChannelConfig",
    "ConfigStatus",
    "ConfigUpdate",
    "ConfigWatch",
    "Data",
    "DeadlineExceeded",
    "DealtVariant",
    "DecisionDurability",
    "DecisionFilter",
    "DecisionLogRule",
    "DrainAction",
    "DrainPhase",
    "EffectiveConfig",
    "EnrolledIdentity",
    "Escalation",
    "Evaluation",
    "ExperimentSpec",
    "ExperimentState",
    "ExperimentUnit",
    "ExperimentVerdict",
    "ExperimentWatch",
    "ExplainLevel",
    "FailMode",
    "FailedPrecondition",
    "FieldViolation",
    "FilterFields",
    "FleetClient",
    "FleetError",
    "FleetSession",
    "GateVerdict",
    "InstanceSpec",
    "InternalError",
    "InvalidArgument",
    "LeaseFenced",
    "LimitExceeded",
    "LocalDecisions",
    "LocalExperiments",
    "Metric",
    "MetricDirection",
    "MetricKind",
    "MetricStanding",
    "NamespaceState",
    "NotFound",
    "Obligation",
    "OnInconclusive",
    "OnMissing",
    "PermissionDenied",
    "Permit",
    "PolicyAction",
    "PolicyChangeKind",
    "PolicyDenied",
    "PolicyFields",
    "PolicyStageKind",
    "PolicyTest",
    "PolicyTestAgent",
    "Position",
    "PromptCache",
    "PromptMessage",
    "PromptReason",
    "PromptState",
    "PromptVersion",
    "PromptWatch",
    "QuotaFields",
    "Reason",
    "RecordingState",
    "Registration",
    "ResolvedPrompt",
    "RetryPolicy",
    "RevisionConflict",
    "RolloutAnalysis",
    "RolloutPauseReason",
    "RolloutPhase",
    "RolloutPlan",
    "RolloutStep",
    "RolloutVerdict",
    "RolloutWatch",
    "RouteRule",
    "Scope",
    "ScoredItem",
    "SpecFields",
    "StalePolicies",
    "StopOutcome",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskFailed",
    "TaskFields",
    "TaskHandler",
    "TaskReason",
    "TaskRejected",
    "TaskState",
    "TaskSubmission",
    "TaskWatch",
    "TlsConfig",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "VariableError",
    "VariableSpec",
    "VariableType",
    "Variant",
    "VoteOutcome",
    "WorkMeter",
    "__version__",
    "from_struct",
    "to_struct",
]
