"""A plane with tasks, on the memory store; tasks are assigned when the test says so."""

from collections.abc import Iterable
from typing import Any

from controlplane.domain.identity import Caller
from controlplane.domain.task_rules import Lease, assigned, taken_back
from controlplane.domain.tasks import Task, TaskReason, TaskSpec
from controlplane.services.ids import TimeSortedIds
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Ledger,
    RequestKey,
    Transaction,
)
from controlplane.services.tasks.data import TaskData
from controlplane.services.tasks.leases import TaskLeases
from controlplane.services.tasks.steps import slots_counter, task_steps
from controlplane.services.tasks.tasks import Submission, Tasks
from tests.fakes.plane import CALLER, NS, Plane

PIN_MS = 3_600_000
AUDIT = AuditEntry(actor="fleetplane", method="Test", object="tasks")
AGENT = Caller(name="agent")


class CountingLedger:
    """Counts calls; `before_commit` runs once, before the next commit."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner
        self.calls: list[str] = []
        self.before_commit: Any = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def counted(*args: Any) -> Any:
            if name == "commit" and self.before_commit is not None:
                intrude, self.before_commit = self.before_commit, None
                await intrude()
            self.calls.append(name)
            return await method(*args)

        return counted


class Bell:
    """An assigner that only remembers that it was woken."""

    def __init__(self) -> None:
        self.rung = 0

    def wake(self, namespace: str, made: Iterable[str] = ()) -> None:  # noqa: ARG002 - as the protocol
        assert namespace == NS
        self.rung += 1


class TaskPlane(Plane):
    """A plane whose memory lags until `follow`."""

    def __init__(self, *, max_waiting: int = 1_000) -> None:
        super().__init__(wrap=CountingLedger)
        self.assigner = Bell()
        self.data = TaskData(self.ledger)
        self.tasks = Tasks(
            self.ledger,
            self.read_model,
            TimeSortedIds(),
            self.data,
            self.assigner,
            self.clock,
            max_waiting=max_waiting,
        )
        self.leases = TaskLeases(
            self.ledger, self.read_model, self.assigner, self.clock, pin_ms=PIN_MS
        )

    @property
    def calls(self) -> list[str]:
        """Calls to the ledger since the last look."""
        ledger: Any = self.ledger
        calls, ledger.calls = ledger.calls, []
        return calls

    async def submit(self, payload: bytes = b"", *, follow: bool = True, **spec: Any) -> Task:
        """Submit a task for the agent `researcher`."""
        request = spec.pop("request", None)
        fields = {"agent_name": "researcher"} | spec
        submission = Submission(
            spec=TaskSpec(**fields), payload=payload, request=request and key(request)
        )
        task = await self.tasks.submit(NS, submission, caller=CALLER)
        if follow:
            await self.follow()
        return task

    async def stored(self, task_id: str) -> Task:
        """Return a task as the ledger has it."""
        (record,) = await self.ledger.read(NS, Collection.TASKS, (task_id,))
        assert record is not None
        task: Task = record.value
        return task

    async def write(self, before: Task, after: Task, **more: Any) -> Committed:
        """Commit a move of a task as the plane itself would."""
        steps = task_steps(before, after, **more)
        return await self.ledger.commit(Transaction(namespace=NS, steps=steps, audit=AUDIT))

    async def assign(
        self, task_id: str, instance_id: str = "i", agent_id: str = "a", *, slots: int = 1_000
    ) -> Lease:
        """Lease a waiting task to an instance; memory does not hear of it."""
        before = await self.stored(task_id)
        after = assigned(
            before,
            agent_id=agent_id,
            instance_id=instance_id,
            generation=1,
            now_ms=self.clock.store_ms(),
        )
        await self.write(before, after, slots=slots)
        return Lease(task_id=task_id, instance_id=instance_id, epoch=after.epoch)

    async def take_back(self, task_id: str, reason: TaskReason = TaskReason.LEASE_LOST) -> None:
        """End the lease of a task; memory does not hear of it."""
        before = await self.stored(task_id)
        await self.write(before, taken_back(before, reason, now_ms=self.clock.store_ms()))

    async def running(self, **spec: Any) -> Lease:
        """Submit a task and bring it to RUNNING on instance `i`, known to memory."""
        task = await self.submit(**spec)
        lease = await self.assign(task.task_id)
        await self.follow()
        await self.leases.accept(NS, lease, caller=AGENT)
        await self.follow()
        return lease

    async def complete(self, lease: Lease, result: bytes = b"") -> Task:
        """Complete a task under a lease."""
        return await self.leases.complete(NS, lease, result=result, caller=AGENT)

    async def fail(self, lease: Lease, **how: Any) -> Task:
        """Fail a task under a lease."""
        words: Any = {"detail": "boom", "permanent": False, "release": False} | how
        return await self.leases.fail(NS, lease, caller=AGENT, **words)

    async def slots(self, instance_id: str = "i") -> int:
        """Return how many slots of an instance are counted as taken."""
        (taken,) = await self.ledger.read_counts(NS, (slots_counter(instance_id),))
        return taken


def key(request_id: str, digest: str = "d") -> RequestKey:
    """Return a request key."""
    return RequestKey(request_id, digest)
