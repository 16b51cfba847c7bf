"""A fleet that takes tasks, with replicas over one memory store that follow when told to."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from controlplane.domain.agents import Agent, AgentSpec, AgentStatus, Instance, InstanceState
from controlplane.domain.identity import Caller
from controlplane.domain.task_rules import Lease
from controlplane.domain.tasks import Task, TaskSpec, TaskState, TaskStream
from controlplane.services.hub import Hub
from controlplane.services.ids import TimeSortedIds
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Delete,
    Ledger,
    Put,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.tasks.assignment import TaskAssigner
from controlplane.services.tasks.data import TaskData
from controlplane.services.tasks.delivery import TaskDelivery
from controlplane.services.tasks.leases import TaskLeases
from controlplane.services.tasks.recovery import TaskRecovery
from controlplane.services.tasks.steps import slots_counter, task_steps
from controlplane.services.tasks.tasks import Submission, Tasks
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore
from tests.fakes.clock import FakeClock

NS = "default"
ADA = Caller(name="ada")
AGENT = Caller(name="agent")
ACCEPT_MS = 10_000
RETENTION_MS = 60_000
PIN_MS = 600_000


class WorkReplica:
    """One replica. Its copy follows when told to, and at once for its own commits."""

    def __init__(self, store: MemoryStore, wrap: Callable[[Ledger], Ledger]) -> None:
        assert isinstance(store.clock, FakeClock)
        clock = self.clock = store.clock
        self.ledger = wrap(MemoryLedger(store))
        self.feed = MemoryChangeFeed(store)
        self.read_model = ReadModel(Hub())
        self.read_model.ready = True
        self.read_model.swap(self.read_model.new_view(NS))
        visible = self.visible = VisibleLedger(
            self.ledger, self.read_model, lambda _: self.follow_now()
        )
        ids = TimeSortedIds()
        self.data = TaskData(self.ledger)
        self.assigner = TaskAssigner(self.ledger, self.read_model, clock)
        self.recovery = TaskRecovery(
            visible,
            self.read_model,
            self.assigner,
            clock,
            accept_ms=ACCEPT_MS,
            retention_ms=RETENTION_MS,
            pin_ms=PIN_MS,
        )
        self.delivery = TaskDelivery(
            visible, self.read_model, self.data, ids, assigner=self.assigner
        )
        self.tasks = Tasks(
            visible, self.read_model, ids, self.data, self.assigner, clock, max_waiting=100_000
        )
        self.leases = TaskLeases(visible, self.read_model, self.assigner, clock, pin_ms=PIN_MS)

    @property
    def view(self) -> NamespaceView:
        return self.read_model.view(NS)

    def follow_now(self) -> None:
        """Bring the copy up to date without an await: the memory store never waits."""
        coroutine = self.follow()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the memory store waited")

    async def follow(self) -> NamespaceView:
        """Bring the copy up to date."""
        more = True
        while more:
            news = await self.feed.catch_up(NS, self.view.position)
            assert not news.resync
            self.read_model.patch(NS, news.touched, news.position)
            more = news.more
        return self.view

    async def assign(self) -> int:
        """Follow, assign, follow."""
        await self.follow()
        done = await self.assigner.assign(NS)
        await self.follow()
        return done

    async def sweep(self) -> int:
        """Follow, sweep, follow."""
        await self.follow()
        moved = await self.recovery.sweep(NS)
        await self.follow()
        return moved


class WorkFleet:
    """A store, its replicas, and agents that only exist as records."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.admin = MemoryLedger(self.store)
        self.replicas: list[WorkReplica] = []
        self.one = self.add_replica()

    def add_replica(self, wrap: Callable[[Ledger], Ledger] = lambda one: one) -> WorkReplica:
        replica = WorkReplica(self.store, wrap)
        self.replicas.append(replica)
        return replica

    async def commit(self, *steps: Step) -> Committed:
        audit = AuditEntry(actor="test", method="Test", object="test")
        committed = await self.admin.commit(Transaction(namespace=NS, steps=steps, audit=audit))
        await self.follow()
        return committed

    async def follow(self) -> None:
        for replica in self.replicas:
            await replica.follow()

    async def add_agent(self, agent_id: str, *instance_ids: str, **spec: Any) -> None:
        """Add an ACTIVE agent named after its id, with instances that take tasks."""
        declared: dict[str, Any] = {"name": agent_id, "version": "1.0.0", **spec}
        agent = Agent(agent_id=agent_id, spec=AgentSpec(**declared), status=AgentStatus.ACTIVE)
        await self.commit(Put(Collection.AGENTS, agent_id, agent))
        for instance_id in instance_ids:
            await self.join(instance_id, agent_id)

    async def join(self, instance_id: str, agent_id: str, *, stream: bool = True) -> int:
        """Start a new process that beats, and takes tasks; return its generation."""
        instance = Instance(instance_id=instance_id, agent_id=agent_id, state=InstanceState.FRESH)
        put = Put(Collection.INSTANCES, instance_id, instance, fresh_generation=True)
        generation = (await self.commit(put)).revision
        if stream:
            record = TaskStream(
                instance_id=instance_id,
                agent_id=agent_id,
                generation_of_instance=generation,
                stream_id=f"str-{generation}",
            )
            await self.commit(Put(Collection.TASK_STREAMS, instance_id, record))
        return generation

    async def leave(self, instance_id: str) -> None:
        """Remove an instance, as a goodbye does."""
        await self.commit(Delete(Collection.INSTANCES, instance_id))

    async def change_agent(self, agent_id: str, **fields: Any) -> None:
        agent = await self._record(Collection.AGENTS, agent_id)
        await self.commit(Put(Collection.AGENTS, agent_id, replace(agent, **fields)))

    async def stop_agent(self, agent_id: str, reason: str = "broken") -> None:
        """Make an agent INACTIVE by an operator's decision."""
        await self.change_agent(agent_id, status=AgentStatus.INACTIVE, status_reason=reason)

    async def change_instance(self, instance_id: str, **fields: Any) -> None:
        instance = await self._record(Collection.INSTANCES, instance_id)
        await self.commit(Put(Collection.INSTANCES, instance_id, replace(instance, **fields)))

    async def silence(self, instance_id: str) -> None:
        """Let an instance miss its beats."""
        await self.change_instance(instance_id, state=InstanceState.SILENT)

    async def submit(self, agent_name: str = "worker", *, payload: bytes = b"", **spec: Any) -> str:
        """Submit a task; return its id."""
        submission = Submission(spec=TaskSpec(agent_name=agent_name, **spec), payload=payload)
        task = await self.one.tasks.submit(NS, submission, caller=ADA)
        await self.follow()
        return task.task_id

    async def submit_many(self, count: int, agent_name: str = "worker", **spec: Any) -> list[str]:
        """Submit tasks that ask for the same; return their ids."""
        submission = Submission(spec=TaskSpec(agent_name=agent_name, **spec))
        ids = []
        for start in range(0, count, 500):
            some = [submission] * min(500, count - start)
            for task in await self.one.tasks.submit_many(NS, some, caller=ADA):
                assert isinstance(task, Task), task
                ids.append(task.task_id)
        await self.follow()
        return ids

    async def task(self, task_id: str) -> Task:
        """Return a task as the store has it."""
        task: Task = await self._record(Collection.TASKS, task_id)
        return task

    async def lease(self, task_id: str) -> Lease:
        """Return the lease of a held task."""
        task = await self.task(task_id)
        assert task.state.is_held, task.state
        return Lease(task_id=task_id, instance_id=task.instance_id, epoch=task.epoch)

    async def accept(self, task_id: str) -> Lease:
        """Accept a task as its holder would."""
        lease = await self.lease(task_id)
        await self.one.leases.accept(NS, lease, caller=AGENT)
        await self.follow()
        return lease

    async def running(self, agent_name: str = "worker", **spec: Any) -> Lease:
        """Submit a task, assign and accept it."""
        task_id = await self.submit(agent_name, **spec)
        await self.one.assign()
        return await self.accept(task_id)

    async def complete(self, lease: Lease) -> None:
        await self.one.leases.complete(NS, lease, result=b"", caller=AGENT)
        await self.follow()

    async def rewrite(self, task_id: str, **fields: Any) -> None:
        """Change a task by force."""
        before = await self.task(task_id)
        await self.commit(*task_steps(before, replace(before, **fields)))

    async def slots(self, instance_id: str) -> int:
        """Return how many slots of an instance are counted as taken."""
        (count,) = await self.admin.read_counts(NS, (slots_counter(instance_id),))
        return count

    def held(self, instance_id: str) -> list[str]:
        """Return the tasks that an instance holds, as the first replica knows."""
        return sorted(self.one.view.work.tasks.held_by(instance_id))

    def states(self) -> dict[str, TaskState]:
        return {task_id: task.state for task_id, task in self.one.view.work.tasks.all.items()}

    async def events(self) -> list[str]:
        audit = await self.admin.read_audit(NS, limit=1_000_000)
        return [entry.event for _, _, entry in audit if entry.event]

    async def _record(self, collection: Collection, key: str) -> Any:
        (record,) = await self.admin.read(NS, collection, (key,))
        assert record is not None
        return record.value
