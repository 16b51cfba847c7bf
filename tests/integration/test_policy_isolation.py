"""Agents ask about themselves only; sets of policies and decisions stay in their namespace."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleetplane.v1 import agent_pb2, policy_service_pb2
from fleetplane.v1 import decision_service_pb2 as decisions_pb
from tests.fakes.two_agents import AS_ANN, AS_MINE, AS_ROOT, AS_TEAMS, Place, refused, two_agents

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with two_agents() as made:
        yield made


async def test_an_agent_asks_about_itself_only(place):
    policies = place.replica.policies

    def asked(agent_id: str) -> Any:
        request = policy_service_pb2.EvaluatePolicyRequest(agent_id=agent_id, action="tool.call")
        return policies.EvaluatePolicy(request, metadata=AS_MINE)

    def asked_many(*agent_ids: str) -> Any:
        item = policy_service_pb2.EvaluationItem
        request = policy_service_pb2.BatchEvaluatePolicyRequest(
            items=[item(agent_id=agent_id, action="tool.call") for agent_id in agent_ids]
        )
        return policies.BatchEvaluatePolicy(request, metadata=AS_MINE)

    assert await refused(asked("mine-1")) == ""
    assert await refused(asked("other-1")) == "FOREIGN_AGENT"
    assert await refused(asked("no-such")) == "FOREIGN_AGENT"
    assert await refused(asked_many("mine-1", "mine-1")) == ""
    assert await refused(asked_many("mine-1", "other-1")) == "FOREIGN_AGENT"


async def test_an_agent_follows_what_decides_for_itself_only(place):
    policies = place.replica.policies
    pb = policy_service_pb2

    def watch(*agent_ids: str) -> Any:
        agents = [pb.WatchedPolicyAgent(agent_id=one) for one in agent_ids]
        request = pb.WatchPoliciesRequest(agents=agents)
        return policies.WatchPolicies(request, metadata=AS_MINE)

    for agent_ids, reason in (
        (("mine-1",), ""),
        (("other-1",), "FOREIGN_AGENT"),
        (("mine-1", "other-1"), "FOREIGN_AGENT"),
        (("nobody",), "FOREIGN_AGENT"),
    ):
        stream = watch(*agent_ids)
        assert await refused(stream.read()) == reason
        stream.cancel()


async def test_sets_of_policies_are_changed_by_those_who_may_and_seen_in_their_namespace(place):
    policies = place.replica.policies
    pb = policy_service_pb2
    rule = pb.Policy(policy_id="no", action=pb.POLICY_ACTION_DENY, match_all=True)

    def write(namespace: str, who: Any) -> Any:
        request = pb.CreatePolicyCandidateRequest(namespace=namespace, policies=[rule])
        return policies.CreatePolicyCandidate(request, metadata=who)

    written = (await write("team", AS_ROOT)).candidate.candidate_id
    assert await refused(write("team", AS_MINE)) == "NAMESPACE_NOT_FOUND"
    assert await refused(write("default", AS_MINE)) == "PERMISSION_DENIED"
    assert await refused(write("team", AS_ANN)) == "NAMESPACE_NOT_FOUND"
    elsewhere = pb.GetPolicyCandidateRequest(candidate_id=written)
    assert (
        await refused(policies.GetPolicyCandidate(elsewhere, metadata=AS_ROOT))
        == "POLICY_CANDIDATE_NOT_FOUND"
    )
    replay = pb.SimulatePoliciesRequest(namespace="team", candidate_id=written)
    assert await refused(policies.SimulatePolicies(replay, metadata=AS_TEAMS)) != ""


async def test_decisions_are_seen_in_their_namespace_and_reported_by_their_agent_only(place):
    decisions, policies = place.replica.decisions, place.replica.policies
    ask = policy_service_pb2.EvaluatePolicyRequest(agent_id=place.mine.agent_id, action="read")
    answer = (await policies.EvaluatePolicy(ask, metadata=AS_MINE)).decision
    of_mine = decisions_pb.GetDecisionRequest(decision_id=answer.decision_id)
    found = await decisions.GetDecision(of_mine, metadata=AS_ROOT)
    assert found.decision.agent_id == place.mine.agent_id
    assert await refused(decisions.GetDecision(of_mine, metadata=AS_MINE)) == "PERMISSION_DENIED"
    everything = decisions_pb.QueryDecisionsRequest()
    searched = decisions.QueryDecisions(everything, metadata=AS_MINE)
    assert await refused(searched) == "PERMISSION_DENIED"
    in_team = decisions_pb.GetDecisionRequest(namespace="team", decision_id=answer.decision_id)
    assert await refused(decisions.GetDecision(in_team, metadata=AS_ROOT)) == "DECISION_NOT_FOUND"
    assert await refused(decisions.GetDecision(in_team, metadata=AS_ANN)) == "NAMESPACE_NOT_FOUND"

    def report(instance: agent_pb2.Instance, namespace: str = "") -> Any:
        return decisions_pb.RecordDecisionsRequest(
            namespace=namespace, agent_id=instance.agent_id, batch_id="b-1"
        )

    await decisions.RecordDecisions(report(place.mine), metadata=AS_MINE)
    of_other = decisions.RecordDecisions(report(place.other), metadata=AS_MINE)
    assert await refused(of_other) == "FOREIGN_AGENT"
    elsewhere = decisions.RecordDecisions(report(place.mine, "team"), metadata=AS_MINE)
    assert await refused(elsewhere) == "NAMESPACE_NOT_FOUND"
