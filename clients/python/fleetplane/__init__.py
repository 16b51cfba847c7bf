"""Python SDK of Fleetplane, the control plane for fleets of AI agents.

`Agent` is an agent: registered, alive, configured, within its rights. `FleetClient` is every call
of the control plane. `Catalogue` is a watched copy of the registry. All of them raise
`FleetError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

_HOMES: Final = {
    "fleetplane._agent": "Agent",
    "fleetplane._approval_states": "ApprovalState ApprovalVote",
    "fleetplane._approval_watch": "ApprovalsChanged ApprovalsSnapshot ApprovalWatch",
    "fleetplane._approvals": "VoteOutcome",
    "fleetplane._audit_watch": "AuditExporting AuditVerifying AuditWatch",
    "fleetplane._catalogue": "Catalogue",
    "fleetplane._channel": "ChannelConfig RetryPolicy TlsConfig",
    "fleetplane._client": "FleetClient",
    "fleetplane._config": "EffectiveConfig Position Scope",
    "fleetplane._dealing": "DealtVariant",
    "fleetplane._decisions": "DecisionFilter",
    "fleetplane._details": "FieldViolation",
    "fleetplane._enrolled": "EnrolledIdentity",
    "fleetplane._enums": (
        "Activation AgentStatus AnalysisKind AnalysisSource AuditProblemKind BatchMode "
        "CallerKind ConfigStatus DrainAction DrainPhase ExplainLevel NamespaceState "
        "OnInconclusive OnMissing PolicyAction RolloutPauseReason RolloutPhase "
        "RolloutVerdict RouteRule StopOutcome TaskReason TaskState"
    ),
    "fleetplane._exceptions": (
        "AlreadyExists ApprovalRefused ApprovalRequired DeadlineExceeded "
        "FailedPrecondition FleetError InternalError InvalidArgument LeaseFenced "
        "LimitExceeded NotFound PermissionDenied PolicyDenied Reason RevisionConflict "
        "StalePolicies TaskCancelled TaskFailed Unauthenticated Unavailable "
        "Unimplemented"
    ),
    "fleetplane._experiment_side": "LocalExperiments",
    "fleetplane._experiment_spec": (
        "AssignmentReason ExperimentSpec ExperimentState ExperimentUnit "
        "ExperimentVerdict Metric MetricDirection MetricKind MetricStanding "
        "RecordingState Variant"
    ),
    "fleetplane._experiment_watch": "ExperimentWatch",
    "fleetplane._fail_modes": "FailMode LocalDecisions",
    "fleetplane._following": "RolloutWatch TaskWatch",
    "fleetplane._namespaces": "QuotaFields",
    "fleetplane._permits": "Permit",
    "fleetplane._policies": "Evaluation PolicyFields",
    "fleetplane._policy_stages": (
        "DecisionDurability DecisionLogRule PolicyChangeKind PolicyStageKind PolicyTest "
        "PolicyTestAgent"
    ),
    "fleetplane._presence": "AgentState",
    "fleetplane._prompt_cache": "PromptCache",
    "fleetplane._prompt_evaluations": "ScoredItem",
    "fleetplane._prompt_values": (
        "GateVerdict PromptMessage PromptReason PromptVersion ResolvedPrompt"
    ),
    "fleetplane._prompt_watch": "PromptState PromptWatch",
    "fleetplane._requirements": "ApprovalRequirement ApprovalStage Escalation Obligation",
    "fleetplane._rollout_plan": "RolloutAnalysis RolloutPlan RolloutStep",
    "fleetplane._session": "FleetSession",
    "fleetplane._spec": "AgentSpec FilterFields InstanceSpec Registration SpecFields",
    "fleetplane._task_context": "TaskContext TaskHandler TaskRejected",
    "fleetplane._task_spec": "Data TaskFields TaskSubmission",
    "fleetplane._values": "from_struct to_struct",
    "fleetplane._version": "__version__",
    "fleetplane._watches": (
        "AgentsChanged AgentsEvent AgentsSnapshot AgentsUnchanged AgentWatch "
        "ConfigUpdate ConfigWatch"
    ),
    "fleetplane._work": "Task WorkMeter",
    "fleetplane_prompts": "VariableError VariableSpec VariableType",
}
"""Where each name lives. It is imported when it is used: a program that needs one call does not pay
for all of them, and one that needs the messages only (`fleetplane.v1`) for none."""

_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names.split()}

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

if not TYPE_CHECKING:  # to type checkers, a name that is not imported above does not exist

    def __getattr__(name: str) -> Any:
        """Import a name at its first use."""
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
