"""What an agent may ask for by its certificate alone."""

import importlib
import pkgutil
from typing import Any

import pytest

import fleetplane.v1
from controlplane.api.confinement import CONFINED, NOT_FOR_AGENTS, Claim, Kind, Ownership
from controlplane.api.methods import METHODS, Scope
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import ForeignAgent
from controlplane.domain.agents import Agent, AgentSpec, Instance
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.identity import AgentIdentity
from controlplane.domain.task_rules import assigned
from controlplane.domain.tasks import Hop, Task, TaskReason, TaskSpec
from controlplane.services.ports import Collection, Put
from fleetplane.v1 import (
    agent_pb2,
    config_service_pb2,
    policy_service_pb2,
    registry_service_pb2,
    task_service_pb2,
)
from tests.fakes.fleet import Fleet

MINE = AgentIdentity(namespace="default", agent_name="mine")


def rpcs() -> dict[str, Any]:
    """Full name -> descriptor of the request, of every RPC of the contract."""
    generated = [
        importlib.import_module(f"fleetplane.v1.{module.name}").DESCRIPTOR
        for module in pkgutil.iter_modules(fleetplane.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    return {
        f"/{service.full_name}/{method.name}": method.input_type
        for file in generated
        for service in file.services_by_name.values()
        for method in service.methods
    }


def within_reach() -> set[str]:
    """RPCs that agents may call in the namespace of the request, if only about themselves."""
    reached = {Permission.READ, Permission.REPORT}
    return {
        name
        for name in rpcs()
        if (METHODS[name].permission in reached or METHODS[name].own)
        and METHODS[name].scope is Scope.NAMESPACE
    }


def test_every_rpc_within_reach_of_agents_is_either_confined_or_not_for_them():
    assert CONFINED.keys() | NOT_FOR_AGENTS.keys() == within_reach()
    assert CONFINED.keys() & NOT_FOR_AGENTS.keys() == set()
    assert all(NOT_FOR_AGENTS.values())


def test_every_write_of_agents_is_confined_and_not_merely_refused():
    writes = {name for name in within_reach() if METHODS[name].permission is Permission.REPORT}
    assert writes <= CONFINED.keys()


@pytest.mark.parametrize("name", CONFINED)
def test_every_id_that_a_confined_request_names_is_claimed(name):
    """A new field with an id must not be forgotten: it would be read without being checked."""
    request = filled(rpcs()[name])
    claimed = {claim.name for claim in CONFINED[name](request)}
    assert ids_in(request) <= claimed


SPOKEN_FOR = {"request_id", "task_id", "session_id", "batch_id", "consume_id", "held_set_id"}
"""`request_id`, `batch_id` and `consume_id` name nothing, `held_set_id` what the caller holds; a
session belongs to whoever speaks of it; a lease's task is bound to its instance by the rules of
leases."""

SAID_BY_POLICIES = {"PolicyDecision"}
"""Messages that name policies and decisions, no agents."""


def filled(descriptor: Any, prefix: str = "") -> Any:
    """Return a request in which every id has a value of its own."""
    message = importlib.import_module(
        descriptor.file.name.replace("/", ".").removesuffix(".proto") + "_pb2"
    ).__dict__[descriptor.name]()
    for field in descriptor.fields:
        path, part = f"{prefix}{field.name}", field.message_type
        if part is None:
            if names_something(field):
                setattr(message, field.name, path)
        elif part.name in SAID_BY_POLICIES:
            continue
        elif part.file.package.startswith("fleetplane") and not part.GetOptions().map_entry:
            value = filled(part, f"{path}.")
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                getattr(message, field.name).CopyFrom(value)
    return message


def names_something(field: Any) -> bool:
    is_id = field.name.endswith("_id") or field.name == "agent_name"
    is_name = field.name == "name" and field.containing_type.name == "AgentSpec"
    return (is_id or is_name) and not field.is_repeated


def ids_in(message: Any) -> set[str]:
    found = set()
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = value if field.is_repeated else [value]
            for part in parts:
                found |= ids_in(part)
        elif names_something(field) and not (
            field.name in SPOKEN_FOR and message.DESCRIPTOR.name != "GetTaskRequest"
        ):
            found.add(value)
    return found


class Place:
    """A fleet with an agent that is ours and one that is not, and what judges claims about it."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.ownership = Ownership(self.fleet.replica.read_model, self.fleet.admin)

    async def judge(self, kind: Kind, name: str) -> str:
        """Return the field that is refused; empty: none."""
        try:
            await self.ownership.require(MINE, [Claim(kind, name, "the_field")])
        except ForeignAgent as refusal:
            return refusal.metadata["field"]
        return ""

    async def passes(self, kind: Kind, name: str) -> bool:
        return not await self.judge(kind, name)

    async def register(self, agent_id: str, name: str) -> None:
        """Register an agent with one instance, `<agent_id>-a`, which this replica hears of."""
        await self.unheard(Collection.AGENTS, agent_id, an_agent(agent_id, name))
        await self.fleet.join(agent_id, f"{agent_id}-a")

    async def unheard(self, collection: Collection, key: str, value: Any) -> None:
        """Write something that this replica does not hear of."""
        await self.fleet.commit(Put(collection, key, value))


@pytest.fixture
async def place():
    place = Place()
    await place.register("mine-1", "mine")
    await place.register("other-1", "other")
    return place


def an_agent(agent_id: str, name: str) -> Agent:
    return Agent(agent_id=agent_id, spec=AgentSpec(name=name, version="9.9.9"))


def a_task(task_id: str, *hops: str, held_by: str = "") -> Task:
    ended = tuple(
        Hop(
            epoch=number,
            agent_id=agent_id,
            instance_id=f"{agent_id}-a",
            assigned_at_ms=1,
            started_at_ms=1,
            ended_at_ms=2,
            reason=TaskReason.LEASE_LOST,
        )
        for number, agent_id in enumerate(hops, start=1)
    )
    task = Task(task_id=task_id, spec=TaskSpec(), hops=ended, hop_count=len(ended))
    if not held_by:
        return task
    return assigned(task, agent_id=held_by, instance_id=f"{held_by}-a", generation=1, now_ms=3)


async def test_its_own_name_agents_and_instances_pass(place):
    assert await place.passes(Kind.NAME, "mine")
    assert await place.passes(Kind.AGENT, "mine-1")
    assert await place.passes(Kind.NEW_AGENT, "mine-1")
    assert await place.passes(Kind.INSTANCE, "mine-1-a")
    assert await place.passes(Kind.NEW_INSTANCE, "mine-1-a")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Kind.NAME, "other"),
        (Kind.NAME, "min"),
        (Kind.AGENT, "other-1"),
        (Kind.NEW_AGENT, "other-1"),
        (Kind.INSTANCE, "other-1-a"),
        (Kind.NEW_INSTANCE, "other-1-a"),
        (Kind.NOBODYS, ""),
    ],
)
async def test_what_belongs_to_others_does_not(place, kind, name):
    assert not await place.passes(kind, name)


async def test_another_version_of_the_same_name_is_its_own(place):
    await place.register("mine-2", "mine")
    assert await place.passes(Kind.AGENT, "mine-2")
    assert await place.passes(Kind.INSTANCE, "mine-2-a")


async def test_an_unknown_agent_reads_like_a_foreign_one(place):
    assert not await place.passes(Kind.AGENT, "nobody")
    assert await place.passes(Kind.NEW_AGENT, "nobody")


async def test_unknown_instances_and_tasks_get_the_usual_answer(place):
    assert await place.passes(Kind.INSTANCE, "gone")
    assert await place.passes(Kind.TASK, "gone")
    assert await place.passes(Kind.NEW_INSTANCE, "to-come")


async def test_what_a_request_does_not_name_is_left_to_whoever_answers_it(place):
    for kind in (Kind.NAME, Kind.AGENT, Kind.INSTANCE, Kind.TASK):
        assert await place.passes(kind, "")


async def test_the_ledger_decides_about_what_this_replica_has_not_heard_of(place):
    await place.unheard(Collection.AGENTS, "mine-3", an_agent("mine-3", "mine"))
    await place.unheard(Collection.AGENTS, "other-3", an_agent("other-3", "other"))
    for one in ("mine-3", "other-3"):
        instance = Instance(instance_id=f"{one}-a", agent_id=one)
        await place.unheard(Collection.INSTANCES, f"{one}-a", instance)
        await place.unheard(Collection.TASKS, f"t-{one}", a_task(f"t-{one}", held_by=one))
    assert await place.passes(Kind.AGENT, "mine-3")
    assert await place.passes(Kind.INSTANCE, "mine-3-a")
    assert await place.passes(Kind.TASK, "t-mine-3")
    assert not await place.passes(Kind.AGENT, "other-3")
    assert not await place.passes(Kind.INSTANCE, "other-3-a")
    assert not await place.passes(Kind.TASK, "t-other-3")


async def test_an_instance_whose_agent_is_not_to_be_found_is_foreign(place):
    orphan = Instance(instance_id="orphan", agent_id="nobody")
    await place.unheard(Collection.INSTANCES, "orphan", orphan)
    assert not await place.passes(Kind.INSTANCE, "orphan")


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_task_is_shown_to_those_who_hold_it_or_have_held_it(place, is_heard):
    tasks = {
        "held": a_task("held", held_by="mine-1"),
        "was-held": a_task("was-held", "mine-1", "other-1"),
        "taken-over": a_task("taken-over", "mine-1", held_by="other-1"),
        "foreign": a_task("foreign", "other-1", held_by="other-1"),
        "waiting": a_task("waiting"),
    }
    for name, task in tasks.items():
        await place.unheard(Collection.TASKS, name, task)
    if is_heard:
        await place.fleet.replica.follow()
    shown = [name for name in tasks if await place.passes(Kind.TASK, name)]
    assert shown == ["held", "was-held", "taken-over"]


async def test_a_store_that_does_not_answer_lets_nobody_pass(place):
    class Away:
        async def read(self, *_: Any) -> Any:
            raise StoreUnavailable

    away: Any = Away()
    ownership = Ownership(place.fleet.replica.read_model, away)
    await ownership.require(MINE, [Claim(Kind.INSTANCE, "mine-1-a", "instance_id")])
    with pytest.raises(StoreUnavailable):
        await ownership.require(MINE, [Claim(Kind.INSTANCE, "unheard", "instance_id")])


REGISTRY = "/fleetplane.v1.RegistryService/"


def refused_field(request: Any, name: str) -> set[str]:
    return {claim.field for claim in CONFINED[name](request)}


def test_fields_are_named_as_the_caller_wrote_them():
    registration = registry_service_pb2.RegisterRequest(spec=agent_pb2.AgentSpec(name="a"))
    batch = registry_service_pb2.BatchRegisterRequest(requests=[registration] * 2)
    assert "requests[1].spec.name" in refused_field(batch, REGISTRY + "BatchRegister")
    items = policy_service_pb2.BatchEvaluatePolicyRequest(
        items=[policy_service_pb2.EvaluationItem(agent_id="a")]
    )
    name = "/fleetplane.v1.PolicyService/BatchEvaluatePolicy"
    assert refused_field(items, name) == {"items[0].agent_id"}
    lease = task_service_pb2.AcceptTaskRequest()
    name = "/fleetplane.v1.TaskService/AcceptTask"
    assert refused_field(lease, name) == {"lease.instance_id"}


@pytest.mark.parametrize("scope", [{}, {"emergency": True}])
def test_the_configuration_of_the_namespace_belongs_to_nobody(scope):
    request = config_service_pb2.GetConfigRequest(scope=config_service_pb2.ConfigScope(**scope))
    claims = CONFINED["/fleetplane.v1.ConfigService/GetConfig"](request)
    assert Kind.NOBODYS in {claim.kind for claim in claims}
