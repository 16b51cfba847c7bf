"""The core of FollowTasks: each task in its newest state, after every change, until all have ended.

Subscribe first, then read, then wait, so that no change falls between. While a follower is busy
several changes become one; the hops of a task still name every lease that came and went.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final

from controlplane.domain.tasks import Task
from controlplane.domain.work_refusals import (
    TaskNotFound,
)
from controlplane.services.hub import Subscription, task_topic
from controlplane.services.ports import Collection, Ledger, Position
from controlplane.services.read_model import ReadModel

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a follower is told how far it is: below the 30 s of keepalive proxies."""


async def follow_tasks(
    ledger: Ledger,
    read_model: ReadModel,
    namespace: str,
    task_ids: Sequence[str],
    *,
    bookmark_seconds: float = BOOKMARK_SECONDS,
) -> AsyncGenerator[Task | Position, None]:
    """Yield the tasks as they are, then each after a change, until all have ended.

    A position is yielded after `bookmark_seconds` of silence. A task that is removed meanwhile is
    not followed any longer: it had ended.

    Raises:
        TaskNotFound: naming the first task that does not exist, before anything is yielded.
        NotReady: this replica is too far behind to know them.
    """
    following = {task_topic(namespace, task_id): task_id for task_id in task_ids}
    sent: dict[str, int] = {}
    with read_model.hub.subscribe(following) as news:
        await _learn_of(ledger, read_model, namespace, task_ids)
        topics: Iterable[str] = tuple(following)
        while True:
            for topic in topics:
                task_id = following.get(topic, "")
                task = read_model.view(namespace).work.tasks.all.get(task_id)
                if task is None or task.state.is_terminal:
                    following.pop(topic, None)
                if task is not None and sent.get(task_id) != task.revision:
                    sent[task_id] = task.revision
                    yield task
            if not following:
                return
            topics = await _next_topics(news, bookmark_seconds)
            if not topics:
                yield read_model.view(namespace).position


async def _learn_of(
    ledger: Ledger, read_model: ReadModel, namespace: str, task_ids: Sequence[str]
) -> None:
    """Wait until this replica knows all tasks; those submitted elsewhere may be news to it."""
    known = read_model.view(namespace).work.tasks.all
    unknown = [task_id for task_id in task_ids if task_id not in known]
    if not unknown:
        return
    newest = 0
    records = await ledger.read(namespace, Collection.TASKS, unknown)
    for task_id, record in zip(unknown, records, strict=True):
        if record is None:
            raise TaskNotFound(task_id)
        newest = max(newest, record.revision)
    await read_model.at_least(namespace, newest)


async def _next_topics(news: Subscription, seconds: float) -> set[str]:
    """Return the topics that changed; none after so much silence."""
    try:
        async with asyncio.timeout(seconds):
            return await news.wait()
    except TimeoutError:
        return set()
