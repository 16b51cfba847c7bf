"""The core of WatchTasks: every lease of an instance to its process, once per stream, and its end.

An open stream is a record, TaskStream: it says that the instance takes tasks, whichever replica it
is connected to. Opening another one replaces it, and the older stream ends quietly. A stream that
the server ends leaves the record, for the client comes back at once; one whose client went away
takes it along.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from controlplane.domain.errors import InstanceFenced, InstanceNotFound, StoreUnavailable
from controlplane.domain.tasks import Task, TaskReason, TaskState, TaskStream
from controlplane.services.families import PLANE, caught_up
from controlplane.services.hub import Subscription, agent_topic, instance_tasks_topic
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Delete,
    Expect,
    IdSource,
    Ledger,
    Position,
    Put,
    Require,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.tasks.change import Assigner
from controlplane.services.tasks.data import TaskData

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""

READS_AT_ONCE: Final = 32
"""Tasks whose data is read side by side: the store answers them in one round trip, and at 512 KiB
each they are 16 MiB at most."""

MAX_ROUNDS: Final = 5
"""Rounds of opening a stream while the instance registers again; each loses to a newer process."""

REMOVED_AT_ONCE: Final = 500
"""Records of streams removed in one call: 2,000 per second, and a few milliseconds each time."""

_METHOD: Final = "WatchTasks"

_OWN_WORD: Final = frozenset(
    {
        TaskReason.NONE,
        TaskReason.AGENT_FAILED,
        TaskReason.AGENT_REFUSED,
        TaskReason.RELEASED,
    }
)
"""Ends of a lease that its holder has asked for: no news to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A task for the instance."""

    task: Task
    payload: bytes
    checkpoint: bytes
    """The last one of an earlier attempt; empty if there is none."""
    resumed: bool
    """The instance has accepted this lease before, on an earlier stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A lease that has ended without a word of the instance."""

    task_id: str
    epoch: int
    reason: TaskReason


@dataclass(slots=True)
class _Stream:
    """One open stream, and what was sent on it."""

    namespace: str
    instance_id: str
    generation: int
    stream_id: str
    revision: int = 0
    """Of the record; 0: it was not written yet, as far as we know."""
    epoch: str = ""
    """Of the history in which the record was seen; empty: it was not seen here yet."""
    sent: dict[str, int] = field(default_factory=dict)
    """task_id -> epoch of the leases that the client knows of."""
    named_all: bool = False
    """Whether the client was told that nothing is missing."""

    def is_over(self, view: NamespaceView) -> bool:
        """Whether another stream has taken over, or the record is gone.

        Raises:
            InstanceNotFound: the instance has left.
            InstanceFenced: a newer process has taken over.
        """
        if self.epoch and self.epoch != view.position.epoch:
            return True  # Another history, in which this stream may never have been opened.
        if not self.epoch and view.position.revision < self.revision:
            return False
        self.epoch = view.position.epoch
        live = view.instances.get(self.instance_id)
        if live is None:
            raise InstanceNotFound(self.instance_id)
        if live.instance.generation != self.generation:
            current = live.instance.generation
            raise InstanceFenced(self.instance_id, generation=self.generation, current=current)
        record = view.work.task_streams.get(self.instance_id)
        return record is None or record.stream_id != self.stream_id

    def due(self, view: NamespaceView) -> list[Task]:
        """Return the leases that the client does not know of, oldest first."""
        held = view.work.tasks.held_by(self.instance_id).values()
        due = [task for task in held if self._is_news(task)]
        due.sort(key=lambda task: (task.assigned_at_ms, task.task_id))
        return due

    def current(self, view: NamespaceView, seen: Task) -> Task | None:
        """Return a lease as it is now; None if it has ended."""
        task = view.work.tasks.held_by(self.instance_id).get(seen.task_id)
        return task if task is not None and task.epoch == seen.epoch else None

    def take_revoked(self, view: NamespaceView) -> list[Revocation]:
        """Forget the leases that have ended; return those that the client did not end."""
        tasks = view.work.tasks
        held = tasks.held_by(self.instance_id)
        revoked: list[Revocation] = []
        for task_id, epoch in list(self.sent.items()):
            task = held.get(task_id)
            if task is not None and task.epoch == epoch:
                continue
            del self.sent[task_id]
            reason = _end_of(tasks.all.get(task_id), epoch)
            if reason not in _OWN_WORD:
                revoked.append(Revocation(task_id=task_id, epoch=epoch, reason=reason))
        return revoked

    def names_all(self) -> bool:
        """Whether the client is to be told now, once, that every lease it holds was sent.

        To be called when none is due. Not before the record is seen here: whatever was leased
        before the stream was opened is seen by then, too.
        """
        if self.named_all or not self.epoch:
            return False
        self.named_all = True
        return True

    def _is_news(self, task: Task) -> bool:
        ours = task.instance_generation == self.generation
        return ours and self.sent.get(task.task_id) != task.epoch


class TaskDelivery:
    """Serves task streams. Belongs to one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        data: TaskData,
        ids: IdSource,
        *,
        assigner: Assigner | None = None,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> None:
        """Serve what `read_model` shows, with the data that `data` reads.

        `ledger` takes the records of streams. `assigner` is woken when one opens; without it the
        instance is found by the next sweep, some 300 ms later.
        """
        self._ledger = ledger
        self._read_model = read_model
        self._data = data
        self._ids = ids
        self._assigner = assigner
        self._bookmark_seconds = bookmark_seconds
        self._left: deque[_Stream] = deque()

    async def deliver(
        self, namespace: str, instance_id: str, generation: int
    ) -> AsyncGenerator[Assignment | Revocation | Position, None]:
        """Yield the leases of an instance as they come and go; a position after 15 s of silence.

        First every lease that it holds, oldest first, then a position: a lease that the client had
        before and that was not among them has ended. The stream ends when a newer one of the
        instance is opened, or when its record is removed. If it is cancelled (CancelledError) the
        client has gone, and the record is removed by `remove_left`; if it is closed in any other
        way the client will be back, and the record stays.

        Raises:
            InstanceNotFound: there is no such instance, or it has left.
            InstanceFenced: the instance has another generation: a newer process took over.
            StoreUnavailable: the store does not answer; open another stream.
            NotReady: nothing is loaded yet.
        """
        stream = _Stream(
            namespace=namespace,
            instance_id=instance_id,
            generation=generation,
            stream_id=self._ids.new_id("str"),
        )
        topic = instance_tasks_topic(namespace, instance_id)
        with self._read_model.hub.subscribe((topic,)) as news:
            try:
                agent_id = await self._open(stream)
                self._read_model.hub.extend(news, (agent_topic(namespace, agent_id),))
                while not stream.is_over(self._read_model.view(namespace)):
                    for revocation in stream.take_revoked(self._read_model.view(namespace)):
                        yield revocation
                    due = stream.due(self._read_model.view(namespace))[:READS_AT_ONCE]
                    for assignment in await self._with_data(namespace, due):
                        task = stream.current(self._read_model.view(namespace), assignment.task)
                        if task is not None:
                            stream.sent[task.task_id] = task.epoch
                            yield replace(
                                assignment, task=task, resumed=task.state is TaskState.RUNNING
                            )
                    if due:
                        continue
                    if stream.names_all() or not await _news_within(news, self._bookmark_seconds):
                        yield self._read_model.view(namespace).position
            except asyncio.CancelledError:
                self._left.append(stream)
                raise

    async def remove_left(self) -> int:
        """Remove the records of streams whose clients went away; return how many there were.

        At most `REMOVED_AT_ONCE`, in two round trips: a whole fleet may go away in one moment. More
        are left for the next call.

        Raises:
            StoreUnavailable: the store does not answer; call again.
        """
        some = list(islice(self._left, REMOVED_AT_ONCE))
        closing: list[Transaction] = []
        for namespace in dict.fromkeys(stream.namespace for stream in some):
            left = {one.stream_id: one for one in some if one.namespace == namespace}
            names = list(dict.fromkeys(one.instance_id for one in left.values()))
            records = await self._ledger.read(namespace, Collection.TASK_STREAMS, names)
            closing += [
                _closing(left[record.value.stream_id], record.revision)
                for record in records
                if record is not None and record.value.stream_id in left
            ]
        results = await self._ledger.commit_many(closing) if closing else []
        for result in results:
            if not isinstance(result, Committed | ConditionFailed):
                raise result
        for _ in some:
            self._left.popleft()
        # Where the condition failed, a newer stream has taken over.
        return sum(isinstance(result, Committed) for result in results)

    async def _open(self, stream: _Stream) -> str:
        """Write the record of a stream; return the agent of its instance."""
        namespace, instance_id = stream.namespace, stream.instance_id
        for _ in range(MAX_ROUNDS):
            (record,) = await self._ledger.read(namespace, Collection.INSTANCES, (instance_id,))
            if record is None:
                raise InstanceNotFound(instance_id)
            current = record.value.generation
            if current != stream.generation:
                raise InstanceFenced(instance_id, generation=stream.generation, current=current)
            agent_id: str = record.value.agent_id
            try:
                committed = await self._ledger.commit(_opening(stream, agent_id))
            except ConditionFailed:
                continue  # It has registered anew, or has left, since it was read.
            stream.revision = committed.revision
            await caught_up(self._read_model, namespace, committed.revision)
            if self._assigner is not None:
                self._assigner.wake(namespace)
            return agent_id
        raise StoreUnavailable("too many processes register this instance at once")

    async def _with_data(self, namespace: str, tasks: Sequence[Task]) -> list[Assignment]:
        """Return assignments with what the tasks carry, read side by side."""
        if not tasks:
            return []
        reads = (self._assignment(namespace, task) for task in tasks)
        results = await asyncio.gather(*reads, return_exceptions=True)
        assignments: list[Assignment] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            assignments.append(result)
        return assignments

    async def _assignment(self, namespace: str, task: Task) -> Assignment:
        payload = checkpoint = b""
        if task.payload_bytes:
            payload = await self._data.payload(namespace, task.task_id)
        if task.checkpoint_bytes:
            checkpoint = await self._data.checkpoint(namespace, task.task_id)
        return Assignment(task=task, payload=payload, checkpoint=checkpoint, resumed=False)


async def _news_within(news: Subscription, seconds: float) -> bool:
    """Wait for news; return whether there were any."""
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True


def _end_of(task: Task | None, epoch: int) -> TaskReason:
    """Return why the lease of that epoch ended."""
    if task is None:
        return TaskReason.NONE  # Long ago: it is not even kept any more.
    for hop in reversed(task.hops):
        if hop.epoch == epoch:
            return hop.reason
    return TaskReason.LEASE_LOST  # So many leases ago that its hop was dropped.


def _opening(stream: _Stream, agent_id: str) -> Transaction:
    """Return the commit that opens a stream of the process that asks for it, and no other."""
    instance_id = stream.instance_id
    record = TaskStream(
        instance_id=instance_id,
        agent_id=agent_id,
        generation_of_instance=stream.generation,
        stream_id=stream.stream_id,
    )
    same_process = Expect(generation=stream.generation)
    return Transaction(
        namespace=stream.namespace,
        steps=(
            Require(Collection.INSTANCES, instance_id, same_process),
            Put(Collection.TASK_STREAMS, instance_id, record),
        ),
        audit=_audit(stream, "opened"),
    )


def _closing(stream: _Stream, revision: int) -> Transaction:
    """Return the commit that removes the record at that revision."""
    step = Delete(Collection.TASK_STREAMS, stream.instance_id, Expect(revision=revision))
    return Transaction(namespace=stream.namespace, steps=(step,), audit=_audit(stream, "closed"))


def _audit(stream: _Stream, what: str) -> AuditEntry:
    return AuditEntry(
        actor=PLANE,
        method=_METHOD,
        object=f"instances/{stream.instance_id}",
        reason=f"task stream {what}",
        details={"stream_id": stream.stream_id, "generation": str(stream.generation)},
    )
