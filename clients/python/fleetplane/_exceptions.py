"""Everything the SDK raises when the control plane says no or cannot be asked.

    FleetError
    ├── InvalidArgument       INVALID_FIELD, INVALID_CURSOR: the request is wrong; see `violations`
    ├── NotFound              AGENT_, INSTANCE_, POLICY_, REVISION_, TASK_, ROUTE_, DRAIN_, STOP_,
    │                         ROLLOUT_, NAMESPACE_, TOKEN_NOT_FOUND, NO_CANDIDATE
    ├── AlreadyExists         AGENT_EXISTS, POLICY_EXISTS, NAMESPACE_EXISTS, REQUEST_ID_REUSED
    ├── RevisionConflict      REVISION_CONFLICT: somebody else wrote; read again and retry
    ├── FailedPrecondition    INVALID_TRANSITION, INSTANCE_FENCED, ACTIVATION_REFUSED,
    │   │                     ACTIVATION_PENDING, ROLLOUT_ACTIVE, NO_CERTIFICATE_AUTHORITY,
    │   │                     NAMESPACE_NOT_EMPTY, NAMESPACE_TERMINATING
    │   └── LeaseFenced       LEASE_FENCED: the task is somebody else's by now; stop working on it
    ├── LimitExceeded         LIMIT_EXCEEDED, QUOTA_EXCEEDED: a bound; RATE_LIMITED: was retried
    ├── Unavailable           STORE_UNAVAILABLE, NOT_READY, DRAINING, OVERLOADED, or nobody answered
    │   └── StalePolicies     `LocalPolicies.decide`: the copy in this process is too old
    ├── DeadlineExceeded      DEADLINE_EXCEEDED: a write may or may not have happened
    ├── Unauthenticated       CREDENTIAL_MISSING, _INVALID, _EXPIRED, _REVOKED
    ├── PermissionDenied      PERMISSION_DENIED, AGENT_BANNED, FOREIGN_AGENT
    ├── Unimplemented         the daemon is older than this SDK
    ├── InternalError         INTERNAL: a defect; `metadata["request_id"]` finds its log
    ├── PolicyDenied          `Agent.require`: the policies refuse the action
    ├── ApprovalRequired      `Agent.require`: the action needs somebody's approval
    ├── ApprovalRefused       `Agent.permitted`: nobody approved it, or not for long enough
    ├── TaskFailed            `run_task`, `task_result`: the task failed for good
    └── TaskCancelled         `run_task`, `task_result`: the task was called off

Switch on the class, then on `reason`; never on the text, which ends with the command or argument
that helps, where one does. An error that came from a call keeps the `grpc.aio.AioRpcError` as
`__cause__`.
"""

import enum
from collections.abc import Mapping
from typing import Final

import grpc

from fleetplane._approval_states import ApprovalState
from fleetplane._details import (
    NO_DETAILS,
    STATUS_DETAILS_KEY,
    FieldViolation,
    StatusDetails,
    parse_status,
)
from fleetplane._enums import TaskReason, TaskState
from fleetplane._hints import BY_REASON, transport_hint
from fleetplane.v1 import (
    approval_service_pb2,
    error_reason_pb2,
    policy_service_pb2,
    task_service_pb2,
)


class Reason(enum.StrEnum):
    """Why a call was refused: `fleetplane.v1.ErrorReason` without its prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    """No reason was given, or one this SDK is too old to know."""
    INVALID_FIELD = "INVALID_FIELD"
    INVALID_CURSOR = "INVALID_CURSOR"
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND"
    INSTANCE_NOT_FOUND = "INSTANCE_NOT_FOUND"
    POLICY_NOT_FOUND = "POLICY_NOT_FOUND"
    REVISION_NOT_FOUND = "REVISION_NOT_FOUND"
    NO_CANDIDATE = "NO_CANDIDATE"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    DRAIN_NOT_FOUND = "DRAIN_NOT_FOUND"
    STOP_NOT_FOUND = "STOP_NOT_FOUND"
    ROLLOUT_NOT_FOUND = "ROLLOUT_NOT_FOUND"
    AGENT_EXISTS = "AGENT_EXISTS"
    POLICY_EXISTS = "POLICY_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    REVISION_CONFLICT = "REVISION_CONFLICT"
    INVALID_TRANSITION = "INVALID_TRANSITION"
    INSTANCE_FENCED = "INSTANCE_FENCED"
    ACTIVATION_REFUSED = "ACTIVATION_REFUSED"
    ACTIVATION_PENDING = "ACTIVATION_PENDING"
    LEASE_FENCED = "LEASE_FENCED"
    ROLLOUT_ACTIVE = "ROLLOUT_ACTIVE"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    NOT_READY = "NOT_READY"
    DRAINING = "DRAINING"
    OVERLOADED = "OVERLOADED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"
    CREDENTIAL_MISSING = "CREDENTIAL_MISSING"
    CREDENTIAL_INVALID = "CREDENTIAL_INVALID"
    CREDENTIAL_EXPIRED = "CREDENTIAL_EXPIRED"
    CREDENTIAL_REVOKED = "CREDENTIAL_REVOKED"
    AGENT_BANNED = "AGENT_BANNED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    FOREIGN_AGENT = "FOREIGN_AGENT"
    NO_CERTIFICATE_AUTHORITY = "NO_CERTIFICATE_AUTHORITY"
    NAMESPACE_NOT_FOUND = "NAMESPACE_NOT_FOUND"
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND"  # noqa: S105  # the name of a reason
    NAMESPACE_EXISTS = "NAMESPACE_EXISTS"
    NAMESPACE_NOT_EMPTY = "NAMESPACE_NOT_EMPTY"
    NAMESPACE_TERMINATING = "NAMESPACE_TERMINATING"
    APPROVAL_NOT_FOUND = "APPROVAL_NOT_FOUND"
    APPROVAL_NOT_OPEN = "APPROVAL_NOT_OPEN"
    ALREADY_CONSUMED = "ALREADY_CONSUMED"
    APPROVAL_EXPIRED = "APPROVAL_EXPIRED"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    POLICY_NOW_DENIES = "POLICY_NOW_DENIES"
    APPROVAL_SUPERSEDED = "APPROVAL_SUPERSEDED"
    SELF_APPROVAL = "SELF_APPROVAL"
    NOT_ELIGIBLE = "NOT_ELIGIBLE"
    VOTE_CONFLICT = "VOTE_CONFLICT"
    STANDING_GRANT_NOT_FOUND = "STANDING_GRANT_NOT_FOUND"
    DECISION_NOT_FOUND = "DECISION_NOT_FOUND"
    POLICY_CANDIDATE_NOT_FOUND = "POLICY_CANDIDATE_NOT_FOUND"
    POLICY_TESTS_FAILED = "POLICY_TESTS_FAILED"
    TOO_MANY_FLIPS = "TOO_MANY_FLIPS"
    PROMPT_NOT_FOUND = "PROMPT_NOT_FOUND"
    PROMPT_VERSION_NOT_FOUND = "PROMPT_VERSION_NOT_FOUND"
    LABEL_NOT_FOUND = "LABEL_NOT_FOUND"
    GATE_BLOCKED = "GATE_BLOCKED"
    EVALUATION_NOT_FOUND = "EVALUATION_NOT_FOUND"
    NOT_COMPARABLE = "NOT_COMPARABLE"
    EXPERIMENT_NOT_FOUND = "EXPERIMENT_NOT_FOUND"
    EXPERIMENT_EXISTS = "EXPERIMENT_EXISTS"
    EXPERIMENT_ACTIVE = "EXPERIMENT_ACTIVE"
    NOT_EXPOSED = "NOT_EXPOSED"
    AUDIT_TRIMMED = "AUDIT_TRIMMED"
    AUDIT_NOT_EXPORTED = "AUDIT_NOT_EXPORTED"


class FleetError(Exception):
    """Base of everything the SDK raises on behalf of the control plane.

    Attributes:
        message: what happened, in words.
        hint: the command or argument that helps, which `str()` ends with; may be empty.
        reason: why, as an enum; `Reason.UNSPECIFIED` if nobody said.
        metadata: everything variable in the message, by name.
        violations: wrong fields of the request, for `InvalidArgument`.
        retry_after: seconds after which a retry makes sense, if the daemon named them.
    """

    def __init__(self, message: str, details: StatusDetails = NO_DETAILS) -> None:
        super().__init__(message)
        self.message: Final = message
        self.hint = BY_REASON.get(details.reason, "")
        self.reason: Final = _REASONS.get(details.reason, Reason.UNSPECIFIED)
        self.metadata: Final[Mapping[str, str]] = details.metadata
        self.violations: Final[tuple[FieldViolation, ...]] = details.violations
        self.retry_after: Final = details.retry_after

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody changing it."""
        return self.retry_after is not None


class InvalidArgument(FleetError):
    """A field is missing, malformed or out of range, or a page token was not issued here."""


class NotFound(FleetError):
    """What the call names does not exist in this namespace, or no agent qualifies."""


class AlreadyExists(FleetError):
    """The identity belongs to something with other content."""


class RevisionConflict(FleetError):
    """`expected_revision` is stale: `metadata["current_revision"]` is the one to start from."""


class FailedPrecondition(FleetError):
    """The state of the object does not allow the call."""


class LeaseFenced(FailedPrecondition):
    """The lease of a task has ended: whatever is done for it now is thrown away.

    `metadata["task_id"]` names the task, `metadata["state"]` where it is.
    """


class LimitExceeded(FleetError):
    """A quota or a bound is reached; with `retry_after` it is a rate, without it a size.

    Calls beyond a rate were already retried until their deadline. `metadata` names the bound.
    """


class Unavailable(FleetError):
    """The control plane cannot answer now. Calls were already retried until their deadline."""

    @property
    def retryable(self) -> bool:
        """Always: nobody refused the request."""
        return True


class DeadlineExceeded(FleetError):
    """No answer in time. A write may or may not have happened."""


class Unauthenticated(FleetError):
    """The daemon does not know who calls: the credential is missing, wrong, ended or revoked."""


class PermissionDenied(FleetError):
    """The caller may not do that: it has no role for it, is banned, or speaks for another agent."""


class Unimplemented(FleetError):
    """The daemon does not have this method: it is older than the SDK."""


class InternalError(FleetError):
    """A defect in the daemon; its log has the rest under `metadata["request_id"]`."""


class PolicyDenied(FleetError):
    """The policies refuse an action; `decision` says which and why."""

    def __init__(self, decision: policy_service_pb2.PolicyDecision) -> None:
        super().__init__(_verdict("denied", decision))
        self.decision: Final = decision


class StalePolicies(Unavailable):
    """The copy of the policies in this process is older than it may be, or not there yet."""


class ApprovalRequired(FleetError):
    """The policies want somebody to approve an action first; `decision` says which and why."""

    def __init__(self, decision: policy_service_pb2.PolicyDecision) -> None:
        super().__init__(_verdict("approval required", decision))
        self.decision: Final = decision


class ApprovalRefused(FleetError):
    """Somebody was asked and the action must not go ahead: denied, expired, cancelled, revoked."""

    def __init__(self, approval: approval_service_pb2.Approval) -> None:
        state = ApprovalState(approval.state)
        why = f": {approval.state_reason}" if approval.state_reason else ""
        super().__init__(f"the approval of {approval.action.action!r} is {state.name}{why}")
        self.approval = approval
        """As it ended."""
        self.state = state
        """How it ended."""


class _TaskEnded(FleetError):
    """A task ended without a result; see the subclasses.

    Attributes:
        task: the task as it ended.
        task_reason: why it ended.
        detail: in words; what the agent or the operator said. May be empty.
    """

    def __init__(self, task: task_service_pb2.Task) -> None:
        self.task: Final = task
        self.task_reason: Final = TaskReason(task.reason)
        self.detail: Final = task.detail
        outcome = TaskState(task.state).name.lower()
        words = f": {task.detail}" if task.detail else ""
        super().__init__(f"task {task.task_id} {outcome} with {self.task_reason.name}{words}")


class TaskFailed(_TaskEnded):
    """The task failed for good; `task_reason` says why, `task.hops` who tried."""


class TaskCancelled(_TaskEnded):
    """The task was called off; `detail` is the reason that was given."""


_REASONS: Final = {str(reason): reason for reason in Reason}

_FAMILIES: Final[Mapping[int, type[FleetError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT.value[0]: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE.value[0]: InvalidArgument,
    grpc.StatusCode.NOT_FOUND.value[0]: NotFound,
    grpc.StatusCode.ALREADY_EXISTS.value[0]: AlreadyExists,
    grpc.StatusCode.ABORTED.value[0]: RevisionConflict,
    grpc.StatusCode.FAILED_PRECONDITION.value[0]: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: LimitExceeded,
    grpc.StatusCode.UNAVAILABLE.value[0]: Unavailable,
    # What a daemon that shuts down makes of calls that arrive in that moment: grpc's core cancels
    # them. A cancellation of our own surfaces as asyncio.CancelledError and never gets here.
    grpc.StatusCode.CANCELLED.value[0]: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED.value[0]: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED.value[0]: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED.value[0]: Unimplemented,
    grpc.StatusCode.INTERNAL.value[0]: InternalError,
}
"""gRPC code to class; every other code (UNKNOWN, DATA_LOSS) is a plain `FleetError`."""

_SPECIAL: Final[Mapping[str, type[FleetError]]] = {Reason.LEASE_FENCED: LeaseFenced}
"""Reasons with a class of their own; all others have that of their code."""

_PREFIX: Final = "ERROR_REASON_"


def error_from_call(error: grpc.aio.AioRpcError) -> FleetError:
    """Build the typed error of a refused call; the caller raises it `from error`."""
    details = NO_DETAILS
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            details = parse_status(value)
    family = _family(error.code().value[0], details)
    refusal = family(error.details() or error.code().name, details)
    if family is Unavailable and not details.reason:
        refusal.hint = transport_hint(refusal.message)
    return refusal


def error_from_entry(entry: error_reason_pb2.EntryError) -> FleetError:
    """Build the typed error of one refused entry of a batch: the same as that of a single call."""
    name = error_reason_pb2.ErrorReason.Name(entry.reason) if entry.reason in _KNOWN else ""
    details = StatusDetails(
        reason=name.removeprefix(_PREFIX),
        metadata=dict(entry.metadata),
        violations=tuple(FieldViolation(one.field, one.description) for one in entry.violations),
    )
    return _family(entry.code, details)(entry.message, details)


def _family(code: int, details: StatusDetails) -> type[FleetError]:
    return _SPECIAL.get(details.reason) or _FAMILIES.get(code, FleetError)


_KNOWN: Final = frozenset(error_reason_pb2.ErrorReason.values())


def _verdict(outcome: str, decision: policy_service_pb2.PolicyDecision) -> str:
    policies = ", ".join(decision.determining_policies)
    return f"{outcome}: {decision.message}" + (f" [{policies}]" if policies else "")
