"""A rollout that people have to approve waits, says for what, and goes on by itself."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from fleetplane.v1 import (
    agent_pb2,
    approval_service_pb2_grpc,
    policy_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
)
from fleetplane.v1 import approval_service_pb2 as pb
from tests.fakes.eventually import eventually
from tests.fakes.memory_replica import MemoryReplica, memory_replica

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def replica() -> AsyncIterator[MemoryReplica]:
    async with memory_replica() as one:
        policy = ParseDict(
            {
                "policyId": "review",
                "action": "POLICY_ACTION_REQUIRE_APPROVAL",
                "conditions": {"action": "activate", "agent_version": "2.0.0"},
                "enabled": True,
            },
            policy_service_pb2.Policy(),
        )
        await one.policies.CreatePolicy(policy_service_pb2.CreatePolicyRequest(policy=policy))
        await one.working("writer")
        yield one


async def begun(replica: MemoryReplica) -> str:
    """Start a rollout, and let its new version come to work."""
    request = rollout_service_pb2.StartRolloutRequest(
        agent_name="writer", from_version="1.0.0", to_version="2.0.0"
    )
    rollout = (await replica.rollouts.StartRollout(request)).rollout
    registered = await replica.registry.Register(
        registry_service_pb2.RegisterRequest(
            agent_id=rollout.to_agent_id,
            spec=agent_pb2.AgentSpec(name="writer", version="2.0.0"),
            instance=registry_service_pb2.InstanceSpec(instance_id="box-2"),
        )
    )
    beat = registry_service_pb2.Beat(
        instance_id="box-2", generation=registered.instance.generation, seq=1
    )
    call = replica.registry.Heartbeat()
    await call.write(registry_service_pb2.HeartbeatRequest(batch=1, beats=[beat]))
    await call.read()
    await call.done_writing()
    return str(rollout.rollout_id)


async def rollout_of(replica: MemoryReplica, rollout_id: str) -> Any:
    request = rollout_service_pb2.GetRolloutRequest(rollout_id=rollout_id)
    return (await replica.rollouts.GetRollout(request)).rollout


async def waiting_for(replica: MemoryReplica, rollout_id: str) -> str:
    """Return the approval that a rollout says it waits for."""
    said: list[str] = []

    async def says() -> bool:
        said[:] = [(await rollout_of(replica, rollout_id)).message]
        return "waits for approval apr-" in said[0]

    await eventually("the rollout says what it waits for", says)
    return "apr-" + said[0].partition("waits for approval apr-")[2].split()[0]


async def decide(replica: MemoryReplica, approval_id: str, decision: int) -> None:
    approvals: Any = approval_service_pb2_grpc.ApprovalServiceStub(replica.channel)
    await approvals.DecideApproval(
        pb.DecideApprovalRequest(
            approval_id=approval_id,
            decision=decision,  # type: ignore[arg-type]  # an enum's number
            comment="seen",
        )
    )


async def test_it_goes_on_by_itself_when_the_approval_is_granted(replica):
    rollout_id = await begun(replica)
    approval_id = await waiting_for(replica, rollout_id)
    before = await rollout_of(replica, rollout_id)
    assert before.phase == rollout_service_pb2.ROLLOUT_PHASE_PENDING
    await decide(replica, approval_id, pb.APPROVAL_DECISION_GRANT)

    async def goes_on() -> bool:
        rollout = await rollout_of(replica, rollout_id)
        return bool(rollout.phase == rollout_service_pb2.ROLLOUT_PHASE_PROGRESSING)

    await eventually("the first step is entered", goes_on)
    approvals: Any = approval_service_pb2_grpc.ApprovalServiceStub(replica.channel)
    found = await approvals.GetApproval(pb.GetApprovalRequest(approval_id=approval_id))
    assert found.approval.state == pb.APPROVAL_STATE_CONSUMED


async def test_it_ends_with_the_reason_when_the_approval_is_denied(replica):
    rollout_id = await begun(replica)
    await decide(replica, await waiting_for(replica, rollout_id), pb.APPROVAL_DECISION_DENY)

    async def ended() -> bool:
        rollout = await rollout_of(replica, rollout_id)
        return bool(rollout.phase == rollout_service_pb2.ROLLOUT_PHASE_FAILED)

    await eventually("the rollout ends", ended)
    message = (await rollout_of(replica, rollout_id)).message
    assert "denied by local-admin: seen" in message
