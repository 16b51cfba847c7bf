"""What agents and operators do to a `WorkWorld`, as rules of a state machine.

`tests/fakes/work_model.py` says what must be true after every commit; the rules say what callers
must be told.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.domain.agents import AgentSpec, AgentStatus, InstanceState
from controlplane.domain.drains import DrainPhase, DrainThen
from controlplane.domain.errors import (
    DomainError,
    InvalidTransition,
    NotReady,
    StoreUnavailable,
)
from controlplane.services.registration import InstanceClaim, Registration
from tests.fakes.fleet import FakeBeat
from tests.fakes.work_replicas import ADA, RealStore, WorkReplica, WorkWorld

STEP_SECONDS = 10.0
NAMES = ("alpha", "beta")
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
SLOTS = 2
replicas = st.integers(0, 1)
names = st.sampled_from(NAMES)
versions = st.sampled_from(VERSIONS)
instances = st.integers(0, 3)
nth = st.integers(0, 11)
"""One of whatever there is."""

_T = TypeVar("_T")


def pick(some: Sequence[_T], number: int) -> _T | None:
    """Return one of some, the newest for 0; None if there are none."""
    return some[-1 - number % len(some)] if some else None


class AgentsMachine(RuleBasedStateMachine):
    """Each rule is one thing that somebody does at one of the replicas."""

    store: ClassVar[RealStore]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.failed = False
        self.world = WorkWorld(self.store)
        self.model = self.world.model
        self.namespace = self.world.namespace

    # -- how a rule is carried out ---------------------------------------------------------------

    def run(self, job: Coroutine[Any, Any, _T]) -> _T:
        try:
            return self.runner.run(asyncio.wait_for(job, STEP_SECONDS))
        except BaseException:
            self.failed = True
            raise

    def ask(self, at: int, call: Callable[[WorkReplica], Awaitable[_T]]) -> _T | DomainError | None:
        """Return the answer of a replica, or its refusal; None if it could not be had.

        Only a replica whose store fails or whose copy is old may have none.
        """
        replica = self.world.replicas[at]
        shaken = replica.is_shaken

        async def asked() -> _T | DomainError | None:
            if not replica.lagging:
                await replica.follow()
            try:
                return await call(replica)
            except (StoreUnavailable, NotReady):
                assert shaken, "a healthy replica has an answer"
                return None
            except DomainError as refusal:
                return refusal

        return self.run(asked())

    def agent_ids(self) -> list[str]:
        return sorted(self.model.agents)

    @contextlib.contextmanager
    def old_news(self, at: int) -> Iterator[None]:
        """Let a replica hear of everything until now, and of nothing for a while."""
        self.run(self.world.check())
        replica = self.world.replicas[at]
        before, replica.lagging = replica.lagging, 1
        yield
        replica.lagging = before

    def lagging(self) -> set[int]:
        return {at for at, replica in enumerate(self.world.replicas) if replica.lagging}

    def held_of(self, agent_id: str) -> list[str]:
        tasks = self.model.tasks.values()
        return [t.task_id for t in tasks if t.state.is_held and t.agent_id == agent_id]

    @invariant()
    def everybody_says_the_same(self) -> None:
        self.run(self.world.check())
        for replica in self.world.replicas:
            replica.lagging = max(replica.lagging - 1, 0)

    def generation(self, instance_id: str) -> int:
        instance = self.model.instances.get(instance_id)
        return instance.generation if instance is not None else 0

    # -- agents and their processes --------------------------------------------------------------

    @rule(at=replicas, name=names, version=versions, number=instances)
    def register(self, at: int, name: str, version: str, number: int) -> None:
        """Register an agent and a new process of it, under an id that may be in use."""
        self.registered(at, name, version, number)

    def registered(self, at: int, name: str, version: str, number: int) -> str:
        instance_id = f"{name}-{version}-{number % 2}"
        spec = AgentSpec(
            name=name,
            version=version,
            capabilities=("read", "write") if name == "alpha" else ("read",),
            max_concurrency=SLOTS,
        )
        claim = InstanceClaim(instance_id=instance_id)
        wanted = Registration(spec=spec, instance=claim)
        answer = self.ask(at, lambda r: r.registry.register(r.namespace, wanted, caller=ADA))
        if isinstance(answer, DomainError):
            assert isinstance(answer, InvalidTransition)
            (agent,) = (a for a in self.model.agents.values() if a.spec == spec)
            assert agent.status is AgentStatus.DECOMMISSIONED
        return instance_id

    @rule(at=replicas, name=names, version=versions, number=instances)
    def arrive(self, at: int, name: str, version: str, number: int) -> None:
        """Start a process that beats and takes tasks."""
        instance_id = self.registered(at, name, version, number)
        if self.generation(instance_id):
            beat = FakeBeat(instance_id, self.generation(instance_id))
            self.ask(at, lambda r: r.beat(beat))
            self.ask(at, lambda r: r.open_stream(instance_id, beat.generation))

    @rule(at=replicas, number=nth, age=st.sampled_from((0, 0, 0, 1)), busy=st.integers(0, 1))
    def beat(self, at: int, number: int, age: int, busy: int) -> None:
        instance_id = pick(sorted(self.model.instances), number)
        if instance_id is not None:
            generation = self.generation(instance_id) - age
            before = self.model.instances[instance_id]
            self.ask(at, lambda r: r.beat(FakeBeat(instance_id, generation, in_flight=busy)))
            if age:
                assert self.model.instances[instance_id] == before
            self.ask(1 - at, WorkReplica.merge)

    @rule(at=replicas, number=nth, age=st.sampled_from((0, 0, 1)))
    def goodbye(self, at: int, number: int, age: int) -> None:
        instance_id = pick(sorted(self.model.instances), number)
        if instance_id is not None:
            generation = self.generation(instance_id) - age
            shaken = self.world.replicas[at].is_shaken
            self.ask(at, lambda r: r.beat(FakeBeat(instance_id, generation, goodbye=True)))
            gone = instance_id not in self.model.instances
            assert not gone if age else gone or shaken

    @rule(at=replicas, number=nth)
    def silence(self, at: int, number: int) -> None:
        instance_id = pick(sorted(self.model.instances), number)
        if instance_id is not None:
            before = self.model.instances[instance_id].state
            shaken = self.world.replicas[at].is_shaken
            self.ask(at, lambda r: r.expire(instance_id))
            after = self.model.instances.get(instance_id)
            if before is InstanceState.FRESH and not shaken:
                assert after is not None
                assert after.state is InstanceState.SILENT

    @rule(at=replicas, number=nth, stays=st.booleans())
    def open_stream(self, at: int, number: int, *, stays: bool) -> None:
        instance_id = pick(sorted(self.model.instances), number)
        if instance_id is not None:
            generation = self.generation(instance_id)
            if stays:
                self.ask(at, lambda r: r.open_stream(instance_id, generation))
            else:
                self.ask(at, lambda r: r.leave_stream(instance_id, generation))

    # -- operators -------------------------------------------------------------------------------

    @rule(at=replicas, number=nth)
    def activate(self, at: int, number: int) -> None:
        agent_id = pick(self.agent_ids(), number)
        if agent_id is None:
            return
        answer = self.ask(at, lambda r: activate(r, agent_id))
        status = self.model.agents[agent_id].status
        if answer is not None:
            refused = isinstance(answer, DomainError)
            assert refused == (status in {AgentStatus.DEGRADED, AgentStatus.DECOMMISSIONED})
            assert refused or status is AgentStatus.ACTIVE

    @rule(at=replicas, number=nth, drain_ms=st.sampled_from((None, None, 1_000, 20_000)))
    def deactivate(self, at: int, number: int, drain_ms: int | None) -> None:
        agent_id = pick(self.agent_ids(), number)
        if agent_id is None:
            return
        lagging = self.lagging()
        answer = self.ask(at, lambda r: deactivate(r, agent_id, drain_ms))
        agent = self.model.agents[agent_id]
        if isinstance(answer, DomainError):
            assert agent.status is AgentStatus.DECOMMISSIONED
        elif answer is not None:
            assert agent.is_stopped or (drain_ms is not None and agent.draining)
            assert not agent.is_stopped or at in lagging or not self.held_of(agent_id)

    @rule(at=replicas, number=nth, force=st.booleans())
    def decommission(self, at: int, number: int, *, force: bool) -> None:
        agent_id = pick(self.agent_ids(), number)
        if agent_id is None or number < 9:  # For good: rarely, or nobody is left.
            return
        lagging = self.lagging()
        answer = self.ask(at, lambda r: _decommission(r, agent_id, force=force))
        agent = self.model.agents[agent_id]
        if isinstance(answer, DomainError):
            assert not force
            assert agent.status in {AgentStatus.ACTIVE, AgentStatus.DEGRADED}
        elif answer is not None:
            assert agent.status is AgentStatus.DECOMMISSIONED
            left = [one for one in self.model.instances.values() if one.agent_id == agent_id]
            assert not left or at in lagging

    @rule(
        at=replicas,
        number=nth,
        one=st.booleans(),
        then=st.sampled_from(DrainThen),
        deadline_ms=st.sampled_from((1_000, 20_000)),
    )
    def drain(self, at: int, number: int, *, one: bool, then: DrainThen, deadline_ms: int) -> None:
        target = pick(sorted(self.model.instances) if one else self.agent_ids(), number)
        if target is None:
            return
        answer = self.ask(
            at,
            partial(
                drain,
                agent_id="" if one else target,
                instance_id=target if one else "",
                deadline_ms=deadline_ms,
                then=then,
            ),
        )
        if answer is not None and not isinstance(answer, DomainError):
            assert (self.model.instances if one else self.model.agents)[target].draining

    @rule(at=replicas, number=nth)
    def cancel_drain(self, at: int, number: int) -> None:
        drain = pick(sorted(self.model.drains.values(), key=lambda d: d.key), number)
        if drain is None:
            return
        names = {"agent_id": drain.agent_id, "instance_id": drain.instance_id}
        answer = self.ask(
            at, lambda r: r.drains.cancel(r.namespace, **names, reason="", caller=ADA)
        )
        if answer is not None and not isinstance(answer, DomainError):
            assert self.model.drains[drain.key].phase is DrainPhase.CANCELLED

    @rule(at=replicas, number=nth)
    def bring_back(self, at: int, number: int) -> None:
        """Activate what is stopped: somebody always does, sooner or later."""
        for agent_id in self.agent_ids():
            if self.model.agents[agent_id].is_stopped:
                self.ask(at, partial(activate, agent_id=agent_id))
        self.activate(at, number)

    @rule(at=replicas, name=st.sampled_from((*NAMES, "")), rarely=st.integers(0, 3))
    def emergency_stop(self, at: int, name: str, rarely: int) -> None:
        if rarely:
            return
        self.ask(
            at,
            lambda r: r.stops.stop(
                r.namespace,
                tags={},
                names=(name,) if name else (),
                everything=not name,
                reason="incident",
                wait_ms=0,
                request=None,
                caller=ADA,
            ),
        )

    @rule(at=replicas, number=nth)
    def acknowledge(self, at: int, number: int) -> None:
        instance_id = pick(sorted(self.model.instances), number)
        if instance_id is None:
            return
        replica, generation = self.world.replicas[at], self.generation(instance_id)
        said = [(stop_id, instance_id, generation) for stop_id in sorted(replica.view.work.stops)]
        self.ask(at, lambda r: r.stops.acknowledge_many(r.namespace, said))


async def activate(replica: WorkReplica, agent_id: str) -> Any:
    return await replica.lifecycle.activate(
        replica.namespace,
        agent_id,
        reason="",
        expected_revision=0,
        confirm_pending=False,
        request=None,
        caller=ADA,
    )


async def deactivate(replica: WorkReplica, agent_id: str, drain_ms: int | None) -> Any:
    return await replica.lifecycle.deactivate(
        replica.namespace,
        agent_id,
        reason="night",
        drain_ms=drain_ms,
        expected_revision=0,
        request=None,
        caller=ADA,
    )


async def _decommission(replica: WorkReplica, agent_id: str, *, force: bool) -> Any:
    return await replica.lifecycle.decommission(
        replica.namespace,
        agent_id,
        reason="old",
        force=force,
        expected_revision=0,
        request=None,
        caller=ADA,
    )


async def drain(
    replica: WorkReplica,
    agent_id: str = "",
    instance_id: str = "",
    deadline_ms: int = 20_000,
    then: DrainThen = DrainThen.STAY,
) -> Any:
    return await replica.drains.start(
        replica.namespace,
        agent_id=agent_id,
        instance_id=instance_id,
        deadline_ms=deadline_ms,
        then=then,
        reason="new release",
        request=None,
        caller=ADA,
    )
