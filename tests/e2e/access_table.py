"""Who may call what: the one table that the walk over every method is held to.

Written by hand, from what the contract promises; the code has its own, in `api/methods.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ROLES: Final = ("viewer", "agent", "orchestrator", "operator", "approver", "auditor", "admin")


class Place(StrEnum):
    """What a role in the namespace of the request is worth."""

    NAMESPACE = "namespace"
    """All that it says."""
    EVERYWHERE = "everywhere"
    """Nothing: the role is needed everywhere."""
    ANYBODY = "anybody"
    """The call is open to every authenticated caller, about itself."""
    NOBODY = "nobody"
    """The call proves itself, or needs a certificate."""


@dataclass(frozen=True)
class Line:
    """One method: the roles that may call it, and whether an agent may, about itself."""

    method: str
    roles: frozenset[str]
    agent: bool
    place: Place = Place.NAMESPACE


_SEE: Final = frozenset(ROLES)
_ACT: Final = frozenset({"agent", "admin"})
_GIVE_WORK: Final = frozenset({"orchestrator", "operator", "admin"})
_CHANGE: Final = frozenset({"operator", "admin"})
_DECIDE: Final = frozenset({"approver", "admin"})
_INSPECT: Final = frozenset({"auditor", "admin"})
_RULE: Final = frozenset({"admin"})
_NOBODY: Final[frozenset[str]] = frozenset()


def _lines(roles: frozenset[str], *, agent: bool, place: Place, methods: str) -> Iterator[Line]:
    for method in methods.split():
        yield Line(method, roles, agent, place)


TABLE: Final = (
    *_lines(
        _SEE,
        agent=True,
        place=Place.NAMESPACE,
        methods="""
            RegistryService/GetAgent
            ConfigService/GetConfig
            ConfigService/WatchConfig
            PolicyService/EvaluatePolicy
            PolicyService/BatchEvaluatePolicy
            PolicyService/WatchPolicies
            TaskService/GetTask
            LifecycleService/GetDrain
            ApprovalService/GetApproval
            ApprovalService/WaitApproval
            PromptService/ResolvePrompt
            PromptService/WatchPrompts
            ExperimentService/AssignVariant
            ExperimentService/WatchExperiments
        """,
    ),
    *_lines(
        _SEE,
        agent=False,
        place=Place.NAMESPACE,
        methods="""
            RegistryService/ListAgents
            RegistryService/Discover
            RegistryService/FindBestAgent
            RegistryService/WatchAgents
            ConfigService/ListConfigRevisions
            ConfigService/GetExtraSchema
            ConfigService/WaitForConvergence
            PolicyService/GetPolicy
            DecisionService/GetDecision
            DecisionService/QueryDecisions
            DecisionService/ExplainDecision
            PolicyService/ListPolicies
            PolicyService/GetPolicySettings
            PolicyService/ListPolicyRevisions
            PolicyService/GetPolicyRevision
            PolicyService/DiffPolicyRevisions
            PolicyService/GetPolicyCandidate
            PolicyService/ListPolicyCandidates
            PolicyService/GetPolicyTests
            PolicyService/GetPolicyStage
            PolicyService/SimulatePolicies
            LifecycleService/GetEmergencyStop
            ApprovalService/ListApprovals
            ApprovalService/WatchApprovals
            ApprovalService/ListStandingGrants
            TaskService/ListTasks
            TaskService/FollowTasks
            RoutingService/GetRoute
            RoutingService/ListRoutes
            RolloutService/GetRollout
            RolloutService/ListRollouts
            RolloutService/WatchRollout
            ExperimentService/GetExperiment
            ExperimentService/ListExperiments
            ExperimentService/AnalyzeExperiment
            PromptService/GetPromptVersion
            PromptService/ListPrompts
            PromptService/ListPromptVersions
            PromptService/DiffPromptVersions
            PromptService/GetLabelHistory
            PromptService/RenderPrompt
            PromptService/ListEvaluations
            PromptService/ComparePromptVersions
            NamespaceService/GetNamespace
            NamespaceService/GetUsage
        """,
    ),
    *_lines(
        _ACT,
        agent=True,
        place=Place.NAMESPACE,
        methods="""
            RegistryService/Register
            RegistryService/BatchRegister
            RegistryService/Deregister
            RegistryService/Heartbeat
            TaskService/WatchTasks
            TaskService/AcceptTask
            TaskService/ReportProgress
            TaskService/CompleteTask
            TaskService/FailTask
            ApprovalService/ConsumeApproval
            PromptService/MarkPromptUsed
            DecisionService/RecordDecisions
            ExperimentService/RecordExposure
            ExperimentService/BatchRecordExposures
            ExperimentService/RecordOutcome
            ExperimentService/BatchRecordOutcomes
        """,
    ),
    *_lines(
        _GIVE_WORK,
        agent=False,
        place=Place.NAMESPACE,
        methods="""
            TaskService/SubmitTask
            TaskService/BatchSubmitTasks
            TaskService/CancelTask
        """,
    ),
    *_lines(
        _CHANGE,
        agent=False,
        place=Place.NAMESPACE,
        methods="""
            RegistryService/UpdateAgent
            ConfigService/UpdateConfig
            ConfigService/RollbackConfig
            ConfigService/SetExtraSchema
            PolicyService/CreatePolicy
            PolicyService/UpdatePolicy
            PolicyService/DeletePolicy
            PolicyService/UpdatePolicySettings
            PolicyService/CreatePolicyCandidate
            PolicyService/DeletePolicyCandidate
            PolicyService/ReplacePolicyTests
            PolicyService/ActivatePolicyRevision
            PolicyService/StopPolicyStage
            PolicyService/RollbackPolicyRevision
            LifecycleService/Activate
            LifecycleService/Deactivate
            LifecycleService/CancelDrain
            LifecycleService/Decommission
            LifecycleService/EmergencyStop
            RoutingService/SetRoute
            RoutingService/DeleteRoute
            RolloutService/StartRollout
            ExperimentService/CreateExperiment
            ExperimentService/StartExperiment
            ExperimentService/SetCoverage
            ExperimentService/StartNewPhase
            ExperimentService/StopExperiment
            ExperimentService/DeleteExperiment
            RolloutService/PauseRollout
            RolloutService/ResumeRollout
            RolloutService/PromoteRollout
            RolloutService/AbortRollout
            RolloutService/RetryRollout
            PromptService/CreatePromptVersion
            PromptService/MoveLabel
            PromptService/RemoveLabel
            PromptService/RestorePromptVersion
            PromptService/SetAgentLabel
            PromptService/UnsetAgentLabel
            PromptService/RecordEvaluation
            PromptService/SetLabelGate
        """,
    ),
    *_lines(
        _INSPECT,
        agent=False,
        place=Place.NAMESPACE,
        methods="""
            IdentityService/ListJoinTokens
            IdentityService/ListApiTokens
            IdentityService/ListBans
            AccessService/ListRoleBindings
            AuditService/ListEvents
            AuditService/WatchEvents
            AuditService/GetAuditStatus
            AuditService/VerifyAudit
            AuditService/ExportAudit
        """,
    ),
    *_lines(
        _CHANGE,
        agent=True,
        place=Place.NAMESPACE,
        methods="LifecycleService/Drain",
    ),
    *_lines(
        _DECIDE,
        agent=False,
        place=Place.NAMESPACE,
        methods="""
            ApprovalService/DecideApproval
            ApprovalService/BatchDecideApprovals
            ApprovalService/DelegateApproval
            ApprovalService/RevokeApproval
            ApprovalService/ExtendApproval
            ApprovalService/CreateStandingGrant
            ApprovalService/RevokeStandingGrant
        """,
    ),
    *_lines(
        _DECIDE,
        agent=True,
        place=Place.NAMESPACE,
        methods="ApprovalService/CancelApproval",
    ),
    *_lines(
        _RULE,
        agent=False,
        place=Place.NAMESPACE,
        methods="""
            IdentityService/CreateJoinToken
            IdentityService/RevokeJoinToken
            IdentityService/CreateApiToken
            IdentityService/RevokeApiToken
            IdentityService/BanAgent
            IdentityService/UnbanAgent
            AccessService/CreateRoleBinding
            AccessService/DeleteRoleBinding
            AuditService/ConfirmAuditExport
            AuditService/TrimAudit
        """,
    ),
    *_lines(
        _NOBODY,
        agent=False,
        place=Place.EVERYWHERE,
        methods="""
            NamespaceService/CreateNamespace
            NamespaceService/UpdateNamespace
            NamespaceService/DeleteNamespace
        """,
    ),
    *_lines(
        _SEE,
        agent=True,
        place=Place.ANYBODY,
        methods="""
            IdentityService/WhoAmI
            AccessService/ListRoles
            AccessService/CheckAccess
            NamespaceService/ListNamespaces
        """,
    ),
    *_lines(
        _NOBODY,
        agent=False,
        place=Place.NOBODY,
        methods="""
            IdentityService/Enroll
        """,
    ),
    *_lines(
        _NOBODY,
        agent=True,
        place=Place.NOBODY,
        methods="""
            IdentityService/RenewCertificate
        """,
    ),
)
