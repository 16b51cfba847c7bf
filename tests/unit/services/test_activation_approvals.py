"""Activation by operators and by first beats: what policies refuse, and what they want approved."""

import asyncio
from dataclasses import replace

import pytest

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.configs import ConfigLayer, LayerKind, LayerScope
from controlplane.domain.configs.extra_schema import ExtraSchema
from controlplane.domain.errors import ActivationPending, ActivationRefused
from controlplane.domain.policies import Effect, Policy
from controlplane.services.beats import Outcome
from controlplane.services.ports import Collection, Put, RequestKey
from tests.fakes.fleet import FakeBeat
from tests.fakes.lifecycle_plane import LifecyclePlane

S = AgentStatus

WANTS_A_REGION = ExtraSchema(document={"type": "object", "required": ["region"]})


@pytest.fixture
def plane():
    return LifecyclePlane()


async def parked(plane: LifecyclePlane) -> Agent:
    await plane.in_status("a", S.REGISTERED)
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    with pytest.raises(ActivationPending):
        await plane.ops.activate("a")
    return await plane.agent("a")


async def test_a_policy_refuses_by_name(plane):
    await plane.in_status("a", S.REGISTERED)
    await plane.set_policy(Effect.DENY)
    with pytest.raises(ActivationRefused) as refused:
        await plane.ops.activate("a")
    assert refused.value.metadata == {"agent_id": "a", "decision": "DENY", "policies": "p"}


async def test_an_invalid_configuration_is_refused_with_what_is_wrong(plane):
    await plane.in_status("a", S.REGISTERED)
    await plane.commit(Put(Collection.CONFIG_SCHEMAS, "extra", WANTS_A_REGION))
    await plane.replica.follow()
    with pytest.raises(ActivationRefused, match="region") as refused:
        await plane.ops.activate("a", confirm_pending=True)
    assert refused.value.metadata["decision"] == "INVALID_CONFIG"


async def test_an_approval_parks_the_activation_once(plane):
    await plane.in_status("a", S.REGISTERED)
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    for _ in range(2):
        with pytest.raises(ActivationPending) as pending:
            await plane.ops.activate("a", request=RequestKey("r", "d"))
        revision = plane.revision
    assert pending.value.metadata["policies"] == "p"
    agent = await plane.agent("a")
    assert agent.status is S.REGISTERED
    assert agent.pending is not None
    assert (agent.pending.policies, agent.pending.asked_by) == (("p",), "ada")
    assert len(agent.pending.config_digest) == 64
    assert plane.revision == revision
    assert len(await plane.audits("agent.activation_pending")) == 1


async def test_a_confirmation_activates(plane):
    await parked(plane)
    agent = await plane.ops.activate("a", confirm_pending=True)
    assert (agent.status, agent.pending) == (S.ACTIVE, None)
    (entry,) = await plane.audits("agent.activated")
    assert entry.details["policies"] == "p"


async def test_a_confirmation_holds_for_no_other_configuration(plane):
    before = await parked(plane)
    await plane.set_config("a", temperature=0.1)
    with pytest.raises(ActivationPending):
        await plane.ops.activate("a", confirm_pending=True)
    after = await plane.agent("a")
    assert after.pending is not None
    assert before.pending is not None
    assert after.pending.config_digest != before.pending.config_digest
    assert (await plane.ops.activate("a", confirm_pending=True)).status is S.ACTIVE


async def test_a_confirmation_holds_for_no_policy_that_was_not_asked_about(plane):
    await parked(plane)
    await plane.set_policy(None)
    await plane.set_policy(Effect.REQUIRE_APPROVAL, "q")
    with pytest.raises(ActivationPending):
        await plane.ops.activate("a", confirm_pending=True)


async def test_a_confirmation_does_not_overrule_a_refusal(plane):
    await parked(plane)
    await plane.set_policy(Effect.DENY, "q")
    with pytest.raises(ActivationRefused):
        await plane.ops.activate("a", confirm_pending=True)
    assert (await plane.agent("a")).pending is None


async def test_a_confirmation_of_nothing_parks(plane):
    await plane.in_status("a", S.REGISTERED)
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    with pytest.raises(ActivationPending):
        await plane.ops.activate("a", confirm_pending=True)
    assert (await plane.agent("a")).status is S.REGISTERED


async def test_an_allowed_activation_needs_no_confirmation_any_more(plane):
    await parked(plane)
    await plane.set_policy(None)
    assert (await plane.ops.activate("a")).status is S.ACTIVE


async def test_a_first_beat_parks_as_an_operator_would(plane):
    generations = await plane.register("a", "i")
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    beat = FakeBeat("i", generations["i"])
    for _ in range(3):
        (answer,) = await plane.replica.beat(replace(beat))
        assert answer.outcome is Outcome.NOT_ACTIVATED
        plane.clock.shift(10)
    agent = await plane.agent("a")
    assert agent.status is S.REGISTERED
    assert agent.pending is not None
    assert agent.pending.asked_by == "fleetplane"
    assert len(await plane.audits("agent.activation_pending")) == 1
    assert (await plane.ops.activate("a", confirm_pending=True)).status is S.ACTIVE


async def test_a_parked_agent_becomes_active_by_itself_once_the_policies_allow_it(plane):
    generations = await plane.register("a", "i")
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    beat = FakeBeat("i", generations["i"])
    await plane.replica.beat(beat)
    await plane.set_policy(None)
    plane.clock.shift(10)
    assert await plane.replica.beat(beat) == []
    agent = await plane.agent("a")
    assert (agent.status, agent.pending, agent.status_reason) == (S.ACTIVE, None, "")


async def test_an_activation_holds_the_configuration_that_was_judged(plane):
    await plane.in_status("a", S.REGISTERED)
    scope = LayerScope(LayerKind.AGENT_NAME, "a")
    policy = Policy(policy_id="p", action=Effect.DENY, conditions={"model": "wild"})
    await plane.commit(Put(Collection.POLICIES, "p", policy))
    await plane.replica.follow()
    # This replica does not hear of the change before it has judged.
    wild = ConfigLayer(scope=scope, values={"model": "wild"})
    await plane.commit(Put(Collection.CONFIG_LAYERS, scope.key, wild))
    asked = asyncio.ensure_future(plane.ops.activate("a"))
    for _ in range(5):
        await asyncio.sleep(0)
    await plane.replica.follow()
    with pytest.raises(ActivationRefused):
        await asked


async def test_a_deactivation_takes_a_parked_activation_back(plane):
    await parked(plane)
    await plane.ops.deactivate("a")
    assert (await plane.agent("a")).pending is None
