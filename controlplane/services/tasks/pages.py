"""Pages of tasks, newest first.

Whatever is asked for, all tasks of the namespace are looked at: there may be a million, kept for a
day. So the loop is let go in between; what is looked at is the state of one moment nevertheless,
because tasks are values and the list of them is taken at once.
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from controlplane.domain.tasks import Task, TaskState
from controlplane.services.ports import Position
from controlplane.services.read_model import NamespaceView

SLICE: Final = 4_000
"""Tasks looked at before other callers have a turn: about a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks; all conditions must hold, empty ones always do."""

    states: frozenset[TaskState] = frozenset()
    agent_name: str = ""
    """Wanted for, or held by, an agent of this name."""
    agent_id: str = ""
    """Held by this agent, or was when it ended."""
    instance_id: str = ""
    """Held by this process, or was when it ended."""
    submitter: str = ""
    session_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Some of the tasks of a namespace."""

    tasks: tuple[Task, ...]
    total: int
    """How many match in all."""
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    position: Position
    """What the page reflects."""


async def task_page(view: NamespaceView, wanted: TaskFilter, *, after: str, limit: int) -> TaskPage:
    """Return at most `limit` (1 or more) tasks that follow the cursor `after`, newest first."""
    position, everything = view.position, list(view.work.tasks.all.values())
    matches = _matcher(view, wanted)
    matching: list[Task] = []
    for start in range(0, len(everything), SLICE):
        if start:
            await asyncio.sleep(0)
        matching.extend(task for task in everything[start : start + SLICE] if matches(task))
    total = len(matching)
    if after:
        last = _order_of(after)
        matching = [task for task in matching if _order(task) < last]
    page = heapq.nlargest(limit, matching, key=_order)
    more = len(matching) > len(page)
    return TaskPage(
        tasks=tuple(page),
        total=total,
        next_cursor=f"{page[-1].created_at_ms} {page[-1].task_id}" if more else "",
        position=position,
    )


def _matcher(view: NamespaceView, wanted: TaskFilter) -> Callable[[Task], bool]:
    agent_ids = frozenset(view.ids_of_name.get(wanted.agent_name, ()))
    conditions: list[Callable[[Task], bool]] = []
    if wanted.states:
        conditions.append(lambda task: task.state in wanted.states)
    if wanted.agent_name:
        conditions.append(
            lambda task: task.spec.agent_name == wanted.agent_name or task.agent_id in agent_ids
        )
    if wanted.agent_id:
        conditions.append(lambda task: task.agent_id == wanted.agent_id)
    if wanted.instance_id:
        conditions.append(lambda task: task.instance_id == wanted.instance_id)
    if wanted.submitter:
        conditions.append(lambda task: task.spec.submitter == wanted.submitter)
    if wanted.session_id:
        conditions.append(lambda task: task.spec.session_id == wanted.session_id)
    return lambda task: all(condition(task) for condition in conditions)


def _order(task: Task) -> tuple[int, str]:
    return task.created_at_ms, task.task_id


def _order_of(cursor: str) -> tuple[int, str]:
    created_at_ms, _, task_id = cursor.partition(" ")
    return int(created_at_ms), task_id
