"""An approval that the walk over every method can speak of."""

from typing import Any, Final

from fleetplane.v1 import policy_service_pb2
from tests.fakes.secure_daemon import SecureDaemon

DEADLINE: Final = 20.0  # seconds; an answer takes milliseconds


def asked_for_approval(channel: Any, secure: SecureDaemon, agent_id: str, namespace: str) -> str:
    """Let an agent want something that has to be approved; return the approval."""
    pb = policy_service_pb2
    policy = pb.Policy(
        policy_id="ask-before-paying",
        action=pb.POLICY_ACTION_REQUIRE_APPROVAL,
        targets=pb.PolicyTargets(actions=["pay"]),
        enabled=True,
    )
    question = pb.EvaluatePolicyRequest(namespace=namespace, agent_id=agent_id, action="pay")
    for method, request in (
        ("CreatePolicy", pb.CreatePolicyRequest(namespace=namespace, policy=policy)),
        ("EvaluatePolicy", question),
    ):
        answer = channel.unary_unary(f"/fleetplane.v1.PolicyService/{method}")(
            request.SerializeToString(), timeout=DEADLINE, metadata=secure.as_admin
        )
    return str(pb.EvaluatePolicyResponse.FromString(answer).decision.approval_id)
