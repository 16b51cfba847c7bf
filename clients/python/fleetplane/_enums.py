"""The enums of the contract in short: members equal the numbers that messages carry.

`AgentStatus.ACTIVE` is `AGENT_STATUS_ACTIVE` of `fleetplane.v1`; `PolicyAction(decision.action)`
reads one from a message. A number that is missing here came from a newer daemon and reads as
UNSPECIFIED.
"""

import enum


class OpenEnum(enum.IntEnum):
    """An enum of the contract: it grows, and old readers must live with that."""

    @classmethod
    def _missing_(cls, value: object) -> "OpenEnum | None":
        return cls(0) if isinstance(value, int) and value else None


class AgentStatus(OpenEnum):
    """Where an agent is in its life."""

    UNSPECIFIED = 0
    """Not a status."""
    REGISTERED = 1
    """Known, but not allowed to work yet."""
    ACTIVE = 2
    """At least one instance is fresh and the agent may take work."""
    DEGRADED = 3
    """Every instance has been silent for too long; a beat brings it back."""
    INACTIVE = 4
    """Not working: by an operator, or because every instance was lost."""
    DECOMMISSIONED = 5
    """Retired for good."""


class Activation(OpenEnum):
    """How an agent becomes ACTIVE after registration."""

    UNSPECIFIED = 0
    """Same as AUTO."""
    AUTO = 1
    """At its first heartbeat, if its configuration is valid and the policies allow it."""
    MANUAL = 2
    """Only by an explicit activation."""


class ConfigStatus(OpenEnum):
    """What became of a configuration in an instance."""

    UNSPECIFIED = 0
    """Nothing said yet."""
    APPLYING = 1
    """The attempted revision is being applied."""
    APPLIED = 2
    """The attempted revision runs."""
    FAILED = 3
    """The attempted revision was refused; the running one stays."""


class PolicyAction(OpenEnum):
    """What a policy, or the whole set of policies, says."""

    UNSPECIFIED = 0
    """Never sent."""
    ALLOW = 1
    """Permitted."""
    DENY = 2
    """Refused."""
    REQUIRE_APPROVAL = 3
    """Permitted only after somebody approves it."""
    LOG_ONLY = 4
    """Permitted and recorded."""

    @property
    def permits(self) -> bool:
        """Whether the action may be done now."""
        return self in {PolicyAction.ALLOW, PolicyAction.LOG_ONLY}


class OnMissing(OpenEnum):
    """What a condition means when the attribute it reads is absent."""

    UNSPECIFIED = 0
    """As the settings of the namespace say."""
    NO_MATCH = 1
    """The policy does not match."""
    MATCH = 2
    """DENY and REQUIRE_APPROVAL match (fail closed), ALLOW does not."""


class ExplainLevel(OpenEnum):
    """How much a decision explains."""

    UNSPECIFIED = 0
    """Same as NONE."""
    NONE = 1
    """Outcome, reason and ids only."""
    DETERMINING = 2
    """The leaves of the determining policies."""
    FULL = 3
    """Every policy: target, leaves, result."""


class BatchMode(OpenEnum):
    """When a batch of evaluations stops."""

    UNSPECIFIED = 0
    """Same as EXECUTE_ALL."""
    EXECUTE_ALL = 1
    """Decide all items."""
    DENY_ON_FIRST_DENY = 2
    """Stop after the first item that is not permitted."""
    PERMIT_ON_FIRST_PERMIT = 3
    """Stop after the first item that is permitted."""


class TaskState(OpenEnum):
    """Where a task is in its life."""

    UNSPECIFIED = 0
    """Not a state."""
    PENDING = 1
    """Waits for an instance with a free slot."""
    ASSIGNED = 2
    """Leased to an instance that has not accepted yet."""
    RUNNING = 3
    """An instance works on it."""
    SUCCEEDED = 4
    """Done; it has a result."""
    FAILED = 5
    """It failed for good."""
    CANCELLED = 6
    """Called off."""

    @property
    def ended(self) -> bool:
        """Whether nothing follows this state."""
        return self in {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}


class TaskReason(OpenEnum):
    """Why a task is where it is, or why a lease ended."""

    UNSPECIFIED = 0
    """Nothing to say."""
    AGENT_FAILED = 1
    """The agent reported a failure that a retry may mend."""
    AGENT_REFUSED = 2
    """The agent reported a failure that no retry mends."""
    ATTEMPTS_EXHAUSTED = 3
    """The last attempt failed or was lost."""
    DEADLINE_EXCEEDED = 4
    """It did not end before its deadline."""
    ATTEMPT_TIMEOUT = 5
    """One attempt took too long."""
    LEASE_LOST = 6
    """The instance fell silent, left, or was replaced by a newer process."""
    NOT_ACCEPTED = 7
    """The instance did not accept in time."""
    RELEASED = 8
    """The instance gave it back unharmed."""
    DRAINED = 9
    """A drain reached its deadline."""
    DEACTIVATED = 10
    """Its agent was deactivated or stopped."""
    NO_AGENT = 11
    """Its agent was deactivated and nobody else has the capabilities."""
    CANCELLED = 12
    """It was cancelled."""


class DrainAction(OpenEnum):
    """What becomes of a running task when a drain reaches its deadline."""

    UNSPECIFIED = 0
    """Same as REQUEUE."""
    REQUEUE = 1
    """It may be started again: another instance takes it from its last checkpoint."""
    FAIL = 2
    """It must not be started twice: it fails with DRAINED."""
    EXTEND = 3
    """It must finish: the drain waits for it, for one hour more at most."""


class DrainPhase(OpenEnum):
    """How far a drain has come."""

    UNSPECIFIED = 0
    """Never sent."""
    DRAINING = 1
    """No new work; what is in flight may finish until the deadline."""
    DRAINED = 2
    """Nothing is in flight."""
    CANCELLED = 3
    """Undone."""


class StopOutcome(OpenEnum):
    """What came of an emergency stop at one instance."""

    UNSPECIFIED = 0
    """Never sent."""
    WAITING = 1
    """Nothing heard yet."""
    ACKNOWLEDGED = 2
    """It said that it has stopped working."""
    LEFT = 3
    """It said goodbye."""
    SILENT = 4
    """It is silent: nobody can tell."""


class RouteRule(OpenEnum):
    """Why a session goes to a version."""

    UNSPECIFIED = 0
    """There is no route."""
    WEIGHT = 1
    """By its share."""
    PIN = 2
    """The session's first task was accepted by this version."""
    FALLBACK = 3
    """The version it belongs to has no fresh instance."""


class RolloutPhase(OpenEnum):
    """Where a rollout stands."""

    UNSPECIFIED = 0
    """Not a phase."""
    PENDING = 1
    """Waits for the new version to come to work."""
    PROGRESSING = 2
    """A step is being observed."""
    PAUSED = 3
    """Waits for an operator."""
    PROMOTING = 4
    """The new version has everything, the old one is kept warm."""
    DRAINING_OLD = 5
    """The old version finishes its work."""
    SUCCEEDED = 6
    """The old version is INACTIVE."""
    ABORTING = 7
    """The old version has everything again."""
    DRAINING_NEW = 8
    """The new version finishes its work."""
    ROLLED_BACK = 9
    """The new version is INACTIVE."""
    FAILED = 10
    """The new version never came to work."""
    SUPERSEDED = 11
    """Another rollout took over."""

    @property
    def ended(self) -> bool:
        """Whether nothing follows this phase."""
        return self in {
            RolloutPhase.SUCCEEDED,
            RolloutPhase.ROLLED_BACK,
            RolloutPhase.FAILED,
            RolloutPhase.SUPERSEDED,
        }


class RolloutPauseReason(OpenEnum):
    """Why a rollout waits."""

    UNSPECIFIED = 0
    """It does not."""
    OPERATOR = 1
    """An operator said so."""
    INCONCLUSIVE = 2
    """No verdict in time."""
    ENVIRONMENT = 3
    """Both versions fail alike."""
    METRICS = 4
    """The outcomes could not be read."""
    STEP = 5
    """The plan asks for a word after this step."""


class RolloutVerdict(OpenEnum):
    """What one look at the outcomes says."""

    UNSPECIFIED = 0
    """Nothing yet."""
    CONTINUE = 1
    """Not enough seen."""
    PASS = 2
    """The step has passed."""
    BREACH = 3
    """The new version is worse than the limit, and than the old one."""
    ENVIRONMENT = 4
    """It is worse than the limit, and the old one is as bad."""
    INCONCLUSIVE = 5
    """No verdict in time."""
    ERROR = 6
    """The outcomes could not be read."""


class AnalysisKind(OpenEnum):
    """The rule that judges a step of a rollout."""

    UNSPECIFIED = 0
    """Same as SEQUENTIAL."""
    SEQUENTIAL = 1
    """Wald's sequential probability ratio test, with a concurrent baseline."""
    THRESHOLD = 2
    """The error rate at the end of the observation."""


class AnalysisSource(OpenEnum):
    """Where the outcomes come from that judge a step of a rollout."""

    UNSPECIFIED = 0
    """Same as AUTO."""
    AUTO = 1
    """Tasks, if the plane assigned any in this step; else beats."""
    TASKS = 2
    """Attempts of tasks."""
    BEATS = 3
    """The counters of heartbeats."""


class OnInconclusive(OpenEnum):
    """What to do when a step of a rollout ends without a verdict."""

    UNSPECIFIED = 0
    """Same as PAUSE."""
    PAUSE = 1
    """Wait for an operator."""
    ROLLBACK = 2
    """Roll back."""
    PROMOTE = 3
    """Go on."""


class CallerKind(OpenEnum):
    """What kind of caller the daemon takes somebody for."""

    UNSPECIFIED = 0
    """Not a kind."""
    LOCAL_ADMIN = 1
    """Anybody on the daemon's machine: it authenticates nobody."""
    AGENT = 2
    """An agent, by its certificate."""
    USER = 3
    """A person or program, by an OIDC token."""
    API_TOKEN = 4
    """A program, by an API token."""
    WORKLOAD = 5
    """A workload whose certificate says who it is, but not that it is an agent."""


class NamespaceState(OpenEnum):
    """Where a namespace is in its life."""

    UNSPECIFIED = 0
    """Not a state."""
    ACTIVE = 1
    """In use."""
    TERMINATING = 2
    """Being removed: writes are refused."""


class AuditProblemKind(OpenEnum):
    """What is wrong with an audit."""

    UNSPECIFIED = 0
    """Nothing that this SDK knows."""
    ENTRY_ALTERED = 1
    """The entry is not the one that was sealed, or there is another one under its number."""
    ENTRY_MISSING = 2
    """The entry is not there."""
    SEAL_ALTERED = 3
    """The seal contradicts itself or the one before it."""
    SEAL_MISSING = 4
    """The seal is not there."""
    HEAD_DIFFERS = 5
    """The chain is whole, but is not the one whose head was expected."""
    UNKNOWN_KEY = 6
    """The seal was made with a key that the daemon does not have."""
    TRIM_UNPROVEN = 7
    """The audit begins later than with entry 1, and no entry says that it was trimmed."""
