"""Routes between the wire and the domain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.convert.routes import (
    choice_to_proto,
    route_to_proto,
    share_to_proto,
    shares_from_proto,
)
from controlplane.domain.routes import Route, Share
from controlplane.services.routing.choice import RouteChoice, RouteRule
from fleetplane.v1 import registry_service_pb2 as registry_pb

SHARES = st.lists(
    st.builds(
        Share,
        agent_id=st.text(max_size=10),
        version=st.text(max_size=10),
        weight_bp=st.integers(0, 10_000),
    ),
    max_size=16,
)


@given(SHARES)
def test_shares_survive_the_round_trip(shares: list[Share]):
    read = shares_from_proto([share_to_proto(share) for share in shares])
    assert read == tuple((share.version, share.weight_bp) for share in shares)


def test_a_route_names_the_rollout_that_owns_it():
    share = Share(agent_id="agt-1", version="2.0.0", weight_bp=10_000)
    route = Route(
        name="reader",
        shares=(share,),
        salt="s",
        cohort="rol-1/3",
        set_by="fleetplane",
        reason="step 3",
        revision=5,
        updated_at_ms=1_500,
    )
    message = route_to_proto(route)
    assert message.rollout_id == "rol-1"
    assert message.updated_at.ToMilliseconds() == 1_500
    assert [(s.agent_id, s.version, s.weight_bp) for s in message.shares] == [
        ("agt-1", "2.0.0", 10_000)
    ]
    assert (message.agent_name, message.set_by, message.revision) == ("reader", "fleetplane", 5)


@pytest.mark.parametrize("rule", RouteRule)
def test_a_choice_says_which_rule_decided(rule: RouteRule):
    choice = RouteChoice(agent_id="agt-1", rule=rule, weight_bp=500, bucket=77, rollout_id="r")
    message = choice_to_proto(choice)
    assert registry_pb.RouteDecision.Rule.Name(message.rule) == f"RULE_{rule}"
    assert (message.weight_bp, message.bucket, message.rollout_id) == (500, 77, "r")
