"""Agents wait for and use their own approvals only, and approve nothing of their own."""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.identification import Identification
from controlplane.settings import Settings
from controlplane.storage.memory.ledger import MemoryLedger
from fleetplane.v1 import (
    agent_pb2,
    approval_service_pb2,
    approval_service_pb2_grpc,
    policy_service_pb2,
    registry_service_pb2,
)
from tests.fakes.callers import KnownCallers, agent, bind, make_namespace, showing, user
from tests.fakes.eventually import eventually
from tests.fakes.memory_replica import MemoryReplica, memory_replica

pytestmark = pytest.mark.timeout(60)

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors

MINE, OTHER, ROOT, ANN = agent("mine"), agent("other"), user("root", is_admin=True), user("ann")
AS_MINE, AS_OTHER = showing("mine"), showing("other")
AS_ROOT, AS_ANN = showing("root"), showing("ann")


@dataclass
class Place:
    """A replica with two agents, `mine` and `other`."""

    replica: MemoryReplica
    ledger: MemoryLedger


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    known = KnownCallers(mine=MINE, other=OTHER, root=ROOT, ann=ANN)
    who = Identification(known, reads_certificates=False)
    async with memory_replica(Settings(secure=True), who) as replica:
        ledger = MemoryLedger(replica.store)
        await make_namespace(ledger, "team")
        for name, shows in (("mine", AS_MINE), ("other", AS_OTHER)):
            spec = agent_pb2.AgentSpec(name=name, version="1.0.0")
            request = registry_service_pb2.RegisterRequest(agent_id=f"{name}-1", spec=spec)
            await replica.registry.Register(request, metadata=shows)
        yield Place(replica, ledger)


async def refused(call: Awaitable[Any]) -> str:
    """Return the reason that a call is refused with; empty if it is answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        for packed in rpc_status.from_call(error).details:
            if packed.Unpack(info):
                return str(info.reason)
        return error.code().name
    return ""


async def test_an_agent_waits_for_and_uses_its_own_approvals_only(place):
    pb, policies = approval_service_pb2, place.replica.policies
    approvals: Any = approval_service_pb2_grpc.ApprovalServiceStub(place.replica.channel)
    rule = policy_service_pb2.Policy(
        policy_id="ask",
        action=policy_service_pb2.POLICY_ACTION_REQUIRE_APPROVAL,
        targets=policy_service_pb2.PolicyTargets(actions=["pay"]),
        enabled=True,
    )
    await policies.CreatePolicy(
        policy_service_pb2.CreatePolicyRequest(policy=rule), metadata=AS_ROOT
    )
    await bind(place.ledger, ANN, "approver")
    await bind(place.ledger, OTHER, "approver")

    async def asked(who: Any, agent_id: str) -> str:
        question = policy_service_pb2.EvaluatePolicyRequest(agent_id=agent_id, action="pay")
        answer = await policies.EvaluatePolicy(question, metadata=who)
        return str(answer.decision.approval_id)

    own, foreign = await asked(AS_MINE, "mine-1"), await asked(AS_OTHER, "other-1")

    def get(approval_id: str, who: Any = AS_MINE, **fields: Any) -> Any:
        request = pb.GetApprovalRequest(approval_id=approval_id, **fields)
        return approvals.GetApproval(request, metadata=who)

    def use(approval_id: str, agent_id: str) -> Any:
        request = pb.ConsumeApprovalRequest(
            approval_id=approval_id, agent_id=agent_id, action="pay", consume_id="c"
        )
        return approvals.ConsumeApproval(request, metadata=AS_MINE)

    def grant(approval_id: str, who: Any) -> Any:
        request = pb.DecideApprovalRequest(
            approval_id=approval_id, decision=pb.APPROVAL_DECISION_GRANT
        )
        return approvals.DecideApproval(request, metadata=who)

    assert (await get(own)).approval.requested_by == MINE.name
    assert await refused(get(foreign)) == "FOREIGN_AGENT"
    waiting = pb.WaitApprovalRequest(approval_id=foreign)
    assert await refused(approvals.WaitApproval(waiting, metadata=AS_MINE)) == "FOREIGN_AGENT"
    taking_back = pb.CancelApprovalRequest(approval_id=foreign)
    assert await refused(approvals.CancelApproval(taking_back, metadata=AS_MINE)) == "FOREIGN_AGENT"
    listing = approvals.ListApprovals(pb.ListApprovalsRequest(), metadata=AS_MINE)
    assert await refused(listing) == "PERMISSION_DENIED"
    assert await refused(grant(own, AS_MINE)) == "PERMISSION_DENIED"

    async def may_decide() -> bool:
        return await refused(grant(own, AS_ANN)) == ""

    await eventually("the binding is known", may_decide)
    # One that may approve still does not approve what it asks for itself.
    assert await refused(grant(foreign, AS_OTHER)) == "SELF_APPROVAL"
    assert await refused(get(own, AS_ROOT, namespace="team")) == "APPROVAL_NOT_FOUND"
    assert await refused(use(foreign, "mine-1")) == "FOREIGN_AGENT"
    assert await refused(use(own, "other-1")) == "FOREIGN_AGENT"
    assert await refused(use(own, "mine-1")) == ""
