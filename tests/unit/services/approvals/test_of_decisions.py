"""From a decision to the approval that it opened."""

from controlplane.api.convert.decision_log import record_to_proto
from controlplane.domain.decisions.records import DecisionRecord
from controlplane.domain.policies import Decision, DecisionReason, Effect
from controlplane.services.ports import Collection, Delete
from fleetplane.v1 import approval_service_pb2 as pb
from tests.fakes.approval_desk import desk_with_a_policy
from tests.fakes.fleet import NAMESPACE


def shown(desk, decision_id, effect=Effect.REQUIRE_APPROVAL):
    decision = Decision(effect=effect, reason=DecisionReason.POLICY, revision=1)
    record = DecisionRecord(decision_id=decision_id, at_ms=1, action="pay", decision=decision)
    governance = desk.plane.replica.read_model.view(NAMESPACE).governance
    return record_to_proto(record, governance.approval_of).decision


async def test_a_recorded_decision_names_its_approval_and_where_that_stands():
    desk = await desk_with_a_policy()
    first, second = await desk.ask("s1"), await desk.ask("s2")
    await desk.vote(second)

    assert first.decision_id != second.decision_id
    said = shown(desk, first.decision_id)
    assert said.approval_id == first.approval_id
    assert said.approval_state == pb.APPROVAL_STATE_PENDING
    said = shown(desk, second.decision_id)
    assert said.approval_id == second.approval_id
    assert said.approval_state == pb.APPROVAL_STATE_GRANTED


async def test_decisions_without_an_approval_name_none():
    desk = await desk_with_a_policy()
    approval = await desk.ask()

    assert not shown(desk, "dec-of-another").approval_id
    assert not shown(desk, approval.decision_id, Effect.DENY).approval_id


async def test_an_approval_that_is_gone_is_not_named_any_more():
    desk = await desk_with_a_policy()
    approval = await desk.ask()
    await desk.plane.commit(Delete(Collection.APPROVALS, approval.approval_id))
    await desk.plane.replica.follow()

    assert not shown(desk, approval.decision_id).approval_id
