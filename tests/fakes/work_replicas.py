"""Replicas of everything that is about work, over one real store: the wiring without the edge.

Their copies follow when they are told to, and whenever something waits for them; a replica that is
`lagging` does neither, as if its follower were cut off.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from controlplane.domain.drains import acknowledgement_key
from controlplane.domain.errors import NotReady
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.beats import BeatIntake, BeatOutcome
from controlplane.services.expiry import Expiry
from controlplane.services.hub import Hub
from controlplane.services.lifecycle.activation import PolicyActivation
from controlplane.services.lifecycle.commands import Commands
from controlplane.services.lifecycle.drains import Drains
from controlplane.services.lifecycle.emergency_stops import EmergencyStops
from controlplane.services.lifecycle.lifecycle import Lifecycle
from controlplane.services.liveness import Liveness
from controlplane.services.ports import ChangeFeed, Collection, Ledger
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registry import Registry
from controlplane.services.rollouts.reconciler import RolloutReconciler
from controlplane.services.rollouts.rollouts import Rollouts
from controlplane.services.routing.routes import Routes
from controlplane.services.tasks.assignment import TaskAssigner
from controlplane.services.tasks.data import TaskData
from controlplane.services.tasks.delivery import TaskDelivery
from controlplane.services.tasks.leases import TaskLeases
from controlplane.services.tasks.recovery import TaskRecovery
from controlplane.services.tasks.tasks import Tasks
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.storage.redis.beat_log import RedisBeatLog
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.keys import keys_of
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.tasks.beat_flusher import BeatFlusher
from tests.fakes.approving import activating
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.fleet import FakeBeat, LearningFakeClock
from tests.fakes.valkey import valkey_server
from tests.fakes.work_model import RecordingLedger, WorkModel, bare

ADA = Caller(name="ada")
ACCEPT_MS = 10_000
RETENTION_MS = 600_000
PIN_MS = 300_000
# A machine that pauses must not look like a store that was away: nobody would expire for a while.
SETTINGS = LivenessSettings(freeze_gap_ms=3_600_000)


class CountedIds:
    """Ids that are the same in every run."""

    def __init__(self) -> None:
        self._next = count(1)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._next):06d}"


class RealStore:
    """Connections to one server, for as many namespaces as a test makes."""

    def __init__(self, connection: StoreConnection, ledger: RedisLedger) -> None:
        self.connection = connection
        self.ledger = ledger
        self._namespaces = count(1)

    def new_namespace(self) -> str:
        return f"n{next(self._namespaces)}"


@contextlib.asynccontextmanager
async def real_store() -> AsyncIterator[RealStore]:
    """Run a server, and connect to it."""
    async with (
        valkey_server(persistent=False) as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection) as ledger,
    ):
        yield RealStore(connection, ledger)


class FollowingModel(ReadModel):
    """A read model that catches up at once with what somebody waits for, unless it lags."""

    def __init__(self, replica: "WorkReplica") -> None:
        super().__init__(Hub())
        self.ready = True
        self._replica = replica

    async def at_least(self, namespace: str, revision: int) -> NamespaceView:
        if self.view(namespace).position.revision < revision and not self._replica.lagging:
            await self._replica.follow()
        if self.view(namespace).position.revision < revision:
            raise NotReady  # At once, what a replica that lags runs into after a while.
        return self.view(namespace)


class SeenAtOnce(VisibleLedger):
    """A visible ledger that does not wait: its replica follows, or lags and never would."""

    def __init__(self, inner: Ledger, replica: "WorkReplica") -> None:
        super().__init__(inner, replica.read_model, lambda _: None)
        self._replica = replica

    async def _seen(self, namespace: str, revision: int) -> None:
        await self._replica.read_model_reaches(namespace, revision)


class WorkReplica:
    """One replica in one namespace."""

    def __init__(
        self,
        store: RealStore,
        namespace: str,
        name: str,
        clock: LearningFakeClock,
        ids: CountedIds,
        model: WorkModel,
    ) -> None:
        self.namespace = namespace
        self.lagging = 0
        """For so many steps its copy does not follow."""
        self._store = store
        self._following = asyncio.Lock()
        self.faults = ledger = FaultyLedger(RecordingLedger(store.ledger, model))
        self.feed: ChangeFeed = RedisChangeFeed(store.connection, replica_id=name)
        self.read_model = read_model = FollowingModel(self)
        read_model.swap(read_model.new_view(namespace))
        visible = SeenAtOnce(ledger, self)
        activation = PolicyActivation(clock)
        self.assigner = TaskAssigner(ledger, read_model, clock)
        self.recovery = TaskRecovery(
            visible,
            read_model,
            self.assigner,
            clock,
            accept_ms=ACCEPT_MS,
            retention_ms=RETENTION_MS,
            pin_ms=PIN_MS,
        )
        data = TaskData(ledger)
        self.delivery = TaskDelivery(
            visible, read_model, data, ids, assigner=self.assigner, bookmark_seconds=0
        )
        self.drains = Drains(visible, read_model, clock, self.recovery)
        self.stops = EmergencyStops(visible, read_model, self.recovery, ids, clock)
        activates = activating(visible, read_model, clock, activation)
        self.lifecycle = Lifecycle(
            visible, read_model, activates, self.drains, self.recovery, clock
        )
        self.registry = Registry(visible, read_model, ids, SETTINGS)
        self.tasks = Tasks(visible, read_model, ids, data, self.assigner, clock, max_waiting=1_000)
        self.leases = TaskLeases(visible, read_model, self.assigner, clock, pin_ms=PIN_MS)
        self.routes = Routes(visible, read_model)
        self.rollouts = Rollouts(visible, read_model, ids, clock)
        self.commands = Commands(read_model, clock)
        self._intake = BeatIntake(clock, SETTINGS)
        beat_log = RedisBeatLog(store.connection, replica_id=name)
        self._flusher = BeatFlusher(self._intake, beat_log, read_model, clock)
        self._liveness = Liveness(visible, read_model, self._intake, activation, SETTINGS, clock)
        self._expiry = Expiry(ledger, beat_log, read_model, SETTINGS, clock)
        self.reconciler = RolloutReconciler(
            ledger, read_model, activation, clock, mass_silence=self._expiry.is_holding_back
        )

    @property
    def view(self) -> NamespaceView:
        return self.read_model.view(self.namespace)

    @property
    def is_shaken(self) -> bool:
        """Whether its store is about to fail, or its copy is old: it may refuse for that."""
        return bool(self.lagging or self.faults._faults or self.faults._lost_answers)

    def heal(self) -> None:
        """Let the store answer whatever it was to fail."""
        self.faults._faults.clear()
        self.faults._lost_answers = 0

    async def follow(self) -> None:
        """Bring the copy up to date."""
        async with self._following:
            more = True
            while more:
                news = await self.feed.catch_up(self.namespace, self.view.position)
                assert not news.resync
                self.read_model.patch(self.namespace, news.touched, news.position)
                more = news.more

    async def read_model_reaches(self, namespace: str, revision: int) -> None:
        assert namespace == self.namespace
        if not self.lagging and self.view.position.revision < revision:
            await self.follow()

    async def loaded(self) -> NamespaceView:
        """Return what a replica that starts now would know."""
        view = self.read_model.new_view(self.namespace)
        async for position, batch in self.feed.load(self.namespace):
            view.apply(batch, position)
        news = await self.feed.catch_up(self.namespace, view.position)
        assert not news.resync
        view.apply(news.touched, news.position)
        return view

    async def beat(self, beat: FakeBeat) -> list[BeatOutcome]:
        """Do what the stream does with a message, and share it."""
        unusual = self._intake.accept(self.view, [beat])
        outcomes = await self._liveness.settle(self.namespace, unusual) if unusual else []
        await self._flusher.flush()
        return outcomes

    async def merge(self) -> None:
        """Hear what instances said to other replicas."""
        await self._flusher.merge()

    async def expire(self, instance_id: str) -> None:
        """Let the deadline of an instance pass, and look, as somebody did a moment ago."""
        keys = keys_of(self.namespace)
        client: Any = self._store.connection.writes  # redis-py types replies as every shape at once
        await client.zadd(keys.deadlines, {instance_id: 1}, xx=True)
        await client.hset(keys.swept, mapping={"at": round(time.time() * 1000), "until": 0})
        await self._expiry.sweep(self.namespace)

    async def open_stream(self, instance_id: str, generation: int) -> Any:
        """Open a task stream; return the first thing that it says. The record stays."""
        stream = self.delivery.deliver(self.namespace, instance_id, generation)
        try:
            return await anext(stream, None)
        finally:
            await stream.aclose()

    async def leave_stream(self, instance_id: str, generation: int) -> None:
        """Open a task stream whose client goes away."""
        stream = self.delivery.deliver(self.namespace, instance_id, generation)
        await anext(stream, None)
        try:
            await stream.athrow(asyncio.CancelledError())
        except (asyncio.CancelledError, StopAsyncIteration):
            await self.delivery.remove_left()

    async def tick(self) -> None:
        """Do once what the loops of a replica do all the time."""
        namespace = self.namespace
        await self.recovery.sweep(namespace)
        await self.stops.tick(namespace)
        await self.drains.tick(namespace)
        await self.reconciler.tick(namespace)
        await self.assigner.assign(namespace)


class PresentClock(LearningFakeClock):
    """The real time and what a test has added to it: the store of these tests has no fake clock."""

    def monotonic(self) -> float:
        return time.monotonic() + self._seconds

    def store_ms(self) -> int:
        return round((time.time() + self._seconds) * 1000)


class WorkWorld:
    """Two replicas in a namespace of their own, their clock, and the model of what they did."""

    def __init__(self, store: RealStore) -> None:
        self.clock = PresentClock()
        self.model = WorkModel()
        self.namespace = store.new_namespace()
        ids = CountedIds()
        self.replicas = [
            WorkReplica(store, self.namespace, name, self.clock, ids, self.model) for name in "ab"
        ]
        self._ledger = store.ledger
        self._audited = 0

    async def check(self) -> None:
        """Assert that the store, its audit, and the copies of the replicas say what happened."""
        model = self.model
        for replica in self.replicas:
            if not replica.lagging:
                await replica.follow()
        loaded = await self.replicas[0].loaded()
        model.complete(loaded.position.revision)
        self._check_records(loaded)
        for replica in self.replicas:
            if not replica.lagging:
                assert_same(replica.view, loaded, outcomes=not model.forgotten)
        audit = await self._ledger.read_audit(self.namespace, after=self._audited, limit=10_000)
        revisions = [revision for revision, _, _ in audit]
        assert revisions == list(range(self._audited + 1, model.revision + 1))
        self._audited = model.revision

    def _check_records(self, loaded: NamespaceView) -> None:
        agents = {agent_id: entry.agent for agent_id, entry in loaded.agents.items()}
        instances = {name: live.instance for name, live in loaded.instances.items()}
        stored = known(loaded) | {Collection.AGENTS: agents, Collection.INSTANCES: instances}
        for collection, records in stored.items():
            ours = self.model.of(collection)
            assert {key: bare(one) for key, one in records.items()} == {
                key: bare(one) for key, one in ours.items()
            }, collection


def known(view: NamespaceView) -> dict[Collection, dict[str, Any]]:
    """Return the records about work that a view has."""
    work = view.work
    return {
        Collection.TASKS: work.tasks.all,
        Collection.TASK_STREAMS: work.task_streams,
        Collection.ROUTES: work.routes,
        Collection.SESSION_PINS: work.pins,
        Collection.DRAINS: work.drains,
        Collection.STOPS: work.stops,
        Collection.STOP_ACKNOWLEDGEMENTS: {
            acknowledgement_key(stop_id, name): one
            for stop_id, said in work.stop_acknowledgements.items()
            for name, one in said.items()
        },
        Collection.ROLLOUTS: work.rollouts,
        Collection.ACTIVE_ROLLOUTS: work.active_rollouts,
    }


def assert_same(one: NamespaceView, other: NamespaceView, *, outcomes: bool) -> None:
    """Assert that two copies say the same, in their records and in every index over them."""
    assert one.position == other.position
    assert known(one) == known(other)
    assert _described(one) == _described(other)
    assert _indexed(one) == _indexed(other)
    if outcomes:
        for agent_id in other.agents:
            ours, theirs = (v.work.tasks.recent_outcomes(agent_id) for v in (one, other))
            assert ours == theirs, agent_id


def _described(view: NamespaceView) -> Any:
    agents = {
        agent_id: (entry.agent, {n: (i.instance, i.held) for n, i in entry.instances.items()})
        for agent_id, entry in view.agents.items()
    }
    instances = {name: (live.instance, live.held) for name, live in view.instances.items()}
    return agents, instances, view.agent_id_of, view.ids_of_name


def _indexed(view: NamespaceView) -> Any:
    tasks = view.work.tasks
    held = {name: set(tasks.held_by(name)) for name in tasks.holders()}
    of_agents = {name: set(tasks.held_of_agent(name)) for name in tasks.holding_agents()}
    waiting = {
        (want, submitter): {task.task_id for task in group.tasks()}
        for want, groups in tasks.waiting.by_want.items()
        for submitter, group in groups.items()
    }
    far, many = 1 << 60, 1 << 30
    due = [set(one.due(far, many)) for one in (tasks.limits, tasks.unaccepted, tasks.ended)]
    return held, of_agents, waiting, tasks.by_session, due
