"""Whatever happens in whatever order, an agent is as healthy as its instances."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import REVIVABLE_REASONS, AgentStatus, InstanceState
from controlplane.services.ports import Collection, Ledger
from controlplane.services.read_model import NamespaceView
from tests.fakes.fleet import NAMESPACE, FakeBeat, Fleet, Replica

NAMES = ("i", "j", "k")

names = st.sampled_from(NAMES)
replicas = st.integers(0, 1)


class InterleavingLedger:
    """Lets others run before each call to the ledger, as often as its script says.

    `check` is called when a call was carried out, before anybody else can run.
    """

    def __init__(
        self, ledger: Ledger, pauses: Iterator[int], check: Callable[[], Awaitable[None]]
    ) -> None:
        self._ledger = ledger
        self._pauses = pauses
        self._check = check

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def interleaved(*args: Any) -> Any:
            for _ in range(next(self._pauses)):
                await asyncio.sleep(0)
            answer = await method(*args)
            await self._check()
            return answer

        return interleaved


class World:
    """Two replicas whose copies lag until they follow.

    With `prompt` they hear of what they wait for at once; without, waiting is in vain.
    """

    def __init__(self, *, prompt: bool, pauses: Sequence[int] = (0,)) -> None:
        self.fleet = Fleet()
        script = itertools.cycle(pauses)

        def wrap(ledger: Ledger) -> Any:
            return InterleavingLedger(ledger, script, self.check_status)

        self.replicas = [self.fleet.add_replica(name, wrap=wrap) for name in ("one", "two")]
        self.generations: dict[str, int] = {}
        if prompt:
            for replica in self.replicas:
                self.follow_when_waiting(replica)

    @staticmethod
    def follow_when_waiting(replica: Replica) -> None:
        async def at_least(_namespace: str, revision: int) -> NamespaceView:
            if replica.view.position.revision < revision:
                await replica.follow()
            return replica.view

        replica.read_model.at_least = at_least  # type: ignore[method-assign, assignment]  # the follower

    async def carry_out(  # noqa: C901 - a table with a row per operation
        self, operation: tuple[Any, ...]
    ) -> None:
        match operation:
            case ("join", name):
                self.generations[name] = await self.fleet.join("a", name)
            case ("arrive", name, at):
                await self.carry_out(("join", name))
                await self.carry_out(("beat", name, at))
            case ("beat", name, at) if name in self.generations:
                await self.message(self.replicas[at], FakeBeat(name, self.generations[name]))
            case ("zombie", name, at) if name in self.generations:
                await self.message(self.replicas[at], FakeBeat(name, self.generations[name] - 1))
            case ("goodbye", name, at) if name in self.generations:
                farewell = FakeBeat(name, self.generations[name], goodbye=True)
                await self.message(self.replicas[at], farewell)
            case ("pass", seconds):
                for _ in range(seconds):  # somebody always looks
                    self.fleet.clock.shift(1)
                    await self.replicas[0].beat_log.due(
                        NAMESPACE, limit=0, freeze_gap_ms=2_000, grace_ms=0
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
        await self.check_status()
        for name in NAMES:
            instance = await self.fleet.instance(name)
            if instance is not None:
                assert instance.generation == self.generations[name]
                assert self.fleet.deadline_of(name) is not None

    async def check_status(self) -> None:
        """Hold what is true after every single commit."""
        agent, states = await self.fleet.agent("a"), await self.states()
        if agent.status is AgentStatus.ACTIVE:
            assert {InstanceState.FRESH, InstanceState.STARTING} & set(states)
        if agent.status is AgentStatus.DEGRADED or agent.status_reason in REVIVABLE_REASONS:
            assert InstanceState.FRESH not in states


operation = st.one_of(
    st.tuples(st.just("join"), names),
    st.tuples(st.just("arrive"), names, replicas),
    st.tuples(st.just("beat"), names, replicas),
    st.tuples(st.just("zombie"), names, replicas),
    st.tuples(st.just("goodbye"), names, replicas),
    st.tuples(st.just("pass"), st.sampled_from((1, 15, 31, 280))),
    st.tuples(st.just("sweep"), replicas),
    st.tuples(st.just("follow"), replicas),
    st.tuples(st.just("operator"), st.booleans()),
)
operations = st.lists(operation, max_size=40)


@pytest.fixture(autouse=True, scope="module")
def waiting_in_vain_is_short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controlplane.services.families.CATCH_UP_SECONDS", 0.0)
        yield


@given(operations, st.booleans())
@settings(max_examples=200, deadline=None)
def test_an_agent_is_at_every_moment_as_healthy_as_its_instances(sequence, prompt):
    async def play() -> None:
        world = World(prompt=prompt)
        await begin(world)
        for operation in sequence:
            before = await world.fleet.agent("a")
            await world.carry_out(operation)
            after = await world.fleet.agent("a")
            if before.status_reason == "maintenance" and operation[0] != "operator":
                assert after.status_reason == "maintenance"
            await world.check()

    asyncio.run(play())


@given(
    st.lists(st.lists(operation, min_size=1, max_size=4), max_size=8),
    st.lists(st.integers(0, 6), min_size=1, max_size=12),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_whatever_happens_at_once_no_agent_is_lowered_while_an_instance_is_fresh(
    sequence, pauses, prompt
):
    async def play() -> None:
        world = World(prompt=prompt, pauses=pauses)
        await begin(world)
        for together in sequence:
            await asyncio.gather(*(world.carry_out(one) for one in together))
            await world.check()

    asyncio.run(play())


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_last_one_leaves_while_another_arrives_elsewhere(pauses, prompt, silently):
    async def play() -> None:
        world = World(prompt=prompt, pauses=pauses)
        await begin(world)
        await world.carry_out(("goodbye", "j", 0))
        await world.carry_out(("follow", 1))
        if silently:
            await world.carry_out(("pass", 31))
        leaving = ("sweep", 1) if silently else ("goodbye", "i", 1)
        await asyncio.gather(world.carry_out(leaving), world.carry_out(("arrive", "k", 0)))
        await world.check()
        arrived = await world.fleet.instance("k")
        assert arrived is not None
        assert arrived.state is InstanceState.FRESH
        assert (await world.fleet.agent("a")).status is AgentStatus.ACTIVE

    asyncio.run(play())


async def begin(world: World) -> None:
    await world.fleet.register("a")
    for replica in world.replicas:
        await replica.follow()
        await replica.expiry.sweep(NAMESPACE)
    for operation in (("pass", 31), ("arrive", "i", 0), ("arrive", "j", 1), ("follow", 0)):
        await world.carry_out(operation)
