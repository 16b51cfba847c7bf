"""One row per RPC: who may call it, how it is limited, how long it may take, whether it is audited.

A handler without a row is refused when the server is built; a row without an RPC, or an RPC without
a row, fails a test that walks the descriptors.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from controlplane.api.method_rows import (
    APPROVAL_WAIT_SECONDS,
    BATCH_SECONDS,
    CONVERGENCE_SECONDS,
    DRAIN_WAIT_SECONDS,
    STOP_WAIT_SECONDS,
    Method,
    RateClass,
    Scope,
)
from controlplane.api.method_rows import batch as _batch
from controlplane.api.method_rows import look as _look
from controlplane.api.method_rows import probe as _probe
from controlplane.api.method_rows import read as _read
from controlplane.api.method_rows import rights as _rights
from controlplane.api.method_rows import stream as _stream
from controlplane.api.method_rows import wait as _wait
from controlplane.api.method_rows import work as _work
from controlplane.api.method_rows import write as _write
from controlplane.domain.access.permissions import Permission

__all__ = ["METHODS", "Method", "RateClass", "Scope"]

_REGISTRY: Final = "/fleetplane.v1.RegistryService/"
_CONFIG: Final = "/fleetplane.v1.ConfigService/"
_POLICY: Final = "/fleetplane.v1.PolicyService/"
_DECISIONS: Final = "/fleetplane.v1.DecisionService/"
_LIFECYCLE: Final = "/fleetplane.v1.LifecycleService/"
_TASKS: Final = "/fleetplane.v1.TaskService/"
_ROUTING: Final = "/fleetplane.v1.RoutingService/"
_ROLLOUTS: Final = "/fleetplane.v1.RolloutService/"
_EXPERIMENTS: Final = "/fleetplane.v1.ExperimentService/"
_IDENTITY: Final = "/fleetplane.v1.IdentityService/"
_ACCESS: Final = "/fleetplane.v1.AccessService/"
_NAMESPACES: Final = "/fleetplane.v1.NamespaceService/"
_AUDIT: Final = "/fleetplane.v1.AuditService/"
_PROMPTS: Final = "/fleetplane.v1.PromptService/"
_APPROVALS: Final = "/fleetplane.v1.ApprovalService/"
_HEALTH: Final = "/grpc.health.v1.Health/"
_CHANNELZ: Final = "/grpc.channelz.v1.Channelz/"

_ROWS: Final = (
    _write(_REGISTRY + "Register", Permission.REPORT, idempotent=True),
    _batch(_REGISTRY + "BatchRegister", Permission.REPORT, audited=True),
    _write(_REGISTRY + "Deregister", Permission.REPORT, idempotent=True),
    _read(_REGISTRY + "GetAgent"),
    _read(_REGISTRY + "ListAgents"),
    _write(_REGISTRY + "UpdateAgent", Permission.OPERATE),
    _read(_REGISTRY + "Discover", hot=True),
    _read(_REGISTRY + "FindBestAgent", hot=True),
    _stream(_REGISTRY + "WatchAgents", Permission.READ),
    _stream(_REGISTRY + "Heartbeat", Permission.REPORT),
    _read(_CONFIG + "GetConfig", hot=True),
    _write(_CONFIG + "UpdateConfig", Permission.OPERATE),
    _stream(_CONFIG + "WatchConfig", Permission.READ),
    _read(_CONFIG + "ListConfigRevisions"),
    _write(_CONFIG + "RollbackConfig", Permission.OPERATE),
    _write(_CONFIG + "SetExtraSchema", Permission.OPERATE),
    _read(_CONFIG + "GetExtraSchema"),
    _wait(_CONFIG + "WaitForConvergence", CONVERGENCE_SECONDS),
    _read(_POLICY + "EvaluatePolicy", hot=True),
    _batch(_POLICY + "BatchEvaluatePolicy", Permission.READ, audited=False),
    _stream(_POLICY + "WatchPolicies", Permission.READ),
    _write(_POLICY + "CreatePolicy", Permission.OPERATE),
    _read(_POLICY + "GetPolicy"),
    _read(_POLICY + "ListPolicies"),
    _write(_POLICY + "UpdatePolicy", Permission.OPERATE),
    _write(_POLICY + "DeletePolicy", Permission.OPERATE),
    _read(_POLICY + "GetPolicySettings"),
    _write(_POLICY + "UpdatePolicySettings", Permission.OPERATE),
    _read(_POLICY + "ListPolicyRevisions"),
    _read(_POLICY + "GetPolicyRevision"),
    _read(_POLICY + "DiffPolicyRevisions"),
    _write(_POLICY + "CreatePolicyCandidate", Permission.OPERATE),
    _read(_POLICY + "GetPolicyCandidate"),
    _read(_POLICY + "ListPolicyCandidates"),
    _write(_POLICY + "DeletePolicyCandidate", Permission.OPERATE),
    _read(_POLICY + "GetPolicyTests"),
    _write(_POLICY + "ReplacePolicyTests", Permission.OPERATE),
    _batch(_POLICY + "SimulatePolicies", Permission.READ, audited=False),
    _write(_POLICY + "ActivatePolicyRevision", Permission.OPERATE, seconds=BATCH_SECONDS),
    _read(_POLICY + "GetPolicyStage"),
    _write(_POLICY + "StopPolicyStage", Permission.OPERATE, idempotent=True),
    _write(_POLICY + "RollbackPolicyRevision", Permission.OPERATE),
    _read(_DECISIONS + "GetDecision"),
    _read(_DECISIONS + "QueryDecisions"),
    _read(_DECISIONS + "ExplainDecision"),
    _batch(_DECISIONS + "RecordDecisions", Permission.REPORT, audited=False),
    _write(_LIFECYCLE + "Activate", Permission.OPERATE, idempotent=True),
    _write(_LIFECYCLE + "Deactivate", Permission.OPERATE, idempotent=True),
    # A process that is told to stop drains itself.
    _write(_LIFECYCLE + "Drain", Permission.OPERATE, idempotent=True, own=True),
    _wait(_LIFECYCLE + "GetDrain", DRAIN_WAIT_SECONDS),
    _write(_LIFECYCLE + "CancelDrain", Permission.OPERATE, idempotent=True),
    _write(_LIFECYCLE + "Decommission", Permission.OPERATE, idempotent=True),
    _write(_LIFECYCLE + "EmergencyStop", Permission.OPERATE, seconds=STOP_WAIT_SECONDS),
    _read(_LIFECYCLE + "GetEmergencyStop"),
    _work(_TASKS + "SubmitTask", Permission.SUBMIT, idempotent=False),
    _batch(_TASKS + "BatchSubmitTasks", Permission.SUBMIT, audited=False, idempotent=False),
    _stream(_TASKS + "WatchTasks", Permission.REPORT),
    _work(_TASKS + "AcceptTask", Permission.REPORT),
    _work(_TASKS + "ReportProgress", Permission.REPORT),
    _work(_TASKS + "CompleteTask", Permission.REPORT),
    _work(_TASKS + "FailTask", Permission.REPORT),
    _write(_TASKS + "CancelTask", Permission.SUBMIT, idempotent=True),
    _read(_TASKS + "GetTask", hot=True),
    _read(_TASKS + "ListTasks"),
    _stream(_TASKS + "FollowTasks", Permission.READ),
    _write(_ROUTING + "SetRoute", Permission.OPERATE),
    _read(_ROUTING + "GetRoute"),
    _read(_ROUTING + "ListRoutes"),
    _write(_ROUTING + "DeleteRoute", Permission.OPERATE, idempotent=True),
    _write(_ROLLOUTS + "StartRollout", Permission.OPERATE),
    _read(_ROLLOUTS + "GetRollout"),
    _read(_ROLLOUTS + "ListRollouts"),
    _stream(_ROLLOUTS + "WatchRollout", Permission.READ),
    _write(_ROLLOUTS + "PauseRollout", Permission.OPERATE, idempotent=True),
    _write(_ROLLOUTS + "ResumeRollout", Permission.OPERATE, idempotent=True),
    _write(_ROLLOUTS + "PromoteRollout", Permission.OPERATE),
    _write(_ROLLOUTS + "AbortRollout", Permission.OPERATE, idempotent=True),
    _write(_ROLLOUTS + "RetryRollout", Permission.OPERATE),
    _write(_EXPERIMENTS + "CreateExperiment", Permission.OPERATE),
    _read(_EXPERIMENTS + "GetExperiment"),
    _read(_EXPERIMENTS + "ListExperiments"),
    _write(_EXPERIMENTS + "StartExperiment", Permission.OPERATE),
    _write(_EXPERIMENTS + "SetCoverage", Permission.OPERATE, idempotent=True),
    _write(_EXPERIMENTS + "StartNewPhase", Permission.OPERATE),
    _write(_EXPERIMENTS + "StopExperiment", Permission.OPERATE, idempotent=True),
    _write(
        _EXPERIMENTS + "DeleteExperiment",
        Permission.OPERATE,
        idempotent=True,
        seconds=BATCH_SECONDS,
    ),
    _read(_EXPERIMENTS + "AssignVariant", hot=True),
    _stream(_EXPERIMENTS + "WatchExperiments", Permission.READ),
    _work(_EXPERIMENTS + "RecordExposure", Permission.REPORT),
    _batch(_EXPERIMENTS + "BatchRecordExposures", Permission.REPORT, audited=False),
    _work(_EXPERIMENTS + "RecordOutcome", Permission.REPORT),
    _batch(_EXPERIMENTS + "BatchRecordOutcomes", Permission.REPORT, audited=False),
    _read(_EXPERIMENTS + "AnalyzeExperiment"),
    _rights(_IDENTITY + "Enroll", Permission.PUBLIC, Scope.NONE),
    _rights(_IDENTITY + "RenewCertificate", Permission.IDENTIFY, Scope.NONE),
    _rights(_IDENTITY + "CreateJoinToken", Permission.ADMINISTER),
    _look(_IDENTITY + "ListJoinTokens", Permission.AUDIT),
    _rights(_IDENTITY + "RevokeJoinToken", Permission.ADMINISTER, idempotent=True),
    _rights(_IDENTITY + "CreateApiToken", Permission.ADMINISTER, Scope.ANY_NAMESPACE),
    _look(_IDENTITY + "ListApiTokens", Permission.AUDIT, Scope.ANY_NAMESPACE),
    _rights(
        _IDENTITY + "RevokeApiToken", Permission.ADMINISTER, Scope.ANY_NAMESPACE, idempotent=True
    ),
    _rights(_IDENTITY + "BanAgent", Permission.ADMINISTER, idempotent=True),
    _rights(_IDENTITY + "UnbanAgent", Permission.ADMINISTER, idempotent=True),
    _look(_IDENTITY + "ListBans", Permission.AUDIT),
    _look(_IDENTITY + "WhoAmI", Permission.IDENTIFY, Scope.NONE),
    _look(_ACCESS + "ListRoles", Permission.IDENTIFY, Scope.NONE),
    _rights(
        _ACCESS + "CreateRoleBinding", Permission.ADMINISTER, Scope.ANY_NAMESPACE, idempotent=True
    ),
    _look(_ACCESS + "ListRoleBindings", Permission.AUDIT, Scope.ANY_NAMESPACE),
    _rights(
        _ACCESS + "DeleteRoleBinding", Permission.ADMINISTER, Scope.ANY_NAMESPACE, idempotent=True
    ),
    _look(_ACCESS + "CheckAccess", Permission.IDENTIFY, Scope.NONE),
    _rights(_NAMESPACES + "CreateNamespace", Permission.ADMINISTER, Scope.EVERYWHERE),
    _look(_NAMESPACES + "GetNamespace", Permission.READ),
    _look(_NAMESPACES + "ListNamespaces", Permission.IDENTIFY, Scope.NONE),
    _rights(_NAMESPACES + "UpdateNamespace", Permission.ADMINISTER, Scope.EVERYWHERE),
    _rights(
        _NAMESPACES + "DeleteNamespace", Permission.ADMINISTER, Scope.EVERYWHERE, idempotent=True
    ),
    _look(_NAMESPACES + "GetUsage", Permission.READ),
    _look(_AUDIT + "ListEvents", Permission.AUDIT, Scope.NAMESPACE_OR_SYSTEM),
    _stream(_AUDIT + "WatchEvents", Permission.AUDIT, Scope.NAMESPACE_OR_SYSTEM),
    _look(_AUDIT + "GetAuditStatus", Permission.AUDIT, Scope.NAMESPACE_OR_SYSTEM),
    _stream(_AUDIT + "VerifyAudit", Permission.AUDIT, Scope.NAMESPACE_OR_SYSTEM),
    _stream(_AUDIT + "ExportAudit", Permission.AUDIT, Scope.NAMESPACE_OR_SYSTEM),
    _rights(
        _AUDIT + "ConfirmAuditExport",
        Permission.ADMINISTER,
        Scope.NAMESPACE_OR_SYSTEM,
        idempotent=True,
    ),
    _rights(
        _AUDIT + "TrimAudit", Permission.ADMINISTER, Scope.NAMESPACE_OR_SYSTEM, idempotent=True
    ),
    _write(_PROMPTS + "CreatePromptVersion", Permission.OPERATE),
    _read(_PROMPTS + "GetPromptVersion"),
    _read(_PROMPTS + "ListPrompts"),
    _read(_PROMPTS + "ListPromptVersions"),
    _read(_PROMPTS + "DiffPromptVersions"),
    _write(_PROMPTS + "MoveLabel", Permission.OPERATE),
    _write(_PROMPTS + "RemoveLabel", Permission.OPERATE),
    _read(_PROMPTS + "GetLabelHistory"),
    _write(_PROMPTS + "RestorePromptVersion", Permission.OPERATE),
    _write(_PROMPTS + "SetAgentLabel", Permission.OPERATE),
    _write(_PROMPTS + "UnsetAgentLabel", Permission.OPERATE, idempotent=True),
    # It writes what a session begins with, once, and reads from memory from then on.
    _read(_PROMPTS + "ResolvePrompt", hot=True),
    _read(_PROMPTS + "RenderPrompt", hot=True),
    _stream(_PROMPTS + "WatchPrompts", Permission.READ),
    _write(_PROMPTS + "RecordEvaluation", Permission.OPERATE, seconds=BATCH_SECONDS),
    _read(_PROMPTS + "ListEvaluations"),
    _batch(_PROMPTS + "ComparePromptVersions", Permission.READ, audited=False),
    _write(_PROMPTS + "SetLabelGate", Permission.OPERATE),
    _work(_PROMPTS + "MarkPromptUsed", Permission.REPORT),
    _read(_APPROVALS + "GetApproval"),
    _read(_APPROVALS + "ListApprovals"),
    _wait(_APPROVALS + "WaitApproval", APPROVAL_WAIT_SECONDS),
    _stream(_APPROVALS + "WatchApprovals", Permission.READ),
    _write(_APPROVALS + "DecideApproval", Permission.APPROVE, idempotent=True),
    _batch(_APPROVALS + "BatchDecideApprovals", Permission.APPROVE, audited=True),
    _write(_APPROVALS + "DelegateApproval", Permission.APPROVE),
    # Who no longer wants to act says so.
    _write(_APPROVALS + "CancelApproval", Permission.APPROVE, idempotent=True, own=True),
    _write(_APPROVALS + "RevokeApproval", Permission.APPROVE, idempotent=True),
    _work(_APPROVALS + "ConsumeApproval", Permission.REPORT),
    _write(_APPROVALS + "ExtendApproval", Permission.APPROVE, idempotent=True),
    _write(_APPROVALS + "CreateStandingGrant", Permission.APPROVE),
    _read(_APPROVALS + "ListStandingGrants"),
    _write(_APPROVALS + "RevokeStandingGrant", Permission.APPROVE, idempotent=True),
    _probe(_HEALTH + "Check", Permission.PUBLIC),
    _probe(_HEALTH + "List", Permission.PUBLIC),
    _probe(_HEALTH + "Watch", Permission.PUBLIC, streaming=True),
    _probe(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Permission.PUBLIC,
        streaming=True,
    ),
    _probe(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Permission.PUBLIC,
        streaming=True,
    ),
    _probe(_CHANNELZ + "GetTopChannels", Permission.DIAGNOSE),
    _probe(_CHANNELZ + "GetServers", Permission.DIAGNOSE),
    _probe(_CHANNELZ + "GetServer", Permission.DIAGNOSE),
    _probe(_CHANNELZ + "GetServerSockets", Permission.DIAGNOSE),
    _probe(_CHANNELZ + "GetChannel", Permission.DIAGNOSE),
    _probe(_CHANNELZ + "GetSubchannel", Permission.DIAGNOSE),
    _probe(_CHANNELZ + "GetSocket", Permission.DIAGNOSE),
)

METHODS: Final[Mapping[str, Method]] = MappingProxyType({row.name: row for row in _ROWS})
"""Every RPC the daemon answers, by full name."""
