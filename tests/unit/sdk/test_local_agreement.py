"""Random policies, agents and claims: this process answers what the daemon answers, to the letter.

The whole way but the network: policies as messages, the watch, the copy; claims as messages, the
daemon's use case and its rendering.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.api.convert.decisions import DecisionBytes
from controlplane.api.convert.policies import (
    explain_from_proto,
    policy_from_proto,
    policy_to_proto,
    question_from_proto,
)
from controlplane.domain.errors import InvalidArgument as Refused
from controlplane.services.policies.decisions import Decisions
from fleetplane import ExplainLevel, InvalidArgument, to_struct
from fleetplane._claims import claims_of
from fleetplane._local_policies import LocalPolicies
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane_policy import MalformedInput, Policy, Request, validate_claims
from tests.fakes.policy_feed import HeldFeed
from tests.fakes.policy_world import NS, Follower, PolicyWorld
from tests.fakes.random_policies import AGENTS, NAMES, json_values, policy_lists, requests

Outcome = pb.PolicyDecision | tuple[str, Any]

TAGS: tuple[Mapping[str, str], ...] = (
    {},
    {"scope": "internal"},
    {"scope": "public"},
    {"scope": "é"},
)

claims = st.dictionaries(
    st.sampled_from(("x", "m", "environment", "estimated_cost", "é", "e\u0301", "\ud800")),
    json_values | st.tuples(json_values) | st.sampled_from((2**53, 2**53 + 1, -0.0, b"raw", 1e300)),
    max_size=4,
)


def arrived(policies: list[Policy]) -> list[Policy]:
    """Policies as they come out of the requests that write them."""
    return [policy_from_proto(policy_to_proto(one)) for one in policies]


async def copied(world: PolicyWorld) -> HeldFeed:
    follower = Follower(world, AGENTS)
    follower.open()
    await follower.step()
    await follower.stream.aclose()
    return HeldFeed(follower.copy, world.clock)


def remote(world: PolicyWorld, request: Request, explain: ExplainLevel) -> Outcome:
    """Ask as the SDK does, answer as the daemon does."""
    item = pb.EvaluationItem(agent_id=request.agent_id, action=request.action, tool=request.tool)
    try:
        item.context.CopyFrom(to_struct(request.claims))
    except (TypeError, ValueError) as error:
        return type(error).__name__, ""
    raw = item.SerializeToString()
    try:
        answer = Decisions(world.replica.read_model, world.clock).evaluate(
            NS,
            question_from_proto(pb.EvaluationItem.FromString(raw), len(raw)),
            explain=explain_from_proto(pb.ExplainLevel.ValueType(explain)),
        )
    except Refused as refusal:
        return "InvalidArgument", [(v.field, v.description) for v in refusal.violations]
    return pb.EvaluatePolicyResponse.FromString(DecisionBytes().response(answer)).decision


def local(policies: LocalPolicies, request: Request, explain: ExplainLevel) -> Outcome:
    try:
        return policies.decide(
            request.action,
            request.claims,
            tool=request.tool,
            agent_id=request.agent_id,
            explain=explain,
        )
    except InvalidArgument as refusal:
        return "InvalidArgument", [(v.field, v.description) for v in refusal.violations]
    except (TypeError, ValueError) as error:
        return type(error).__name__, ""


def shown(outcome: Outcome) -> Outcome:
    """Leave out what is another answer's by right: its id, and how old the copy was."""
    if isinstance(outcome, pb.PolicyDecision):
        outcome.ClearField("decision_id")
        outcome.ClearField("snapshot_age_seconds")
    return outcome


@settings(max_examples=150, deadline=None)
@given(
    policy_lists(),
    st.lists(st.tuples(requests, claims), min_size=1, max_size=5),
    st.tuples(*(st.tuples(st.sampled_from(NAMES), st.sampled_from(TAGS)) for _ in AGENTS)),
    st.sampled_from((ExplainLevel.NONE, ExplainLevel.DETERMINING, ExplainLevel.FULL)),
)
def test_this_process_answers_what_the_daemon_answers(
    policies: list[Policy],
    asked: list[tuple[Request, dict[str, Any]]],
    agents: tuple[tuple[str, Mapping[str, str]], ...],
    explain: ExplainLevel,
) -> None:
    world = PolicyWorld()
    for agent_id, (name, tags) in zip(AGENTS, agents, strict=True):
        world.register(agent_id, name=name, tags=tags)
    world.put(*arrived(policies))
    here = LocalPolicies(asyncio.run(copied(world)), None, AGENTS)  # type: ignore[arg-type]  # fake
    for request, said in asked:
        request.claims = said or request.claims
        assert shown(local(here, request, explain)) == shown(remote(world, request, explain))


@settings(max_examples=400, deadline=None)
@given(claims | st.dictionaries(st.text(max_size=3), json_values, max_size=5))
def test_claims_are_read_as_if_they_had_travelled(said: dict[str, Any]) -> None:
    assert _read(lambda: claims_of(said)) == _read(lambda: _travelled(said))


def _travelled(said: dict[str, Any]) -> Mapping[str, Any]:
    """Read claims as the use case of the daemon gets them."""
    question = pb.EvaluationItem(agent_id="a", action="x", context=to_struct(said))
    return validate_claims(question_from_proto(question, question.ByteSize()).claims)


def _read(read: Callable[[], Mapping[str, Any]]) -> str:
    """Show what was read, types included, or why it was refused."""
    try:
        return repr(_sorted(read()))
    except (InvalidArgument, MalformedInput, Refused) as refusal:
        return repr([(v.field, v.description) for v in refusal.violations])
    except (TypeError, ValueError) as error:
        return type(error).__name__


def _sorted(value: Any) -> Any:
    """Order keys, which maps of messages do not."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
