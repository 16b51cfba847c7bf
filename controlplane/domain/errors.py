"""Every way in which Fleetplane refuses, as types.

The tree; leaves marked with the `ErrorReason` that clients switch on. The gRPC code of each is
chosen in one place, `controlplane/api/status.py`.

    DomainError
    ├── InvalidArgument            INVALID_FIELD          a field is missing or wrong
    │   └── InvalidCursor          INVALID_CURSOR         a page token nobody issued
    ├── NotFound
    │   ├── AgentNotFound          AGENT_NOT_FOUND
    │   ├── InstanceNotFound       INSTANCE_NOT_FOUND
    │   ├── PolicyNotFound         POLICY_NOT_FOUND
    │   ├── PolicyCandidateNotFound  POLICY_CANDIDATE_NOT_FOUND
    │   ├── RevisionNotFound       REVISION_NOT_FOUND
    │   ├── NoCandidate            NO_CANDIDATE           nobody qualifies; carries near misses
    │   ├── TaskNotFound           TASK_NOT_FOUND
    │   ├── RouteNotFound          ROUTE_NOT_FOUND
    │   ├── DrainNotFound          DRAIN_NOT_FOUND
    │   ├── StopNotFound           STOP_NOT_FOUND
    │   ├── RolloutNotFound        ROLLOUT_NOT_FOUND
    │   ├── NamespaceNotFound      NAMESPACE_NOT_FOUND    or none that the caller may see
    │   ├── TokenNotFound          TOKEN_NOT_FOUND
    │   ├── ApprovalNotFound       APPROVAL_NOT_FOUND
    │   ├── DecisionNotFound       DECISION_NOT_FOUND     or the log keeps it no longer
    │   ├── PromptNotFound         PROMPT_NOT_FOUND
    │   ├── ExperimentNotFound     EXPERIMENT_NOT_FOUND
    │   ├── NotExposed             NOT_EXPOSED            a unit that has seen nothing
    │   ├── PromptVersionNotFound  PROMPT_VERSION_NOT_FOUND
    │   ├── LabelNotFound          LABEL_NOT_FOUND
    │   ├── EvaluationNotFound     EVALUATION_NOT_FOUND   of that version, data set and scorer
    │   └── StandingGrantNotFound  STANDING_GRANT_NOT_FOUND
    ├── AlreadyExists
    │   ├── AgentExists            AGENT_EXISTS           name@version is taken; says by whom
    │   ├── PolicyExists           POLICY_EXISTS
    │   ├── ExperimentExists       EXPERIMENT_EXISTS
    │   ├── NamespaceExists        NAMESPACE_EXISTS
    │   ├── VoteConflict           VOTE_CONFLICT          a vote stands
    │   └── RequestIdReused        REQUEST_ID_REUSED      same request_id, other content
    ├── RevisionConflict           REVISION_CONFLICT      expected_revision is stale
    ├── FailedPrecondition
    │   ├── InvalidTransition      INVALID_TRANSITION     names both states
    │   ├── InstanceFenced         INSTANCE_FENCED        a newer generation exists
    │   ├── ActivationRefused      ACTIVATION_REFUSED     a policy says no
    │   ├── ActivationPending      ACTIVATION_PENDING     a policy wants an approval
    │   ├── LeaseFenced            LEASE_FENCED           the lease of the task has ended
    │   ├── RolloutActive          ROLLOUT_ACTIVE         one rollout per agent name
    │   ├── ExperimentActive       EXPERIMENT_ACTIVE      one experiment per subject
    │   ├── NamespaceNotEmpty      NAMESPACE_NOT_EMPTY
    │   ├── NamespaceTerminating   NAMESPACE_TERMINATING
    │   ├── ApprovalNotOpen        APPROVAL_NOT_OPEN      it is in another state
    │   ├── AlreadyConsumed        ALREADY_CONSUMED       a grant has one use
    │   ├── ApprovalExpired        APPROVAL_EXPIRED       time is over
    │   ├── DigestMismatch         DIGEST_MISMATCH        another action than was approved
    │   ├── PolicyNowDenies        POLICY_NOW_DENIES      policies have changed
    │   ├── PolicyTestsFailed      POLICY_TESTS_FAILED    names the tests
    │   ├── TooManyFlips           TOO_MANY_FLIPS         a replay came out otherwise
    │   ├── ApprovalSuperseded     APPROVAL_SUPERSEDED    policies ask for more by now
    │   ├── GateBlocked            GATE_BLOCKED           the gate of a label does not pass
    │   ├── NotComparable          NOT_COMPARABLE         evaluations of other things
    │   ├── AuditNotExported       AUDIT_NOT_EXPORTED     only exported audits are trimmed
    │   └── NoCertificateAuthority NO_CERTIFICATE_AUTHORITY
    ├── OutOfRange
    │   └── AuditTrimmed           AUDIT_TRIMMED          the audit begins later
    ├── Unauthenticated
    │   ├── CredentialMissing      CREDENTIAL_MISSING
    │   ├── CredentialInvalid      CREDENTIAL_INVALID     says why, in a word
    │   │   └── EarlierNamespace   CREDENTIAL_INVALID     of a namespace that was removed
    │   ├── CredentialExpired      CREDENTIAL_EXPIRED
    │   └── CredentialRevoked      CREDENTIAL_REVOKED
    ├── Forbidden
    │   ├── PermissionDenied       PERMISSION_DENIED      no role has the permission
    │   ├── AgentBanned            AGENT_BANNED
    │   ├── SelfApproval           SELF_APPROVAL          nobody approves his own request
    │   ├── NotEligible            NOT_ELIGIBLE           not among those who decide now
    │   └── ForeignAgent           FOREIGN_AGENT          an agent speaks only for itself
    ├── LimitExceeded              LIMIT_EXCEEDED         a bound; carries the limit
    │   ├── RateLimited            RATE_LIMITED           too many calls or streams; retry
    │   └── QuotaExceeded          QUOTA_EXCEEDED         a quota of the namespace
    ├── StoreUnavailable           STORE_UNAVAILABLE      retry; the write may have happened
    ├── NotReady                   NOT_READY              no snapshot loaded yet
    ├── Overloaded                 OVERLOADED             this replica refuses what can wait
    └── Draining                   DRAINING               this replica is shutting down
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field: a dotted path as the caller wrote it, and what is wrong with it."""

    field: str
    description: str


class DomainError(Exception):
    """A refusal. `message` is fit for the caller; `metadata` holds everything variable in it."""

    reason: str = ""
    retry_after_seconds: float | None = None

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidArgument(DomainError):
    """One or more fields are wrong; nothing was written."""

    reason = "INVALID_FIELD"

    def __init__(self, *violations: FieldViolation) -> None:
        if not violations:
            raise ValueError("InvalidArgument needs at least one violation")
        super().__init__(
            "; ".join(f"{v.field}: {v.description}" for v in violations),
            {"field": violations[0].field},
        )
        self.violations: tuple[FieldViolation, ...] = violations

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """Return the refusal of a single field."""
        return cls(FieldViolation(field, description))


class InvalidCursor(InvalidArgument):
    """A page token or resume cursor that was not issued here, or for other arguments."""

    reason = "INVALID_CURSOR"


class NotFound(DomainError):
    """The object does not exist in this namespace."""


class AgentNotFound(NotFound):
    """No agent with that id."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"no agent {agent_id!r}", {"agent_id": agent_id})


class InstanceNotFound(NotFound):
    """The agent exists, the instance does not."""

    reason = "INSTANCE_NOT_FOUND"

    def __init__(self, instance_id: str) -> None:
        super().__init__(f"no instance {instance_id!r}", {"instance_id": instance_id})


class PolicyNotFound(NotFound):
    """No policy with that id."""

    reason = "POLICY_NOT_FOUND"

    def __init__(self, policy_id: str) -> None:
        super().__init__(f"no policy {policy_id!r}", {"policy_id": policy_id})


class RevisionNotFound(NotFound):
    """History does not hold that revision of the scope (never existed, or was trimmed)."""

    reason = "REVISION_NOT_FOUND"

    def __init__(self, scope: str, revision: int) -> None:
        super().__init__(
            f"scope {scope} has no revision {revision} in its history",
            {"scope": scope, "revision": str(revision)},
        )


class NoCandidate(NotFound):
    """No agent qualifies. `misses` says who came closest and why each was rejected."""

    reason = "NO_CANDIDATE"

    def __init__(self, message: str, misses: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message, {f"miss.{agent}": why for agent, why in misses})
        self.misses = tuple(misses)


class AlreadyExists(DomainError):
    """Something else holds that identity."""


class AgentExists(AlreadyExists):
    """The name@version or agent_id is taken by other content."""

    reason = "AGENT_EXISTS"

    def __init__(self, name_version: str, agent_id: str) -> None:
        super().__init__(
            f"{name_version} is already registered as agent {agent_id!r} with other content",
            {"name_version": name_version, "agent_id": agent_id},
        )
        self.agent_id = agent_id


class PolicyExists(AlreadyExists):
    """The policy id is taken by other content."""

    reason = "POLICY_EXISTS"

    def __init__(self, policy_id: str) -> None:
        super().__init__(f"policy {policy_id!r} already exists", {"policy_id": policy_id})


class RequestIdReused(AlreadyExists):
    """A request_id came back with different content; the first answer stands."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} was already used for a different request",
            {"request_id": request_id},
        )


class RevisionConflict(DomainError):
    """`expected_revision` is not the current one; read again and retry."""

    reason = "REVISION_CONFLICT"

    def __init__(self, what: str, *, expected: int, current: int) -> None:
        super().__init__(
            f"{what} is at revision {current}, not {expected}",
            {"expected_revision": str(expected), "current_revision": str(current)},
        )
        self.expected = expected
        self.current = current


class FailedPrecondition(DomainError):
    """The object is not in a state that allows this."""


class InvalidTransition(FailedPrecondition):
    """The lifecycle has no such move."""

    reason = "INVALID_TRANSITION"

    def __init__(self, what: str, *, current: str, wanted: str) -> None:
        super().__init__(
            f"{what} is {current} and cannot become {wanted}",
            {"current_state": current, "wanted_state": wanted},
        )


class InstanceFenced(FailedPrecondition):
    """A newer generation of the instance exists; this caller must stop or register again."""

    reason = "INSTANCE_FENCED"

    def __init__(self, instance_id: str, *, generation: int, current: int) -> None:
        super().__init__(
            f"instance {instance_id!r} generation {generation} is fenced by generation {current}",
            {
                "instance_id": instance_id,
                "generation": str(generation),
                "current_generation": str(current),
            },
        )


class ActivationRefused(FailedPrecondition):
    """A policy refused the activation, or wants an approval first."""

    reason = "ACTIVATION_REFUSED"

    def __init__(
        self, agent_id: str, *, decision: str, policies: Sequence[str], detail: str = ""
    ) -> None:
        who = f" by {', '.join(policies)}" if policies else ""
        why = f": {detail}" if detail else ""
        super().__init__(
            f"activation of agent {agent_id!r} was answered {decision}{who}{why}",
            {"agent_id": agent_id, "decision": decision, "policies": ",".join(policies)},
        )


class ActivationPending(FailedPrecondition):
    """A policy wants the activation approved first; it is parked on the agent."""

    reason = "ACTIVATION_PENDING"

    def __init__(self, agent_id: str, *, policies: Sequence[str], approval_id: str = "") -> None:
        super().__init__(
            f"activation of agent {agent_id!r} waits for an approval: {', '.join(policies)}",
            {"agent_id": agent_id, "policies": ",".join(policies), "approval_id": approval_id},
        )


class LimitExceeded(DomainError):
    """A bound of the namespace or the daemon is reached; the message names it."""

    reason = "LIMIT_EXCEEDED"

    def __init__(self, what: str, *, limit: int, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{what} is limited to {limit}", {"limit": str(limit)})
        self.retry_after_seconds = retry_after_seconds


class StoreUnavailable(DomainError):
    """The store did not answer. A write may or may not have happened: retry with its request_id."""

    reason = "STORE_UNAVAILABLE"
    retry_after_seconds = 1.0

    def __init__(self, message: str = "the store is unavailable") -> None:
        super().__init__(message)


class NotReady(DomainError):
    """This replica has no complete snapshot yet."""

    reason = "NOT_READY"
    retry_after_seconds = 0.5

    def __init__(self, message: str = "this replica is still loading its first snapshot") -> None:
        super().__init__(message)


class Draining(DomainError):
    """This replica is shutting down; another one will answer."""

    reason = "DRAINING"
    retry_after_seconds = 0.5

    def __init__(self, message: str = "this replica is shutting down") -> None:
        super().__init__(message)
