"""Tasks: small, durable pieces of work that the plane assigns to instances and never runs twice.

    PENDING --assign--> ASSIGNED --accept--> RUNNING --complete--> SUCCEEDED
       ^                   |                    |----fail--------> FAILED (dead letter)
       '---requeue---------'--------------------'
    CANCELLED and FAILED from every state that is not terminal.

Each assignment opens a lease with a new epoch. Whoever writes about a task names the epoch he
holds; an older one is fenced. Values only; the rules are in `task_rules`.
"""

from dataclasses import dataclass
from enum import StrEnum

MAX_HOPS = 16
"""Hops kept on a task, the newest; `hop_count` counts them all."""


class TaskState(StrEnum):
    """Where a task is in its life."""

    PENDING = "PENDING"
    """Waits for an instance with a free slot."""
    ASSIGNED = "ASSIGNED"
    """Leased to an instance that has not accepted it yet."""
    RUNNING = "RUNNING"
    """Accepted: an instance works on it."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    """The dead letter: it failed for good, `reason` says why."""
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows."""
        return self in _TERMINAL

    @property
    def is_held(self) -> bool:
        """Whether an instance holds its lease, and a slot."""
        return self is TaskState.ASSIGNED or self is TaskState.RUNNING


_TERMINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})


class TaskReason(StrEnum):
    """Why a task is where it is, or why a hop ended."""

    NONE = ""
    AGENT_FAILED = "AGENT_FAILED"
    """The agent reported a failure that a retry may mend."""
    AGENT_REFUSED = "AGENT_REFUSED"
    """The agent reported a failure that no retry mends."""
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    """The last attempt failed or was lost."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    ATTEMPT_TIMEOUT = "ATTEMPT_TIMEOUT"
    """One attempt took longer than its limit."""
    LEASE_LOST = "LEASE_LOST"
    """The instance fell silent, left, or was replaced by a newer process."""
    NOT_ACCEPTED = "NOT_ACCEPTED"
    """The instance did not accept in time."""
    RELEASED = "RELEASED"
    """The instance gave it back unharmed, for example because it shuts down."""
    DRAINED = "DRAINED"
    """A drain reached its deadline."""
    DEACTIVATED = "DEACTIVATED"
    """Its agent was deactivated or stopped."""
    NO_AGENT = "NO_AGENT"
    """Its agent was deactivated and no other active agent has the capabilities."""
    CANCELLED = "CANCELLED"


class DrainAction(StrEnum):
    """What becomes of a running task when a drain reaches its deadline: its class."""

    REQUEUE = "REQUEUE"
    """It may be started again: another instance takes it from its last checkpoint. The default."""
    FAIL = "FAIL"
    """It must not be started twice: it fails with DRAINED."""
    EXTEND = "EXTEND"
    """It must finish: the drain waits for it, up to `MAX_EXTENSION` or the task's deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One lease of a task, once it has ended."""

    epoch: int
    agent_id: str
    instance_id: str
    assigned_at_ms: int
    started_at_ms: int
    """0: never accepted."""
    ended_at_ms: int
    reason: TaskReason
    """Why it ended."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What the submitter asks for; limits are in `task_rules.validate_spec`."""

    kind: str = ""
    """Which handler is meant, such as `summarize`; a word between submitter and agent."""
    agent_name: str = ""
    """Name of the agent that must take it; empty: any with the capabilities."""
    capabilities: tuple[str, ...] = ()
    session_id: str = ""
    """Tasks of one session stay with one version of an agent."""
    submitter: str = ""
    """On whose behalf: waiting tasks are assigned in turn between submitters."""
    max_attempts: int = 3
    deadline_ms: int = 0
    """Longest from submission to a terminal state; 0: none."""
    attempt_timeout_ms: int = 0
    """Longest from acceptance to the end of one attempt; 0: none."""
    on_drain: DrainAction = DrainAction.REQUEUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task, without its payload, checkpoint and result: those are data, read when needed.

    Times are milliseconds on the store's clock; 0 for what has not happened.
    """

    task_id: str
    spec: TaskSpec
    payload_bytes: int = 0
    state: TaskState = TaskState.PENDING
    reason: TaskReason = TaskReason.NONE
    detail: str = ""
    """In words; what the agent said about a failure."""
    attempts: int = 0
    """Attempts that count against `max_attempts`: accepted ones, but those released or drained."""
    epoch: int = 0
    """Epoch of the current or last lease; grows with every assignment, cancellation and requeue."""
    agent_id: str = ""
    """Who holds it, or did when it ended."""
    instance_id: str = ""
    instance_generation: int = 0
    assigned_at_ms: int = 0
    started_at_ms: int = 0
    """When the current or last attempt was accepted."""
    not_before_ms: int = 0
    """It is not assigned before: the pause between attempts."""
    deadline_at_ms: int = 0
    """0: none."""
    cohort: str = ""
    """Step of a rollout that the current attempt counts for; see `routes.Route.cohort`."""
    progress: float = 0.0
    """Share that is done, 0-1, as the agent says."""
    progress_message: str = ""
    checkpoint_bytes: int = 0
    """0: there is no checkpoint."""
    result_bytes: int = 0
    hops: tuple[Hop, ...] = ()
    hop_count: int = 0
    ended_at_ms: int = 0
    revision: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStream:
    """An instance takes tasks: it has, or is about to have again, a WatchTasks stream."""

    instance_id: str
    agent_id: str
    generation_of_instance: int
    stream_id: str
    """The newest stream of the instance; only its end closes the record."""
    revision: int = 0
