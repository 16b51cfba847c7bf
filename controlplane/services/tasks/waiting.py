"""The tasks that wait: by whom they were submitted, by what they want, and in order.

Tasks of one submitter that want the same form a group. Whoever looks for work looks at the first
of each group, so that tasks nobody can take hide none that somebody can.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar

from controlplane.domain.tasks import Task
from controlplane.services.tasks.agenda import Agenda

CHUNK: Final = 512
"""Tasks in one piece of an ordered queue, up to twice as many: a change moves one piece only."""

RESUMED_AT_ONCE: Final = 1_000
"""Pauses ended in one call: a few milliseconds; the rest is due in the next."""

Order = tuple[int, str]
"""When a task was submitted (ms), and its id: its place in every queue."""

_Outer = TypeVar("_Outer")
_Inner = TypeVar("_Inner")

_first = itemgetter(0)


class Want(NamedTuple):
    """What a task asks of an agent."""

    agent_name: str
    """Empty: any name."""
    capabilities: tuple[str, ...]
    """Sorted, each once."""


def want_of(task: Task) -> Want:
    """Return what a task asks of an agent."""
    capabilities = task.spec.capabilities
    if len(capabilities) > 1:
        capabilities = tuple(sorted(set(capabilities)))
    return Want(task.spec.agent_name, capabilities)


def order_of(task: Task) -> Order:
    """Return the place of a task: a task that comes back keeps it."""
    return task.created_at_ms, task.task_id


class OrderedTasks:
    """Tasks by `order_of`. A change costs O(log n) and moves at most one piece."""

    __slots__ = ("_pieces", "_tasks")

    def __init__(self) -> None:
        self._pieces: list[list[Order]] = []
        """None is empty."""
        self._tasks: dict[str, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def __iter__(self) -> Iterator[Task]:
        return (self._tasks[task_id] for piece in self._pieces for _, task_id in piece)

    def add(self, task: Task) -> None:
        """Add a task that is not there."""
        self._tasks[task.task_id] = task
        order = order_of(task)
        if not self._pieces:
            self._pieces.append([order])
            return
        index = self._piece_of(order)
        piece = self._pieces[index]
        insort(piece, order)
        if len(piece) > 2 * CHUNK:
            self._pieces[index : index + 1] = [piece[:CHUNK], piece[CHUNK:]]

    def remove(self, task: Task) -> None:
        """Remove a task that is there."""
        del self._tasks[task.task_id]
        order = order_of(task)
        index = self._piece_of(order)
        piece = self._pieces[index]
        del piece[bisect_left(piece, order)]
        if not piece:
            del self._pieces[index]

    def get(self, task_id: str) -> Task | None:
        """Return a task that is there, or None."""
        return self._tasks.get(task_id)

    def after(self, order: Order | None) -> Task | None:
        """Return the first task behind a place (None: of all); None if there is none."""
        if not self._pieces:
            return None
        if order is None:
            return self._tasks[self._pieces[0][0][1]]
        index = self._piece_of(order)
        place = bisect_right(self._pieces[index], order)
        if place == len(self._pieces[index]):
            index, place = index + 1, 0
        if index == len(self._pieces):
            return None
        return self._tasks[self._pieces[index][place][1]]

    def _piece_of(self, order: Order) -> int:
        return max(bisect_right(self._pieces, order, key=_first) - 1, 0)


class WaitingGroup:
    """Tasks of one submitter that want the same."""

    __slots__ = ("paused", "ready")

    def __init__(self) -> None:
        self.ready = OrderedTasks()
        """May be assigned."""
        self.paused: dict[str, Task] = {}
        """task_id -> task that waits for its next attempt."""

    def __len__(self) -> int:
        return len(self.ready) + len(self.paused)

    def tasks(self) -> Iterator[Task]:
        """Return all: those that may be assigned in order, then those that pause."""
        yield from self.ready
        yield from self.paused.values()


class WaitingTasks:
    """All PENDING tasks of a namespace."""

    def __init__(self) -> None:
        self.by_submitter: dict[str, dict[Want, WaitingGroup]] = {}
        """submitter -> want -> group; whose turn it is comes first, see `served`."""
        self.by_want: dict[Want, dict[str, WaitingGroup]] = {}
        """want -> submitter -> the same group."""
        self.wants_version = 0
        """Grows when something is wanted that nobody wanted before."""
        self._pauses = Agenda()
        self._paused: dict[str, Task] = {}
        self._size = 0

    def __len__(self) -> int:
        """Return how many tasks wait, those that pause between two attempts included."""
        return self._size

    def add(self, task: Task) -> None:
        """Add a PENDING task that is not there."""
        group = self._group_for(want_of(task), task.spec.submitter)
        if task.not_before_ms:
            group.paused[task.task_id] = self._paused[task.task_id] = task
            self._pauses.put(task.task_id, task.not_before_ms)
        else:
            group.ready.add(task)
        self._size += 1

    def remove(self, task: Task) -> None:
        """Remove a task as it was added."""
        want, submitter = want_of(task), task.spec.submitter
        group = self.by_want[want][submitter]
        if task.task_id in group.ready:
            group.ready.remove(task)
        else:
            del group.paused[task.task_id]
            del self._paused[task.task_id]
            self._pauses.drop(task.task_id)
        self._size -= 1
        if not len(group):
            _drop(self.by_want, want, submitter)
            _drop(self.by_submitter, submitter, want)

    def resume(self, now_ms: int) -> int:
        """Let tasks whose pause is over be assigned; return how many. Bounded."""
        due = self._pauses.due(now_ms, RESUMED_AT_ONCE)
        for task_id in due:
            task = self._paused.pop(task_id)
            self._pauses.drop(task_id)
            group = self.by_want[want_of(task)][task.spec.submitter]
            del group.paused[task_id]
            group.ready.add(task)
        return len(due)

    def served(self, submitter: str) -> None:
        """Put a submitter behind all others: it has had its turn."""
        groups = self.by_submitter.pop(submitter, None)
        if groups is not None:
            self.by_submitter[submitter] = groups

    def put_off(self, submitter: str, want: Want) -> None:
        """Put a group behind all others of its submitter: nobody can take its tasks."""
        groups = self.by_submitter.get(submitter, {})
        group = groups.pop(want, None)
        if group is not None:
            groups[want] = group

    def _group_for(self, want: Want, submitter: str) -> WaitingGroup:
        groups = self.by_want.get(want)
        if groups is None:
            groups = self.by_want[want] = {}
            self.wants_version += 1
        group = groups.get(submitter)
        if group is None:
            group = groups[submitter] = WaitingGroup()
            self.by_submitter.setdefault(submitter, {})[want] = group
        return group


def _drop(table: dict[_Outer, dict[_Inner, WaitingGroup]], key: _Outer, inner: _Inner) -> None:
    groups = table[key]
    del groups[inner]
    if not groups:
        del table[key]
