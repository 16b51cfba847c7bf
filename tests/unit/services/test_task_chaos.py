"""Assignment and recovery on two replicas, whatever happens in whatever order."""

from inspect import iscoroutinefunction
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.tasks import TaskReason, TaskState
from tests.fakes.work_fleet import NS, WorkFleet, WorkReplica


class Chaos:
    """Everything that can happen to a small fleet with two replicas, one of which lags."""

    def __init__(self, fleet: WorkFleet, random: Random) -> None:
        self.fleet = fleet
        self.random = random
        self.lagging = fleet.add_replica()
        fleet.replicas.remove(self.lagging)

    @property
    def agent_id(self) -> str:
        return self.random.choice("ab")

    @property
    def present(self) -> list[str]:
        return sorted(self.fleet.one.view.instances)

    @property
    def replica(self) -> WorkReplica:
        return self.random.choice((self.fleet.one, self.lagging))

    def tasks(self, state: TaskState) -> list[str]:
        return [task_id for task_id, now in self.fleet.states().items() if now is state]

    async def submit(self) -> None:
        name = self.random.choice(("a", ""))
        await self.fleet.submit(name, capabilities=("c",), deadline_ms=60_000)

    async def assign(self) -> None:
        await self.replica.assigner.assign(NS)

    async def accept(self) -> None:
        for task_id in self.tasks(TaskState.ASSIGNED)[:1]:
            await self.fleet.accept(task_id)

    async def complete(self) -> None:
        for task_id in self.tasks(TaskState.RUNNING)[:1]:
            await self.fleet.complete(await self.fleet.lease(task_id))

    async def silence(self) -> None:
        for name in self.present[:1]:
            await self.fleet.silence(name)

    async def beat(self) -> None:
        for name in self.present:
            await self.fleet.change_instance(name, state=InstanceState.FRESH)

    async def replace(self) -> None:
        agent_id = self.agent_id
        await self.fleet.join(f"{agent_id}1", agent_id)

    async def leave(self) -> None:
        for name in self.present[:1]:
            await self.fleet.leave(name)

    async def stop(self) -> None:
        agent_id, replica = self.agent_id, self.replica
        await self.fleet.stop_agent(agent_id)
        await replica.follow()
        await replica.recovery.hand_over(NS, agent_id, reason="r", actor="ada")

    async def start(self) -> None:
        await self.fleet.change_agent(self.agent_id, status=AgentStatus.ACTIVE, status_reason="")

    async def sweep(self) -> None:
        await self.replica.recovery.sweep(NS)

    async def time(self) -> None:
        self.fleet.clock.shift(self.random.uniform(0, 12))

    async def follow(self) -> None:
        await self.lagging.follow()


ACTIONS = sorted(name for name, what in vars(Chaos).items() if iscoroutinefunction(what))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.randoms(use_true_random=False))
async def test_whatever_happens_slots_match_leases_and_every_task_ends(actions, random):
    fleet = WorkFleet()
    chaos = Chaos(fleet, random)
    for agent_id in ("a", "b"):
        await fleet.add_agent(agent_id, f"{agent_id}1", max_concurrency=2, capabilities=("c",))
    for action in actions:
        await getattr(chaos, action)()
        await fleet.follow()
        for instance_id in ("a1", "b1"):
            assert len(fleet.held(instance_id)) == await fleet.slots(instance_id) <= 2
    fleet.clock.shift(61)
    await chaos.lagging.sweep()
    await fleet.one.sweep()
    assert all(state.is_terminal for state in fleet.states().values())
    for task in [await fleet.task(task_id) for task_id in fleet.states()]:
        epochs = [hop.epoch for hop in task.hops]
        assert epochs == sorted(set(epochs)), "no lease ended twice"
        successes = [hop for hop in task.hops if hop.reason is TaskReason.NONE]
        assert len(successes) == (task.state is TaskState.SUCCEEDED)
