"""A plane in memory, with a clock moved by hand: everything that liveness is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.domain.agents import Agent, AgentSpec, Instance
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.beats import BeatIntake, BeatOutcome
from controlplane.services.expiry import Expiry, Swept
from controlplane.services.hub import Hub
from controlplane.services.lifecycle.activation import PolicyActivation
from controlplane.services.liveness import Liveness
from controlplane.services.ports import (
    AuditEntry,
    BeatLog,
    Collection,
    Committed,
    Ledger,
    Position,
    Put,
    SetDeadline,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.storage.memory.beat_log import MemoryBeatLog
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore
from tests.fakes.clock import FakeClock

NAMESPACE = "default"


class LearningFakeClock(FakeClock):
    """A fake clock that notes what it is taught."""

    def __init__(self) -> None:
        super().__init__()
        self.learnt: list[int] = []

    def learn(self, store_ms: int, *, asked_at: float, answered_at: float) -> None:
        assert asked_at <= answered_at
        self.learnt.append(store_ms)


@dataclass
class Ack:
    attempted_revision: int = 0
    running_revision: int = 0
    status: int = 0
    error: str = ""


@dataclass
class FakeBeat:
    """What a beat looks like to the services."""

    instance_id: str
    generation: int
    seq: int = 0
    in_flight: int = 0
    completed: int = 0
    failed: int = 0
    latency_ms: float = 0.0
    progress_token: str = ""
    goodbye: bool = False
    config: Any = None

    def HasField(self, field_name: str) -> bool:  # noqa: N802 - protobuf's name
        return getattr(self, field_name) is not None


class Replica:
    """One replica over a shared store; its copy follows only when told to."""

    def __init__(
        self,
        store: MemoryStore,
        name: str,
        settings: LivenessSettings,
        wrap: Callable[[Ledger], Ledger] = lambda ledger: ledger,
        wrap_beats: Callable[[BeatLog], BeatLog] = lambda log: log,
    ) -> None:
        assert isinstance(store.clock, LearningFakeClock)
        self.clock = store.clock
        self.ledger: Ledger = wrap(MemoryLedger(store))
        self.beat_log: BeatLog = wrap_beats(MemoryBeatLog(store, name))
        self.feed = MemoryChangeFeed(store)
        self.read_model = ReadModel(Hub())
        self.read_model.ready = True
        self.acknowledged: list[tuple[str, str]] = []
        self.intake = BeatIntake(
            self.clock, settings, lambda ns, agent_id: self.acknowledged.append((ns, agent_id))
        )
        self.liveness = Liveness(
            self.ledger,
            self.read_model,
            self.intake,
            PolicyActivation(self.clock),
            settings,
            self.clock,
        )
        self.expiry = Expiry(self.ledger, self.beat_log, self.read_model, settings, self.clock)

    @property
    def view(self) -> NamespaceView:
        return self.read_model.view(NAMESPACE)

    async def follow(self) -> NamespaceView:
        """Bring the copy up to date."""
        if self.read_model.position_of(NAMESPACE) is None:
            self.read_model.swap(self.read_model.new_view(NAMESPACE))
        while True:
            position = self.read_model.position_of(NAMESPACE) or Position()
            news = await self.feed.catch_up(NAMESPACE, position)
            assert not news.resync
            self.read_model.patch(NAMESPACE, news.touched, news.position)
            if not news.more:
                return self.view

    async def beat(self, *beats: FakeBeat) -> list[BeatOutcome]:
        """Do what the stream does with one message, then follow."""
        view = self.view
        unusual = self.intake.accept(view, beats)
        outcomes = await self.liveness.settle(NAMESPACE, unusual) if unusual else []
        await self.follow()
        return outcomes

    async def flush(self) -> None:
        for namespace, ids in self.intake.take_dirty().items():
            deadlines, beats = self.intake.pack(self.view, ids)
            await self.beat_log.flush(namespace, deadlines, beats)

    async def sweep(self) -> Swept:
        swept = await self.expiry.sweep(NAMESPACE)
        await self.follow()
        return swept


class Fleet:
    """A store with replicas and agents."""

    def __init__(self, settings: LivenessSettings | None = None) -> None:
        self.settings = settings or LivenessSettings()
        self.clock = LearningFakeClock()
        self.store = MemoryStore(self.clock)
        self.admin = MemoryLedger(self.store)
        self.replica = self.add_replica("one")

    def add_replica(self, name: str, **wraps: Any) -> Replica:
        return Replica(self.store, name, self.settings, **wraps)

    async def commit(self, *steps: Step) -> Committed:
        audit = AuditEntry(actor="test", method="Test", object="test")
        return await self.admin.commit(Transaction(namespace=NAMESPACE, steps=steps, audit=audit))

    async def register(self, agent_id: str, *instance_ids: str, **spec: Any) -> dict[str, int]:
        """Register an agent with instances; return their generations."""
        declared = AgentSpec(name=agent_id, version="1.0.0", **spec)
        await self.commit(Put(Collection.AGENTS, agent_id, Agent(agent_id=agent_id, spec=declared)))
        return {name: await self.join(agent_id, name) for name in instance_ids}

    async def join(self, agent_id: str, instance_id: str) -> int:
        """Register a new process of an agent; return its generation."""
        instance = Instance(instance_id=instance_id, agent_id=agent_id)
        agent = await self.agent(agent_id)
        grant = self.settings.degraded_after(agent.spec)
        committed = await self.commit(
            Put(Collection.INSTANCES, instance_id, instance, fresh_generation=True),
            SetDeadline(instance_id, grant),
        )
        await self.replica.follow()
        return committed.revision

    async def agent(self, agent_id: str) -> Agent:
        (record,) = await self.admin.read(NAMESPACE, Collection.AGENTS, (agent_id,))
        assert record is not None
        agent: Agent = record.value
        return agent

    async def instance(self, instance_id: str) -> Instance | None:
        (record,) = await self.admin.read(NAMESPACE, Collection.INSTANCES, (instance_id,))
        return None if record is None else record.value

    async def change_agent(self, agent_id: str, **fields: Any) -> None:
        await self.commit(
            Put(Collection.AGENTS, agent_id, replace(await self.agent(agent_id), **fields))
        )
        await self.replica.follow()

    async def events(self) -> list[str]:
        audit = await self.admin.read_audit(NAMESPACE, limit=100_000)
        return [entry.event for _, _, entry in audit if entry.event]

    def deadline_of(self, instance_id: str) -> int | None:
        """Return milliseconds from now to the deadline of an instance."""
        at = self.store.namespaces[NAMESPACE].deadlines.get(instance_id)
        return None if at is None else at - self.clock.store_ms()

    @property
    def revision(self) -> int:
        return self.store.namespaces[NAMESPACE].revision

    async def pass_time(self, seconds: float, *, beating: Sequence[FakeBeat] = ()) -> None:
        """Let time pass in steps of a second with sweeps, while some instances go on beating."""
        for _ in range(round(seconds)):
            self.clock.shift(1.0)
            if beating:
                await self.replica.beat(*beating)
                await self.replica.flush()
            await self.replica.sweep()
