"""Rollouts over the memory store: a plane with two versions, and hands that play the rest."""

from dataclasses import replace
from typing import Any

from controlplane.domain.agents import Agent, AgentSpec, AgentStatus, Instance, InstanceState
from controlplane.domain.drains import DrainPhase, drain_key
from controlplane.domain.identity import Caller
from controlplane.domain.rollouts.model import Phase, Plan, Rollout, Step, outcome_counter
from controlplane.domain.routes import SessionPin, pin_key
from controlplane.domain.tasks import Task, TaskSpec, TaskState
from controlplane.services.ids import TimeSortedIds
from controlplane.services.lifecycle.activation import ActivationVerdict, PolicyActivation
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Count,
    Delete,
    Ledger,
    Put,
    Transaction,
)
from controlplane.services.ports import Step as LedgerStep
from controlplane.services.read_model import NamespaceView
from controlplane.services.rollouts.reconciler import RolloutReconciler
from controlplane.services.rollouts.rollouts import RolloutOrder, Rollouts
from controlplane.storage.memory.ledger import MemoryLedger
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.plane import NS, Plane

NAME = "writer"
OLD, NEW = "1.0.0", "2.0.0"
ADA = Caller(name="ada")
BRIEF = Plan(
    steps=(Step(weight_bp=1_000), Step(weight_bp=10_000)),
    observe_ms=1_000,
    max_dwell_ms=600_000,
    progress_deadline_ms=60_000,
    max_pause_ms=120_000,
    drain_deadline_ms=30_000,
)


class Verdicts:
    """An activation check that answers what the test wants."""

    def __init__(self) -> None:
        self.verdict: ActivationVerdict | None = None

    def may_activate(
        self,
        view: NamespaceView,  # noqa: ARG002 - signature of the check
        agent: Agent,  # noqa: ARG002 - same
    ) -> ActivationVerdict:
        allowed = ActivationVerdict(allowed=True, decision="ALLOW")
        return self.verdict if self.verdict is not None else allowed


class RolloutWorld:
    """One store, one replica, one reconciler; `faults` fails commits of the reconciler."""

    def __init__(self, *, real_policies: bool = False) -> None:
        self.plane = Plane()
        self.clock = self.plane.clock
        self.direct = MemoryLedger(self.plane.store)
        self.faults = FaultyLedger(self.direct)
        self.verdicts = Verdicts()
        self.check = PolicyActivation(self.clock) if real_policies else self.verdicts
        self.silent = False
        self.calls: list[str] = []
        self.rollouts = Rollouts(
            _Followed(self), self.plane.read_model, TimeSortedIds(), self.clock
        )
        self.reconciler = self.new_reconciler()

    def new_reconciler(self, ledger: Ledger | None = None) -> RolloutReconciler:
        """Return another reconciler over the same store, as after a restart."""
        return RolloutReconciler(
            ledger or self.faults,
            self.plane.read_model,
            self.check,
            self.clock,
            mass_silence=lambda _: self.silent,
            on_transition=lambda _, call: self.calls.append(call),
        )

    @property
    def view(self) -> NamespaceView:
        return self.plane.read_model.view(NS)

    async def follow(self) -> None:
        await self.plane.follow()

    async def write(self, *steps: LedgerStep) -> None:
        """Commit what somebody else does, and follow."""
        audit = AuditEntry(actor="somebody", method="Test", object="test")
        await self.direct.commit(Transaction(namespace=NS, steps=steps, audit=audit))
        await self.follow()

    async def agent(
        self, version: str, *, status: AgentStatus = AgentStatus.ACTIVE, **spec: Any
    ) -> Agent:
        """Write an agent `writer@version` with the id `agt-<version>`."""
        declared = {"max_concurrency": 100, **spec}
        agent_id = f"agt-{version}"
        agent = Agent(
            agent_id=agent_id,
            spec=AgentSpec(name=NAME, version=version, **declared),
            status=status,
        )
        await self.write(
            Put(Collection.NAMES, agent.spec.name_version, agent_id),
            Put(Collection.AGENTS, agent_id, agent),
        )
        return agent

    async def instance(
        self,
        agent_id: str,
        number: int = 1,
        state: InstanceState = InstanceState.FRESH,
    ) -> str:
        """Write an instance of an agent."""
        instance_id = f"ins-{agent_id}-{number}"
        instance = Instance(instance_id=instance_id, agent_id=agent_id, state=state)
        await self.write(Put(Collection.INSTANCES, instance_id, instance))
        return instance_id

    async def change_agent(self, agent_id: str, **changes: Any) -> None:
        agent = self.view.agents[agent_id].agent
        await self.write(Put(Collection.AGENTS, agent_id, replace(agent, **changes)))

    async def stop_agent(self, agent_id: str) -> None:
        """Deactivate an agent, as an operator does."""
        agent = self.view.agents[agent_id].agent
        await self.write(Put(Collection.AGENTS, agent_id, agent.deactivated("an operator")))

    async def start(self, plan: Plan = BRIEF, **order: Any) -> Rollout:
        """Start a rollout of version 2.0.0 and follow."""
        wanted = RolloutOrder(name=NAME, **{"to_version": NEW, "plan": plan, **order})
        rollout = await self.rollouts.start(NS, wanted, request=None, caller=ADA)
        await self.follow()
        return rollout

    async def begun(self, plan: Plan = BRIEF) -> Rollout:
        """Return a rollout in its first step, of a version with two fresh instances."""
        await self.agent(OLD)
        await self.instance(f"agt-{OLD}")
        await self.start(plan)
        await self.arrive()
        return await self.until(lambda one: one.phase is Phase.PROGRESSING)

    async def arrive(self, count: int = 2) -> None:
        """Let instances of the new version come to life."""
        for number in range(1, count + 1):
            await self.instance(self.now().to_agent_id, number)

    def now(self) -> Rollout:
        """Return the newest rollout as this replica knows it."""
        return max(self.view.work.rollouts.values(), key=lambda one: one.rollout_id)

    async def tick(self, seconds: float = 0.5) -> int:
        """Let time pass, look once, and follow."""
        self.clock.shift(seconds)
        made = await self.reconciler.tick(NS)
        await self.follow()
        return made

    async def until(self, holds: Any, *, ticks: int = 40, seconds: float = 0.5) -> Rollout:
        """Tick until the rollout is as it should be; fail after so many."""
        for _ in range(ticks):
            if holds(self.now()):
                return self.now()
            await self.tick(seconds)
        raise AssertionError(f"it never came to that: {self.now()}")

    async def outcomes(
        self, *, new: tuple[int, int] = (0, 0), old: tuple[int, int] = (0, 0)
    ) -> None:
        """Count outcomes (all, failed) of attempts in the present step."""
        rollout = self.now()
        steps = []
        for agent_id, (total, failed) in (
            (rollout.to_agent_id, new),
            (rollout.from_agent_id, old),
        ):
            for outcome, count in (("ok", total - failed), ("failed", failed)):
                if count:
                    counter = outcome_counter(rollout.cohort, agent_id, outcome)
                    steps.append(Count(counter, count))
        await self.write(*steps)

    async def good_step(self) -> None:
        """Let the present step see traffic that is good enough to pass it, and pass it."""
        index, phase = self.now().step_index, self.now().phase
        await self.outcomes(new=(400, 0), old=(1_000, 5))
        await self.until(lambda one: one.step_index > index or one.phase is not phase)

    async def finish_drain(self, agent_id: str) -> None:
        """Do what the drains do once nothing is in flight: the agent becomes INACTIVE."""
        drain = self.view.work.drains[drain_key(agent_id)]
        agent = self.view.agents[agent_id].agent
        assert agent.draining
        await self.write(
            Put(Collection.DRAINS, drain.key, replace(drain, phase=DrainPhase.DRAINED)),
            Put(Collection.AGENTS, agent_id, agent.deactivated(drain.reason)),
        )

    async def pin(self, session_id: str, agent_id: str) -> None:
        pin = SessionPin(
            name=NAME, session_id=session_id, agent_id=agent_id, used_at_ms=self.clock.store_ms()
        )
        await self.write(Put(Collection.SESSION_PINS, pin_key(NAME, session_id), pin))

    async def task(self, task_id: str, session_id: str = "", **fields: Any) -> None:
        spec = TaskSpec(agent_name=NAME, session_id=session_id)
        task = Task(task_id=task_id, spec=spec, **{"state": TaskState.PENDING, **fields})
        await self.write(Put(Collection.TASKS, task_id, task))

    async def forget_task(self, task_id: str) -> None:
        await self.write(Delete(Collection.TASKS, task_id))

    def weights(self) -> dict[str, int]:
        """Return the shares of the route, by version."""
        return {one.version: one.weight_bp for one in self.view.work.routes[NAME].shares}

    def status(self, version: str) -> AgentStatus:
        return self.view.agents[self.view.agent_id_of[f"{NAME}@{version}"]].agent.status

    async def events(self) -> list[str]:
        """Return the public events of rollouts so far, in order."""
        entries = await self.direct.read_audit(NS, limit=1_000)
        return [entry.event for _, _, entry in entries if entry.event.startswith("rollout.")]


class _Followed:
    """`Ledger` of callers: what they commit is visible here before it is answered."""

    def __init__(self, world: RolloutWorld) -> None:
        self._world = world

    async def commit(self, transaction: Transaction) -> Any:
        committed = await self._world.direct.commit(transaction)
        await self._world.follow()
        return committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.direct, name)
