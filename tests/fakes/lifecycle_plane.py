"""Lifecycle, drains and stops over a fleet in memory; a replica follows what it commits at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.configs import ConfigLayer, LayerKind, LayerScope
from controlplane.domain.drains import Drain, DrainThen
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.domain.policies import Effect, Policy
from controlplane.domain.tasks import Task, TaskSpec, TaskState
from controlplane.services.ids import TimeSortedIds
from controlplane.services.lifecycle.activation import PolicyActivation
from controlplane.services.lifecycle.drains import DrainReport, Drains
from controlplane.services.lifecycle.emergency_stops import EmergencyStops
from controlplane.services.lifecycle.lifecycle import Lifecycle
from controlplane.services.lifecycle.parked_activations import ParkedActivations
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Count,
    Delete,
    Put,
    Record,
    RequestKey,
    Transaction,
)
from controlplane.services.tasks.steps import slots_counter
from tests.fakes.approving import activating, approving
from tests.fakes.fleet import NAMESPACE, FakeBeat, Fleet, Replica

CALLER = Caller(name="ada")


@dataclass
class Handed:
    requeued: int = 0
    failed: int = 0


@dataclass
class RecordingHandOver:
    """Hands nothing over, and remembers what it was asked to."""

    asked: list[tuple[str, str, str]] = field(default_factory=list)

    async def hand_over(self, namespace: str, agent_id: str, *, reason: str, actor: str) -> Handed:
        assert namespace == NAMESPACE
        self.asked.append((agent_id, reason, actor))
        return Handed(requeued=2, failed=1)


class FollowingLedger:
    """A ledger whose commits this replica has followed before they are answered."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._inner = replica.ledger

    async def commit(self, transaction: Transaction) -> Committed:
        committed = await self._inner.commit(transaction)
        await self._replica.follow()
        return committed

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        outcomes = await self._inner.commit_many(transactions)
        await self._replica.follow()
        return outcomes

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        return await self._inner.read(namespace, collection, keys)

    async def read_counts(self, namespace: str, counters: Sequence[str]) -> list[int]:
        return await self._inner.read_counts(namespace, counters)

    async def read_history(self, *args: Any, **kwargs: Any) -> list[Record]:
        return await self._inner.read_history(*args, **kwargs)

    async def read_audit(self, *args: Any, **kwargs: Any) -> list[tuple[int, int, AuditEntry]]:
        return await self._inner.read_audit(*args, **kwargs)

    async def find_request(self, namespace: str, request: RequestKey) -> Committed | None:
        return await self._inner.find_request(namespace, request)


class Operations:
    """The use cases at one replica."""

    def __init__(self, fleet: Fleet, replica: Replica) -> None:
        self.fleet = fleet
        self.replica = replica
        self.handed = RecordingHandOver()
        ledger, model, clock = FollowingLedger(replica), replica.read_model, fleet.clock
        self.drains = Drains(ledger, model, clock, self.handed)
        self.approvals = approving(ledger, model, clock)
        activates = activating(ledger, model, clock, PolicyActivation(clock))
        self.parked = ParkedActivations(activates, model, clock)
        self.lifecycle = Lifecycle(ledger, model, activates, self.drains, self.handed, clock)
        self.stops = EmergencyStops(ledger, model, self.handed, TimeSortedIds(), clock)

    async def activate(self, agent_id: str = "a", **options: Any) -> Agent:
        asked: dict[str, Any] = {
            "reason": "",
            "expected_revision": 0,
            "confirm_pending": False,
            "request": None,
        }
        return await self.lifecycle.activate(
            NAMESPACE, agent_id, caller=CALLER, **(asked | options)
        )

    async def deactivate(self, agent_id: str = "a", **options: Any) -> Any:
        asked: dict[str, Any] = {
            "reason": "night",
            "drain_ms": None,
            "expected_revision": 0,
            "request": None,
        }
        return await self.lifecycle.deactivate(
            NAMESPACE, agent_id, caller=CALLER, **(asked | options)
        )

    async def decommission(self, agent_id: str = "a", **options: Any) -> tuple[Agent, int]:
        asked: dict[str, Any] = {
            "reason": "old",
            "force": False,
            "expected_revision": 0,
            "request": None,
        }
        return await self.lifecycle.decommission(
            NAMESPACE, agent_id, caller=CALLER, **(asked | options)
        )

    async def drain(
        self, agent_id: str = "a", instance_id: str = "", **options: Any
    ) -> DrainReport:
        asked: dict[str, Any] = {
            "deadline_ms": 60_000,
            "then": DrainThen.STAY,
            "reason": "new release",
            "request": None,
        }
        return await self.drains.start(
            NAMESPACE,
            agent_id=agent_id,
            instance_id=instance_id,
            caller=CALLER,
            **(asked | options),
        )

    async def cancel(self, agent_id: str = "a", instance_id: str = "") -> DrainReport:
        return await self.drains.cancel(
            NAMESPACE, agent_id=agent_id, instance_id=instance_id, reason="", caller=CALLER
        )

    async def look(
        self, agent_id: str = "a", instance_id: str = "", wait_ms: int = 0
    ) -> DrainReport:
        return await self.drains.get(
            NAMESPACE, agent_id=agent_id, instance_id=instance_id, wait_ms=wait_ms
        )

    async def tick(self) -> int:
        changed = await self.drains.tick(NAMESPACE)
        await self.replica.follow()
        return changed

    async def stop(self, **options: Any) -> Any:
        asked: dict[str, Any] = {
            "tags": {},
            "names": (),
            "everything": False,
            "reason": "incident",
            "wait_ms": 0,
            "request": None,
        }
        return await self.stops.stop(NAMESPACE, caller=CALLER, **(asked | options))


class LifecyclePlane(Fleet):
    """A fleet with operators. `ops` works at the first replica; more are made by `another`."""

    def __init__(self, settings: LivenessSettings | None = None) -> None:
        super().__init__(settings)
        self.ops = Operations(self, self.replica)

    async def another(self, name: str) -> Operations:
        """Return the use cases at another replica over the same store."""
        replica = self.add_replica(name)
        await replica.follow()
        return Operations(self, replica)

    async def active(self, agent_id: str, *instance_ids: str, **spec: Any) -> dict[str, int]:
        """Register an agent and bring it to life with a beat of each instance."""
        generations = await self.register(agent_id, *instance_ids, **spec)
        await self.replica.beat(*(FakeBeat(name, g) for name, g in generations.items()))
        assert (await self.agent(agent_id)).status is AgentStatus.ACTIVE
        return generations

    async def in_status(self, agent_id: str, status: AgentStatus, reason: str = "") -> Agent:
        """Register an agent without instances, and put it into a status."""
        await self.register(agent_id)
        await self.change_agent(agent_id, status=status, status_reason=reason)
        return await self.agent(agent_id)

    async def set_policy(self, effect: Effect | None, policy_id: str = "p") -> None:
        """Have a policy answer activations; None removes it."""
        if effect is None:
            await self.commit(Delete(Collection.POLICIES, policy_id))
        else:
            conditions = {"action": "activate"}
            policy = Policy(policy_id=policy_id, action=effect, conditions=conditions)
            await self.commit(Put(Collection.POLICIES, policy_id, policy))
        await self.replica.follow()

    async def set_config(self, name: str, **values: Any) -> None:
        """Set values for an agent name."""
        scope = LayerScope(LayerKind.AGENT_NAME, name)
        layer = ConfigLayer(scope=scope, values=values)
        await self.commit(Put(Collection.CONFIG_LAYERS, scope.key, layer))
        await self.replica.follow()

    async def hold(
        self,
        agent_id: str,
        instance_id: str,
        *task_ids: str,
        state: TaskState = TaskState.RUNNING,
        **spec: Any,
    ) -> None:
        """Give an instance leases of tasks."""
        instance = await self.instance(instance_id)
        assert instance is not None
        for task_id in task_ids:
            task = Task(
                task_id=task_id,
                spec=TaskSpec(capabilities=("x",), **spec),
                state=state,
                attempts=1 if state is TaskState.RUNNING else 0,
                epoch=1,
                agent_id=agent_id,
                instance_id=instance_id,
                instance_generation=instance.generation,
                assigned_at_ms=self.clock.store_ms(),
                started_at_ms=self.clock.store_ms(),
            )
            await self.commit(
                Put(Collection.TASKS, task_id, task), Count(slots_counter(instance_id), 1)
            )
        await self.replica.follow()

    async def task(self, task_id: str) -> Task:
        (record,) = await self.admin.read(NAMESPACE, Collection.TASKS, (task_id,))
        assert record is not None
        task: Task = record.value
        return task

    async def drain_record(self, key: str) -> Drain | None:
        (record,) = await self.admin.read(NAMESPACE, Collection.DRAINS, (key,))
        return None if record is None else record.value

    async def audits(self, event: str) -> list[AuditEntry]:
        audit = await self.admin.read_audit(NAMESPACE, limit=100_000)
        return [entry for _, _, entry in audit if entry.event == event]
