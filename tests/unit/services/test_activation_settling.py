"""Activations that people approve: the plane opens the approval, and carries on by itself."""

import pytest

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.approvals.model import Approval, ApprovalDecision, ApprovalState
from controlplane.domain.approvals.refusals import SelfApproval
from controlplane.domain.errors import ActivationPending
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.policies import Effect
from controlplane.services.approvals.deciding import Ballot
from controlplane.services.ports import Collection
from tests.fakes.fleet import NAMESPACE, FakeBeat
from tests.fakes.lifecycle_plane import LifecyclePlane

S = AgentStatus
BOB = Caller(name="user:bob", kind=CallerKind.USER, subjects=("user:bob",))
ANN = Caller(name="user:ann", kind=CallerKind.USER, subjects=("user:ann",))


@pytest.fixture
def plane():
    return LifecyclePlane()


def approvals(plane: LifecyclePlane) -> list[Approval]:
    table = plane.replica.read_model.view(NAMESPACE).governance.table(Collection.APPROVALS)
    return sorted(table.values(), key=lambda one: one.approval_id)


async def settle(plane: LifecyclePlane) -> int:
    plane.clock.shift(6)
    done = await plane.ops.parked.tick(NAMESPACE)
    await plane.replica.follow()
    return done


async def decide(plane: LifecyclePlane, approval: Approval, what: ApprovalDecision) -> Approval:
    ballot = Ballot(approval_id=approval.approval_id, decision=what, comment="looked at it")
    return await plane.ops.approvals.decisions.decide(NAMESPACE, ballot, caller=BOB)


async def asked(plane: LifecyclePlane, caller: Caller = ANN) -> Agent:
    await plane.in_status("a", S.REGISTERED)
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    with pytest.raises(ActivationPending) as pending:
        await activate(plane, caller)
    agent = await plane.agent("a")
    assert agent.pending is not None
    assert pending.value.metadata["approval_id"] == agent.pending.approval_id
    return agent


async def activate(plane: LifecyclePlane, caller: Caller = ANN, *, confirm: bool = False) -> Agent:
    return await plane.ops.lifecycle.activate(
        NAMESPACE,
        "a",
        reason="",
        expected_revision=0,
        confirm_pending=confirm,
        request=None,
        caller=caller,
    )


async def test_what_is_asked_for_is_the_configuration_of_the_agent(plane):
    await plane.set_config("a", temperature=0.1)
    agent = await asked(plane)
    (approval,) = approvals(plane)
    assert agent.pending is not None
    assert approval.approval_id == agent.pending.approval_id
    assert (approval.action.action, approval.action.agent_id) == ("activate", "a")
    assert approval.action.context["temperature"] == 0.1
    assert (approval.requested_by, approval.policies) == ("user:ann", ("p",))


async def test_a_grant_activates_by_itself_and_is_used_up(plane):
    await asked(plane)
    (approval,) = approvals(plane)
    await decide(plane, approval, ApprovalDecision.GRANT)
    assert await settle(plane) == 1
    agent = await plane.agent("a")
    assert (agent.status, agent.pending) == (S.ACTIVE, None)
    (approval,) = approvals(plane)
    assert (approval.state, approval.consume_id) == (ApprovalState.CONSUMED, "activation")
    assert await settle(plane) == 0
    (entry,) = await plane.audits("agent.activated")
    assert entry.details["approval_id"] == approval.approval_id


async def test_a_grant_holds_for_one_activation(plane):
    await asked(plane)
    await decide(plane, approvals(plane)[0], ApprovalDecision.GRANT)
    assert (await activate(plane)).status is S.ACTIVE
    await plane.ops.deactivate("a")
    with pytest.raises(ActivationPending):
        await activate(plane)
    states = [one.state for one in approvals(plane)]
    assert states == [ApprovalState.CONSUMED, ApprovalState.PENDING]


async def test_a_denial_is_written_on_the_agent_and_asked_about_only_on_demand(plane):
    await asked(plane)
    await decide(plane, approvals(plane)[0], ApprovalDecision.DENY)
    await settle(plane)
    agent = await plane.agent("a")
    assert (agent.status, "denied by user:bob: looked at it" in agent.status_reason) == (
        S.REGISTERED,
        True,
    )
    assert await settle(plane) == 0
    assert len(approvals(plane)) == 1
    with pytest.raises(ActivationPending):
        await activate(plane)
    assert [one.state for one in approvals(plane)] == [ApprovalState.DENIED, ApprovalState.PENDING]


async def test_a_first_beat_asks_in_the_name_of_the_plane(plane):
    generations = await plane.register("a", "i")
    await plane.set_policy(Effect.REQUIRE_APPROVAL)
    await plane.replica.beat(FakeBeat("i", generations["i"]))
    await settle(plane)
    (approval,) = approvals(plane)
    assert (approval.requested_by, approval.unauthenticated) == ("fleetplane", False)
    agent = await plane.agent("a")
    assert agent.pending is not None
    assert agent.pending.approval_id == approval.approval_id
    await decide(plane, approval, ApprovalDecision.GRANT)
    await settle(plane)
    assert (await plane.agent("a")).status is S.ACTIVE


async def test_a_grant_for_another_configuration_activates_nobody(plane):
    await asked(plane)
    await plane.set_config("a", temperature=0.1)
    await decide(plane, approvals(plane)[0], ApprovalDecision.GRANT)
    await settle(plane)
    agent = await plane.agent("a")
    assert agent.status is S.REGISTERED
    assert [one.state for one in approvals(plane)] == [ApprovalState.GRANTED, ApprovalState.PENDING]
    assert agent.pending is not None
    assert agent.pending.approval_id == approvals(plane)[1].approval_id


async def test_who_asks_does_not_confirm(plane):
    await asked(plane)
    with pytest.raises(SelfApproval):
        await activate(plane, confirm=True)
    assert (await activate(plane, BOB, confirm=True)).status is S.ACTIVE


async def test_a_deactivation_takes_the_approval_back(plane):
    await asked(plane)
    await plane.ops.deactivate("a")
    assert [one.state for one in approvals(plane)] == [ApprovalState.CANCELLED]


async def test_policies_that_refuse_by_now_overrule_a_grant(plane):
    await asked(plane)
    await decide(plane, approvals(plane)[0], ApprovalDecision.GRANT)
    await plane.set_policy(Effect.DENY, "q")
    await settle(plane)
    agent = await plane.agent("a")
    assert (agent.status, agent.pending) == (S.REGISTERED, None)
    assert "DENY" in agent.status_reason
