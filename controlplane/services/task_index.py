"""The tasks of a namespace in memory: by id, by holder, and those that wait, in order."""

from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from controlplane.domain.tasks import Task, TaskState

RECENT_OUTCOMES: Final = 500
"""Outcomes of attempts remembered per agent: the window of a rollout's baseline."""

_NONE: Final[Mapping[str, Task]] = MappingProxyType({})


class TaskIndex:
    """Patched by the follower, read by everybody else; belongs to one event loop."""

    def __init__(self) -> None:
        self.all: dict[str, Task] = {}
        """task_id -> task, terminal ones included until retention removes them."""
        self.waiting: dict[str, dict[str, Task]] = {}
        """submitter -> task_id -> PENDING task, in the order of submission."""
        self.by_session: dict[str, set[str]] = {}
        """session_id -> tasks that have not ended."""
        self._held: dict[str, dict[str, Task]] = {}
        self._of_agent: dict[str, dict[str, Task]] = {}
        self._outcomes: dict[str, deque[bool]] = {}

    def held_by(self, instance_id: str) -> Mapping[str, Task]:
        """Return the tasks whose lease an instance holds."""
        return self._held.get(instance_id, _NONE)

    def held_of_agent(self, agent_id: str) -> Mapping[str, Task]:
        """Return the tasks whose lease any instance of an agent holds."""
        return self._of_agent.get(agent_id, _NONE)

    def holders(self) -> Iterable[str]:
        """Return the instances that hold at least one lease."""
        return self._held.keys()

    def recent_outcomes(self, agent_id: str) -> tuple[int, int]:
        """Return (attempts, failed ones) among the newest outcomes of an agent, at most 500."""
        outcomes = self._outcomes.get(agent_id, ())
        return len(outcomes), sum(outcomes)

    def apply(self, task_id: str, task: Task | None) -> set[str]:
        """Bring one task to its newest state; return the instances whose leases changed."""
        before = self.all.get(task_id)
        instances: set[str] = set()
        if before is not None:
            self._leave(before)
            if before.state.is_held:
                instances.add(before.instance_id)
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
            queue = self.waiting.setdefault(task.spec.submitter, {})
            last = next(reversed(queue.values()), None)
            queue[task.task_id] = task
            if last is not None and _order(last) > _order(task):
                # A task that comes back keeps its place in the queue.
                self.waiting[task.spec.submitter] = dict(
                    sorted(queue.items(), key=lambda item: _order(item[1]))
                )
        elif task.state.is_held:
            self._held.setdefault(task.instance_id, {})[task.task_id] = task
            self._of_agent.setdefault(task.agent_id, {})[task.task_id] = task
        if task.spec.session_id and not task.state.is_terminal:
            self.by_session.setdefault(task.spec.session_id, set()).add(task.task_id)

    def _leave(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            _drop(self.waiting, task.spec.submitter, task.task_id)
        elif task.state.is_held:
            _drop(self._held, task.instance_id, task.task_id)
            _drop(self._of_agent, task.agent_id, task.task_id)
        sessions = self.by_session.get(task.spec.session_id)
        if sessions is not None:
            sessions.discard(task.task_id)
            if not sessions:
                del self.by_session[task.spec.session_id]

    def _note_outcomes(self, before: Task | None, task: Task) -> None:
        """Remember how attempts ended; states that were skipped between two patches too."""
        known = before.hop_count if before is not None else 0
        fresh = min(task.hop_count - known, len(task.hops))
        for hop in task.hops[len(task.hops) - fresh :] if fresh > 0 else ():
            verdict = attempt_failed(hop.started_at_ms, hop.reason)
            if verdict is not None:
                outcomes = self._outcomes.setdefault(hop.agent_id, deque(maxlen=RECENT_OUTCOMES))
                outcomes.append(verdict)


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


def _order(task: Task) -> tuple[int, str]:
    return task.created_at_ms, task.task_id


def _drop(table: dict[str, dict[str, Task]], key: str, task_id: str) -> None:
    tasks = table.get(key)
    if tasks is not None:
        tasks.pop(task_id, None)
        if not tasks:
            del table[key]
