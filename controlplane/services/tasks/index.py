"""The tasks of a namespace in memory: by id, by holder, those that wait, and what is due when.

A change costs O(log n), wherever the task stands: nobody ever has to look at all of them.
"""

from collections.abc import Iterable, Mapping
from heapq import heappush, heappushpop
from types import MappingProxyType
from typing import Final

from controlplane.domain.tasks import Hop, Task, TaskState
from controlplane.services.tasks.agenda import Agenda
from controlplane.services.tasks.waiting import WaitingTasks

RECENT_OUTCOMES: Final = 500
"""Outcomes of attempts remembered per agent: the window of a rollout's baseline."""

_NONE: Final[Mapping[str, Task]] = MappingProxyType({})


class TaskIndex:
    """Patched by the follower, read by everybody else; belongs to one event loop."""

    def __init__(self) -> None:
        self.all: dict[str, Task] = {}
        """task_id -> task, terminal ones included until retention removes them."""
        self.waiting = WaitingTasks()
        """The PENDING ones."""
        self.by_session: dict[str, set[str]] = {}
        """session_id -> tasks that have not ended."""
        self.limits = Agenda()
        """When a task that has not ended passes its deadline, or the limit of its attempt."""
        self.unaccepted = Agenda()
        """When each ASSIGNED task was assigned."""
        self.ended = Agenda()
        """When each task that has ended did so."""
        self._held: dict[str, dict[str, Task]] = {}
        self._of_agent: dict[str, dict[str, Task]] = {}
        self._outcomes: dict[str, _Outcomes] = {}

    def held_by(self, instance_id: str) -> Mapping[str, Task]:
        """Return the tasks whose lease an instance holds."""
        return self._held.get(instance_id, _NONE)

    def held_of_agent(self, agent_id: str) -> Mapping[str, Task]:
        """Return the tasks whose lease any instance of an agent holds."""
        return self._of_agent.get(agent_id, _NONE)

    def holders(self) -> Iterable[str]:
        """Return the instances that hold at least one lease."""
        return self._held.keys()

    def holding_agents(self) -> Iterable[str]:
        """Return the agents of which an instance holds at least one lease."""
        return self._of_agent.keys()

    def recent_outcomes(self, agent_id: str) -> tuple[int, int]:
        """Return (attempts, failed ones) among the newest outcomes of an agent, at most 500."""
        outcomes = self._outcomes.get(agent_id)
        return (0, 0) if outcomes is None else (len(outcomes), outcomes.failed)

    def apply(self, task_id: str, task: Task | None) -> set[str]:
        """Bring one task to its newest state; return the instances whose leases changed."""
        before = self.all.get(task_id)
        instances: set[str] = set()
        if before is not None:
            self._leave(before)
            if before.state.is_held:
                instances.add(before.instance_id)
        self._schedule(task_id, task)
        if task is None:
            self.all.pop(task_id, None)
            return instances
        self.all[task_id] = task
        self._enter(task)
        if task.state.is_held:
            instances.add(task.instance_id)
        self._note_outcomes(before, task)
        return instances

    def _enter(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            self.waiting.add(task)
        elif task.state.is_held:
            self._held.setdefault(task.instance_id, {})[task.task_id] = task
            self._of_agent.setdefault(task.agent_id, {})[task.task_id] = task
        if task.spec.session_id and not task.state.is_terminal:
            self.by_session.setdefault(task.spec.session_id, set()).add(task.task_id)

    def _leave(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            self.waiting.remove(task)
        elif task.state.is_held:
            _drop(self._held, task.instance_id, task.task_id)
            _drop(self._of_agent, task.agent_id, task.task_id)
        sessions = self.by_session.get(task.spec.session_id)
        if sessions is not None:
            sessions.discard(task.task_id)
            if not sessions:
                del self.by_session[task.spec.session_id]

    def _schedule(self, task_id: str, task: Task | None) -> None:
        """Note when the task is to be looked at; a moment that stays costs next to nothing."""
        assigned = task is not None and task.state is TaskState.ASSIGNED
        ended = task is not None and task.state.is_terminal
        _put(self.limits, task_id, limit_of(task) if task is not None else 0)
        _put(self.unaccepted, task_id, task.assigned_at_ms if task is not None and assigned else 0)
        _put(self.ended, task_id, task.ended_at_ms if task is not None and ended else 0)

    def _note_outcomes(self, before: Task | None, task: Task) -> None:
        """Remember how attempts ended; states that were skipped between two patches too."""
        known = before.hop_count if before is not None else 0
        fresh = min(task.hop_count - known, len(task.hops))
        for hop in task.hops[len(task.hops) - fresh :] if fresh > 0 else ():
            verdict = attempt_failed(hop.started_at_ms, hop.reason)
            if verdict is not None:
                outcomes = self._outcomes.get(hop.agent_id)
                if outcomes is None:
                    outcomes = self._outcomes[hop.agent_id] = _Outcomes()
                outcomes.note(task.task_id, hop, failed=verdict)


class _Outcomes:
    """The newest outcomes of one agent, in whatever order they become known.

    A full load brings tasks in no order, each with everything that ever happened to it.
    """

    __slots__ = ("_newest", "failed")

    def __init__(self) -> None:
        self.failed = 0
        """How many of them are failures."""
        self._newest: list[tuple[int, str, int, bool]] = []
        """A heap: (when, task_id, epoch, failed), the oldest on top."""

    def __len__(self) -> int:
        return len(self._newest)

    def note(self, task_id: str, hop: Hop, *, failed: bool) -> None:
        """Take one in; the oldest goes when there are too many."""
        outcome = (hop.ended_at_ms, task_id, hop.epoch, failed)
        self.failed += failed
        if len(self._newest) < RECENT_OUTCOMES:
            heappush(self._newest, outcome)
        else:
            self.failed -= heappushpop(self._newest, outcome)[3]


def limit_of(task: Task) -> int:
    """Return when a task has to have ended, or its attempt (ms); 0: never."""
    if task.state.is_terminal:
        return 0
    attempt_ms = task.spec.attempt_timeout_ms
    if attempt_ms and task.state is TaskState.RUNNING:
        limit = task.started_at_ms + attempt_ms
        return min(limit, task.deadline_at_ms) if task.deadline_at_ms else limit
    return task.deadline_at_ms


def attempt_failed(started_at_ms: int, reason: str) -> bool | None:
    """Return whether a lease that ended counts against the agent; None: it says nothing of it."""
    if not started_at_ms:
        return None
    if not reason:
        return False
    return True if reason in _FAULTS else None


_FAULTS: Final = frozenset(
    {
        "AGENT_FAILED",
        "AGENT_REFUSED",
        "ATTEMPTS_EXHAUSTED",
        "ATTEMPT_TIMEOUT",
        "DEADLINE_EXCEEDED",
        "LEASE_LOST",
    }
)
"""`TaskReason`s of accepted leases that speak against the agent."""


def _put(agenda: Agenda, task_id: str, at_ms: int) -> None:
    if at_ms:
        agenda.put(task_id, at_ms)
    else:
        agenda.drop(task_id)


def _drop(table: dict[str, dict[str, Task]], key: str, task_id: str) -> None:
    tasks = table.get(key)
    if tasks is not None:
        tasks.pop(task_id, None)
        if not tasks:
            del table[key]
