"""Whatever happens in whatever order, an agent is as healthy as its instances."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import REVIVABLE_REASONS, AgentStatus, InstanceState
from controlplane.services.ports import Collection
from tests.fakes.fleet import NAMESPACE, FakeBeat, Fleet, Replica

NAMES = ("i", "j", "k")

names = st.sampled_from(NAMES)
replicas = st.integers(0, 1)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("join"), names),
        st.tuples(st.just("beat"), names, replicas),
        st.tuples(st.just("zombie"), names, replicas),
        st.tuples(st.just("goodbye"), names, replicas),
        st.tuples(st.just("pass"), st.sampled_from((1, 15, 31, 280))),
        st.tuples(st.just("sweep"), replicas),
        st.tuples(st.just("follow"), replicas),
        st.tuples(st.just("operator"), st.booleans()),
    ),
    max_size=40,
)


class World:
    """Two replicas whose copies lag until they follow."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.replicas = [self.fleet.replica, self.fleet.add_replica("two")]
        self.generations: dict[str, int] = {}

    async def carry_out(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("join", name):
                self.generations[name] = await self.fleet.join("a", name)
            case ("beat", name, at) if name in self.generations:
                await self.message(self.replicas[at], FakeBeat(name, self.generations[name]))
            case ("zombie", name, at) if name in self.generations:
                await self.message(self.replicas[at], FakeBeat(name, self.generations[name] - 1))
            case ("goodbye", name, at) if name in self.generations:
                farewell = FakeBeat(name, self.generations[name], goodbye=True)
                await self.message(self.replicas[at], farewell)
            case ("pass", seconds):
                for _ in range(seconds // 4 or 1):  # somebody always looks
                    self.fleet.clock.shift(4)
                    await self.fleet.replica.beat_log.due(
                        NAMESPACE, limit=0, freeze_gap_ms=5_000, grace_ms=0
                    )
            case ("sweep", at):
                await self.replicas[at].expiry.sweep(NAMESPACE)
            case ("follow", at):
                await self.replicas[at].follow()
            case ("operator", stops):
                await self.operate(stops=stops)

    async def message(self, replica: Replica, beat: FakeBeat) -> None:
        if beat.generation > replica.view.position.revision:
            await replica.follow()  # what the stream would wait for
        unusual = replica.intake.accept(replica.view, [beat])
        await replica.liveness.settle(NAMESPACE, unusual)
        await replica.flush()

    async def operate(self, *, stops: bool) -> None:
        agent = await self.fleet.agent("a")
        fresh = any(state is InstanceState.FRESH for state in await self.states())
        if stops:
            await self.fleet.change_agent(
                "a", status=AgentStatus.INACTIVE, status_reason="maintenance"
            )
        elif agent.status_reason == "maintenance" and fresh:
            await self.fleet.change_agent("a", status=AgentStatus.ACTIVE, status_reason="")

    async def states(self) -> list[InstanceState]:
        records = await self.fleet.admin.read(NAMESPACE, Collection.INSTANCES, NAMES)
        return [record.value.state for record in records if record is not None]

    async def check(self) -> None:
        """Hold what is true at every moment, however far a copy lags."""
        agent, states = await self.fleet.agent("a"), await self.states()
        if agent.status is AgentStatus.ACTIVE:
            assert {InstanceState.FRESH, InstanceState.STARTING} & set(states)
        for name in NAMES:
            instance = await self.fleet.instance(name)
            if instance is not None:
                assert instance.generation == self.generations[name]
                assert self.fleet.deadline_of(name) is not None

    async def check_after_a_round_of_beats(self) -> None:
        """Hold what is true once the copies are up to date and the fresh have beaten again."""
        for replica in self.replicas:
            await replica.follow()
        for name in NAMES:
            instance = await self.fleet.instance(name)
            if instance is not None and instance.state is InstanceState.FRESH:
                await self.message(self.replicas[0], FakeBeat(name, instance.generation))
        agent, states = await self.fleet.agent("a"), await self.states()
        if agent.status is AgentStatus.DEGRADED or agent.status_reason in REVIVABLE_REASONS:
            assert InstanceState.FRESH not in states


@given(operations)
@settings(max_examples=150, deadline=None)
def test_an_agent_is_as_healthy_as_its_instances(sequence):
    async def play() -> None:
        world = World()
        await world.fleet.register("a")
        for replica in world.replicas:
            await replica.follow()
            await replica.expiry.sweep(NAMESPACE)
        for operation in sequence:
            before = await world.fleet.agent("a")
            await world.carry_out(operation)
            after = await world.fleet.agent("a")
            if before.status_reason == "maintenance" and operation[0] != "operator":
                assert after.status_reason == "maintenance"
            await world.check()
        await world.check_after_a_round_of_beats()

    asyncio.run(play())
