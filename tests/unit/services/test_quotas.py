"""Quotas: what they refuse, what they never refuse, and by how much writes may pass them."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.access.refusals import QuotaExceeded
from controlplane.domain.agents import AgentSpec, AgentStatus
from controlplane.domain.configs import LayerKind, LayerScope
from controlplane.domain.errors import LimitExceeded
from controlplane.domain.namespaces import Quota, Quotas
from controlplane.domain.policies import Effect, Policy
from controlplane.domain.tasks import Task, TaskSpec
from controlplane.services.configs import ConfigChange
from controlplane.services.ids import TimeSortedIds
from controlplane.services.namespaces.quotas import NO_QUOTAS
from controlplane.services.namespaces.usage import ConfigBytes, Usage, layer_bytes
from controlplane.services.ports import AuditEntry, Collection, Put, Transaction
from controlplane.services.prompts.prompts import Prompts
from controlplane.services.registration import InstanceClaim, Registration
from controlplane.services.tasks.data import TaskData
from controlplane.services.tasks.tasks import RETRY_WHEN_FULL_SECONDS, Submission, Tasks
from tests.fakes.namespace_plane import ADA, NamespacePlane, NamespaceReplica
from tests.fakes.prompt_world import text

NS = "team-a"
TEAM = LayerScope(LayerKind.NAMESPACE)


async def bounded(**quotas: int) -> NamespacePlane:
    plane = NamespacePlane()
    await plane.create(NS, quotas=Quotas(**quotas))
    return plane


async def add_policy(plane: NamespaceReplica, policy_id: str, *, dry_run: bool = False) -> None:
    await plane.policies.create(
        NS,
        Policy(policy_id=policy_id, action=Effect.DENY, match_all=True),
        reason="",
        request=None,
        dry_run=dry_run,
        caller=ADA,
    )


async def set_layer(
    plane: NamespaceReplica, text: str, *, scope: LayerScope = TEAM, dry_run: bool = False
) -> None:
    change = ConfigChange(scope=scope, set_={"extra.note": text}, dry_run=dry_run)
    await plane.configs.update(NS, change, caller=ADA)


class Bell:
    def wake(self, namespace: str, made: Any = ()) -> None:  # noqa: ARG002 - as the protocol
        assert namespace == NS


def tasks_of(plane: NamespaceReplica, max_waiting: int = 1000) -> Tasks:
    return Tasks(
        plane.ledger,
        plane.read_model,
        TimeSortedIds(),
        TaskData(plane.ledger),
        Bell(),
        plane.clock,
        max_waiting=max_waiting,
        quotas=plane.quotas,
    )


def submissions(count: int) -> list[Submission]:
    return [Submission(spec=TaskSpec(agent_name="reader"))] * count


async def test_agents_are_bounded_and_the_refusal_names_the_quota():
    plane = await bounded(agents=2)
    await plane.register(NS, "one")
    await plane.register(NS, "two")
    await plane.register(NS, "two")  # is there already
    with pytest.raises(QuotaExceeded) as refused:
        await plane.register(NS, "three")
    assert refused.value.metadata == {"limit": "2", "quota": "agents", "namespace": NS}
    await plane.register("team-b", "three")


async def test_a_decommissioned_agent_makes_room():
    plane = await bounded(agents=1)
    agent = (await plane.register(NS, "one")).agent
    gone = agent.moved(AgentStatus.DECOMMISSIONED, "")
    audit = AuditEntry(actor="ada", method="Decommission", object="agents")
    steps = (Put(Collection.AGENTS, agent.agent_id, gone),)
    await plane.ledger.commit(Transaction(namespace=NS, steps=steps, audit=audit))
    await plane.register(NS, "two")
    with pytest.raises(QuotaExceeded):
        await plane.register(NS, "three")


async def test_instances_are_bounded_and_a_new_process_takes_the_place_of_the_old_one():
    plane = await bounded(instances=1)
    first = await plane.register(NS, "one", instance_id="box")
    again = await plane.register(NS, "one", instance_id="box")
    assert first.instance is not None
    assert again.instance is not None
    assert again.instance.generation > first.instance.generation
    with pytest.raises(QuotaExceeded, match="instances"):
        await plane.register(NS, "one", instance_id="other")


async def test_a_batch_is_filled_up_to_the_bound_in_order():
    plane = await bounded(agents=2, instances=3)
    batch = [
        Registration(
            spec=AgentSpec(name=f"agent-{number}", version="1.0.0"),
            instance=InstanceClaim(instance_id=f"box-{number}"),
        )
        for number in range(4)
    ]
    outcomes = await plane.registry.register_many(NS, batch, caller=ADA)
    assert [isinstance(one, QuotaExceeded) for one in outcomes] == [False, False, True, True]
    assert len(plane.read_model.view(NS).agents) == 2


async def test_calls_at_once_do_not_pass_a_bound_together():
    plane = await bounded(agents=3, policies=3)
    await plane.follow(NS)
    for job in (lambda n: plane.register(NS, f"agent-{n}"), lambda n: add_policy(plane, f"p{n}")):
        outcomes = await asyncio.gather(*(job(n) for n in range(10)), return_exceptions=True)
        assert sum(isinstance(one, QuotaExceeded) for one in outcomes) == 7
    view = plane.read_model.view(NS)
    assert (len(view.agents), len(view.policies)) == (3, 3)
    with pytest.raises(QuotaExceeded):
        await plane.register(NS, "agent-x")


async def test_replicas_pass_a_bound_by_what_they_wrote_at_the_same_moment():
    plane = await bounded(agents=3)
    other = plane.another()
    await other.follow()
    for at, name in ((plane, "one"), (plane, "two"), (plane, "three"), (other, "four")):
        await at.register(NS, name)  # the other one had not heard of the first three
    assert len(other.read_model.view(NS).agents) == 4
    for at in (plane, other):
        await at.follow(NS)
        with pytest.raises(QuotaExceeded):
            await at.register(NS, "five")


async def test_a_failed_write_gives_its_room_back(monkeypatch: pytest.MonkeyPatch):
    plane = await bounded(agents=1)

    async def fails(_: Transaction) -> Any:
        raise OSError("away")

    with monkeypatch.context() as away:
        away.setattr(plane.ledger, "commit", fails)
        with pytest.raises(OSError, match="away"):
            await plane.register(NS, "one")
    await plane.register(NS, "one")


async def test_policies_are_bounded_also_in_a_dry_run():
    plane = await bounded(policies=1)
    await add_policy(plane, "one")
    for dry_run in (True, False):
        with pytest.raises(QuotaExceeded, match="policies"):
            await add_policy(plane, "two", dry_run=dry_run)


async def test_configuration_is_bounded_in_bytes_and_may_always_shrink():
    plane = await bounded(config_bytes=200)
    await set_layer(plane, "x" * 150)
    with pytest.raises(QuotaExceeded, match="config_bytes"):
        await set_layer(plane, "x" * 190, dry_run=True)
    other = LayerScope(LayerKind.AGENT_NAME, "reader")
    with pytest.raises(QuotaExceeded, match="config_bytes"):
        await set_layer(plane, "x" * 50, scope=other)
    await set_layer(plane, "x", scope=other)
    await plane.bound(NS, config_bytes=10)
    await set_layer(plane, "x" * 100)
    with pytest.raises(QuotaExceeded):
        await set_layer(plane, "x" * 101)


async def test_the_emergency_layer_is_never_refused():
    plane = await bounded(config_bytes=1)
    emergency = LayerScope(LayerKind.EMERGENCY)
    change = ConfigChange(scope=emergency, set_={"blocked_tools": ["shell"]})
    await plane.configs.update(NS, change, caller=ADA)
    assert (await plane.usage.of(NS)).used.config_bytes > 1


async def test_a_rollback_is_bounded_as_well():
    plane = await bounded()
    await set_layer(plane, "x" * 100)
    big = plane.read_model.view(NS).layers["namespace"].revision
    await set_layer(plane, "x")
    await plane.bound(NS, config_bytes=50)
    with pytest.raises(QuotaExceeded):
        await plane.configs.rollback(
            NS, TEAM, big, expected_revision=None, reason="", request=None, caller=ADA
        )


async def test_waiting_tasks_are_bounded_and_the_refusal_says_when_to_return():
    plane = await bounded(waiting_tasks=2)
    tasks = tasks_of(plane)
    outcomes = await tasks.submit_many(NS, submissions(3), caller=ADA)
    assert [isinstance(one, Task) for one in outcomes] == [True, True, False]
    with pytest.raises(QuotaExceeded) as refused:
        await tasks.submit(NS, submissions(1)[0], caller=ADA)
    assert refused.value.retry_after_seconds == RETRY_WHEN_FULL_SECONDS
    await plane.bound(NS, waiting_tasks=0)
    await tasks.submit(NS, submissions(1)[0], caller=ADA)


async def test_the_bound_of_the_daemon_holds_beside_the_quota():
    plane = await bounded(waiting_tasks=5)
    outcomes = await tasks_of(plane, max_waiting=2).submit_many(NS, submissions(3), caller=ADA)
    assert isinstance(outcomes[2], LimitExceeded)
    assert not isinstance(outcomes[2], QuotaExceeded)


async def write_prompt(plane: NamespaceReplica, name: str, said: str) -> None:
    prompts = Prompts(
        plane.ledger,
        plane.read_model,
        max_prompts=100,
        max_bytes=1 << 20,
        quotas=plane.quotas,
    )
    await prompts.create(
        NS,
        name,
        text(said),
        reason="r",
        force_new=True,
        expected_latest=None,
        request=None,
        caller=ADA,
    )


async def test_prompts_and_their_bytes_are_bounded():
    plane = await bounded(prompts=1, prompt_bytes=4_096)
    await write_prompt(plane, "one", "x" * 1_000)
    with pytest.raises(QuotaExceeded, match="prompts of namespace") as caught:
        await write_prompt(plane, "two", "x")
    assert caught.value.metadata["quota"] == "prompts"
    await write_prompt(plane, "one", "x" * 1_000)
    with pytest.raises(QuotaExceeded) as caught:
        await write_prompt(plane, "one", "x" * 1_000)
    assert caught.value.metadata["quota"] == "prompt_bytes"


async def test_usage_counts_what_the_quotas_bound():
    plane = await bounded(agents=9)
    await write_prompt(plane, "one", "hello")
    await plane.register(NS, "one", instance_id="box")
    await add_policy(plane, "p")
    await set_layer(plane, "x" * 100)
    await tasks_of(plane).submit_many(NS, submissions(2), caller=ADA)

    class Meter:
        def streams_of(self, namespace: str) -> int:
            assert namespace == NS
            return 4

        def watches_of(self, namespace: str) -> int:
            assert namespace == NS
            return 5

        def calls_per_second_of(self, namespace: str) -> float:
            assert namespace == NS
            return 0.2

    report = await Usage(plane.read_model, ConfigBytes(), Meter()).of(NS)
    layer = plane.read_model.view(NS).layers["namespace"]
    assert report.used == Quotas(
        agents=1,
        instances=1,
        streams=4,
        watches=5,
        policies=1,
        config_bytes=layer_bytes(layer),
        waiting_tasks=2,
        calls_per_second=1,
        prompts=1,
        prompt_bytes=1_029,
    )
    assert report.position == plane.read_model.view(NS).position
    assert (await plane.usage.of("nobody")).used == Quotas()


async def test_only_layers_that_changed_are_measured_anew(monkeypatch: pytest.MonkeyPatch):
    plane = await bounded()
    for name in ("a", "b"):
        await set_layer(plane, "x", scope=LayerScope(LayerKind.AGENT_NAME, name))
    sizes, measured = ConfigBytes(), []

    def measuring(layer: Any) -> int:
        measured.append(layer.scope.key)
        return layer_bytes(layer)

    monkeypatch.setattr("controlplane.services.namespaces.usage.layer_bytes", measuring)
    view = plane.read_model.view(NS)
    before = await sizes.of(view)
    assert await sizes.of(view) == before
    await set_layer(plane, "xyz", scope=LayerScope(LayerKind.AGENT_NAME, "b"))
    assert await sizes.of(plane.read_model.view(NS)) == before + 2
    assert measured == ["name:a", "name:b", "name:b"]


def test_without_quotas_nothing_is_bounded():
    assert NO_QUOTAS.bound(NS, Quota.AGENTS) == 0
    NO_QUOTAS.check(NS, Quota.AGENTS, 10**9, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=5))
def test_one_replica_never_passes_a_bound(bound: int, waves: list[list[int]]):
    async def run() -> None:
        plane = await bounded(agents=bound)
        wanted: set[int] = set()
        for wave in waves:
            wanted.update(wave)
            await asyncio.gather(
                *(plane.register(NS, f"agent-{number}") for number in wave),
                return_exceptions=True,
            )
            assert len(plane.read_model.view(NS).agents) <= bound
        assert len(plane.read_model.view(NS).agents) == min(bound, len(wanted))

    asyncio.run(run())
