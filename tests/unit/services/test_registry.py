"""Registration: idempotent, unique, fenced, each of a batch for itself."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import AgentSpec, AgentStatus
from controlplane.domain.errors import (
    AgentExists,
    AgentNotFound,
    InstanceFenced,
    InvalidArgument,
    InvalidTransition,
    RequestIdReused,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.services.ports import AuditEntry, Collection, Put, RequestKey, Transaction
from controlplane.services.registration import InstanceClaim, Registration
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.plane import CALLER, NS, Plane

SPEC = AgentSpec(name="researcher", version="1.0.0", capabilities=("search", "summarise"))


async def test_a_new_agent_gets_an_id_and_the_stores_revision_and_time() -> None:
    plane = Plane()
    outcome = await plane.registry.register(NS, Registration(spec=SPEC), caller=CALLER)
    assert outcome.created
    assert outcome.agent.agent_id.startswith("agt-")
    assert outcome.agent.revision == 1
    assert outcome.agent.registered_at_ms == plane.clock.store_ms()
    assert (await plane.follow()).agents[outcome.agent.agent_id].agent == outcome.agent


async def test_the_same_registration_again_writes_nothing() -> None:
    plane = Plane()
    first = await plane.registry.register(NS, Registration(spec=SPEC), caller=CALLER)
    for follow in (False, True):
        if follow:
            await plane.follow()
        again = await plane.registry.register(NS, Registration(spec=SPEC), caller=CALLER)
        assert again.agent == first.agent
        assert not again.created
    assert len(await plane.ledger.read_audit(NS)) == 1


async def test_the_order_of_capabilities_is_no_difference() -> None:
    plane = Plane()
    await plane.registry.register(NS, Registration(spec=SPEC), caller=CALLER)
    other = replace(SPEC, capabilities=("summarise", "search"))
    again = await plane.registry.register(NS, Registration(spec=other), caller=CALLER)
    assert not again.created


@pytest.mark.parametrize("follows", [False, True], ids=["copy lags", "copy is current"])
async def test_other_content_under_the_same_name_and_version_is_refused(follows: bool) -> None:
    plane = Plane()
    first = await plane.registry.register(NS, Registration(spec=SPEC), caller=CALLER)
    if follows:
        await plane.follow()
    other = Registration(spec=replace(SPEC, description="something else"))
    with pytest.raises(AgentExists) as refusal:
        await plane.registry.register(NS, other, caller=CALLER)
    assert refusal.value.agent_id == first.agent.agent_id


async def test_the_same_name_and_version_under_another_id_is_refused() -> None:
    plane = Plane()
    await plane.registry.register(NS, Registration(spec=SPEC, agent_id="a"), caller=CALLER)
    with pytest.raises(AgentExists):
        await plane.registry.register(NS, Registration(spec=SPEC, agent_id="b"), caller=CALLER)


async def test_an_id_that_belongs_to_another_name_is_refused() -> None:
    plane = Plane()
    await plane.registry.register(NS, Registration(spec=SPEC, agent_id="a"), caller=CALLER)
    other = replace(SPEC, name="writer")
    with pytest.raises(AgentExists):
        await plane.registry.register(NS, Registration(spec=other, agent_id="a"), caller=CALLER)


async def test_namespaces_do_not_see_each_other() -> None:
    plane = Plane()
    one = await plane.registry.register("one", Registration(spec=SPEC), caller=CALLER)
    two = await plane.registry.register("two", Registration(spec=SPEC), caller=CALLER)
    assert one.agent.agent_id != two.agent.agent_id


async def test_a_repeated_request_id_gets_the_first_answer() -> None:
    plane = Plane()
    registration = Registration(
        spec=SPEC, instance=InstanceClaim(), request=RequestKey("r-1", "digest")
    )
    first = await plane.registry.register(NS, registration, caller=CALLER)
    again = await plane.registry.register(NS, registration, caller=CALLER)
    assert again.instance == first.instance
    assert again.agent.agent_id == first.agent.agent_id
    assert not again.created


async def test_a_request_id_with_other_content_is_refused() -> None:
    plane = Plane()
    one = Registration(spec=SPEC, request=RequestKey("r-1", "one"))
    other = Registration(spec=replace(SPEC, name="writer"), request=RequestKey("r-1", "other"))
    await plane.registry.register(NS, one, caller=CALLER)
    with pytest.raises(RequestIdReused):
        await plane.registry.register(NS, other, caller=CALLER)


async def test_a_write_that_happened_but_was_not_answered_is_repaired_by_the_retry() -> None:
    plane = Plane(wrap=FaultyLedger)
    registration = Registration(
        spec=SPEC, instance=InstanceClaim(), request=RequestKey("r-1", "digest")
    )
    assert isinstance(plane.ledger, FaultyLedger)
    plane.ledger.execute_then_fail()
    with pytest.raises(StoreUnavailable):
        await plane.registry.register(NS, registration, caller=CALLER)
    again = await plane.registry.register(NS, registration, caller=CALLER)
    assert again.instance is not None
    assert len(await plane.ledger.read_audit(NS)) == 1
    assert len((await plane.follow()).instances) == 1


async def test_a_new_process_under_the_same_instance_id_gets_a_higher_generation() -> None:
    plane = Plane()
    first = await plane.register(instance="i-1")
    second = await plane.register(instance="i-1")
    assert first.instance is not None
    assert second.instance is not None
    assert second.instance.generation > first.instance.generation


async def test_a_process_that_holds_the_current_generation_keeps_it() -> None:
    plane = Plane()
    first = await plane.register(instance="i-1")
    assert first.instance is not None
    claim = InstanceClaim(instance_id="i-1", generation=first.instance.generation)
    spec = AgentSpec(name="researcher", version="1.0.0")
    again = await plane.registry.register(
        NS, Registration(spec=spec, instance=claim), caller=CALLER
    )
    assert again.instance is not None
    assert again.instance.generation == first.instance.generation
    assert not again.created


async def test_a_zombie_that_registers_with_its_old_generation_is_fenced() -> None:
    plane = Plane()
    first = await plane.register(instance="i-1")
    await plane.register(instance="i-1")
    assert first.instance is not None
    claim = InstanceClaim(instance_id="i-1", generation=first.instance.generation)
    spec = AgentSpec(name="researcher", version="1.0.0")
    with pytest.raises(InstanceFenced):
        await plane.registry.register(NS, Registration(spec=spec, instance=claim), caller=CALLER)


async def test_an_instance_id_of_another_agent_is_refused() -> None:
    plane = Plane()
    await plane.register("researcher", instance="i-1")
    with pytest.raises(InvalidArgument) as refusal:
        await plane.register("writer", instance="i-1")
    assert refusal.value.violations[0].field == "instance.instance_id"


async def test_each_entry_of_a_batch_succeeds_or_fails_by_itself() -> None:
    plane = Plane()
    await plane.register("taken", description="first")
    entries = [
        Registration(spec=AgentSpec(name="one", version="1.0.0"), instance=InstanceClaim()),
        Registration(spec=AgentSpec(name="taken", version="1.0.0", description="other")),
        Registration(spec=AgentSpec(name="one", version="1.0.0"), instance=InstanceClaim()),
        Registration(spec=AgentSpec(name="two", version="1.0.0")),
    ]
    outcomes = await plane.registry.register_many(NS, entries, caller=CALLER)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Registered",
        "AgentExists",
        "Registered",
        "Registered",
    ]
    view = await plane.follow()
    assert len(view.agents) == 3
    assert len(view.instances) == 2


async def test_a_decommissioned_agent_cannot_register_again() -> None:
    plane = Plane()
    agent = (await plane.register()).agent
    retired = replace(agent, status=AgentStatus.DECOMMISSIONED)
    await plane.ledger.commit(
        Transaction(
            namespace=NS,
            steps=(Put(Collection.AGENTS, agent.agent_id, retired),),
            audit=AuditEntry(actor="ada", method="Decommission", object="agents/x"),
        )
    )
    await plane.follow()
    with pytest.raises(InvalidTransition):
        await plane.register()


async def update(plane: Plane, agent_id: str, spec: AgentSpec, *paths: str, **more: int) -> int:
    changed = await plane.registry.update(
        NS,
        agent_id,
        spec,
        paths,
        expected_revision=more.get("expected_revision", 0),
        reason="because",
        request=None,
        caller=CALLER,
    )
    return changed.revision


async def test_an_update_changes_only_the_fields_of_its_mask() -> None:
    plane = Plane()
    agent = (await plane.register(owner="team-a", description="old")).agent
    new = AgentSpec(name="x", version="9.9.9", owner="team-b", description="new")
    await update(plane, agent.agent_id, new, "description")
    spec = (await plane.follow()).agents[agent.agent_id].agent.spec
    assert (spec.name, spec.owner, spec.description) == ("researcher", "team-a", "new")
    _, _, entry = (await plane.ledger.read_audit(NS))[-1]
    assert (entry.actor, entry.reason, entry.method) == ("ada", "because", "UpdateAgent")


async def test_an_update_with_a_stale_revision_is_refused_with_the_current_one() -> None:
    plane = Plane()
    agent = (await plane.register()).agent
    new = AgentSpec(name="researcher", version="1.0.0", owner="b")
    revision = await update(plane, agent.agent_id, new, "owner", expected_revision=agent.revision)
    with pytest.raises(RevisionConflict) as refusal:
        await update(plane, agent.agent_id, replace(new, owner="c"), "owner", expected_revision=1)
    assert refusal.value.current == revision


async def test_an_update_of_nobody_is_refused() -> None:
    with pytest.raises(AgentNotFound):
        await update(Plane(), "agt-none", SPEC, "owner")
