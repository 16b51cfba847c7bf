"""Which version a session goes to, as a replica sees it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.routes import WHOLE_BP, Route, SessionPin, Share, bucket, pin_key
from controlplane.services.ports import Collection
from controlplane.services.routing.choice import (
    RouteRule,
    choose_version,
    pin_holds,
    routed,
    takes_work,
    version_of_routes,
)
from tests.fakes.registered import Replica, an_agent, an_instance

NAME = "writer"


@pytest.fixture
def replica():
    """Return a replica that knows a canary and a stable version, each with a fresh instance."""
    replica = Replica()
    for version in ("canary", "stable"):
        replica.write(
            an_agent(version, name=NAME, version=version), an_instance(f"{version}-i", version)
        )
    return replica


def route(canary_bp=1000, **fields):
    shares = (
        Share(agent_id="canary", version="canary", weight_bp=canary_bp),
        Share(agent_id="stable", version="stable", weight_bp=WHOLE_BP - canary_bp),
    )
    return Route(name=NAME, shares=shares, salt="s", **fields)


def apply(replica, collection, key, value):
    replica.view.work.apply(collection, key, value, set(), set())


def set_route(replica, *args, **fields):
    apply(replica, Collection.ROUTES, NAME, route(*args, **fields))


def pin(replica, session_id, agent_id):
    value = SessionPin(name=NAME, session_id=session_id, agent_id=agent_id, used_at_ms=0)
    apply(replica, Collection.SESSION_PINS, pin_key(NAME, session_id), value)


def choose(replica, session_id="", **unit):
    return choose_version(replica.view, NAME, session_id=session_id, **unit)


def session_of(agent_id, canary_bp=1000):
    """Return a session that belongs to a version by its weight."""
    return next(
        session
        for session in (f"session-{n}" for n in range(1000))
        if (bucket("s", session) < canary_bp) == (agent_id == "canary")
    )


def test_a_name_without_a_route_is_not_restricted(replica):
    assert choose(replica, "session-1") is None
    assert routed(replica.view, session_id="session-1")(an_agent("other", name=NAME))


@given(st.text(min_size=1))
def test_a_session_goes_where_its_bucket_is(session_id):
    replica = Replica()
    for version in ("canary", "stable"):
        replica.write(an_agent(version, name=NAME), an_instance(f"{version}-i", version))
    set_route(replica, 3000, cohort="ro-1/4")

    choice = choose(replica, session_id)

    assert choice.agent_id == ("canary" if choice.bucket < 3000 else "stable")
    assert choice.weight_bp == (3000 if choice.bucket < 3000 else 7000)
    assert (choice.rule, choice.rollout_id) == (RouteRule.WEIGHT, "ro-1")
    assert choose(replica, session_id) == choice
    assert choose(replica, unit=session_id) == choice


def test_the_session_comes_before_the_unit(replica):
    set_route(replica)
    canary, stable = session_of("canary"), session_of("stable")

    assert choose(replica, canary, unit=stable).agent_id == "canary"


@pytest.mark.parametrize("canary_bp", [1, 100, 3333, 5000])
def test_calls_without_a_session_are_dealt_out_exactly(replica, canary_bp):
    set_route(replica, canary_bp)
    choose(replica)

    agents = [choose(replica).agent_id for _ in range(WHOLE_BP)]

    assert agents.count("canary") == canary_bp


def test_names_are_dealt_out_one_by_one(replica):
    set_route(replica, 5000)
    other = replace(route(5000), name="reader")
    apply(replica, Collection.ROUTES, "reader", other)

    agents = []
    for _ in range(WHOLE_BP // 2):
        agents.append(choose(replica).agent_id)
        choose_version(replica.view, "reader", session_id="")

    assert abs(agents.count("canary") - len(agents) / 2) < 6


def test_a_pin_survives_any_change_of_weights(replica):
    session_id = session_of("canary")
    set_route(replica)
    pin(replica, session_id, "canary")

    for canary_bp in (5000, 0, WHOLE_BP, 1):
        set_route(replica, canary_bp)
        choice = choose(replica, session_id)
        assert (choice.agent_id, choice.rule) == ("canary", RouteRule.PIN)
        assert choice.weight_bp == canary_bp


def test_a_pin_to_a_version_outside_of_the_route_holds(replica):
    replica.write(an_agent("old", name=NAME, version="old"), an_instance("old-i", "old"))
    set_route(replica)
    pin(replica, "session-1", "old")

    choice = choose(replica, "session-1")

    assert (choice.agent_id, choice.rule, choice.weight_bp) == ("old", RouteRule.PIN, 0)


@pytest.mark.parametrize(
    ("status", "draining", "holds"),
    [
        (AgentStatus.ACTIVE, False, True),
        (AgentStatus.DEGRADED, False, True),
        (AgentStatus.ACTIVE, True, False),
        (AgentStatus.INACTIVE, False, False),
        (AgentStatus.DECOMMISSIONED, False, False),
    ],
)
def test_a_pin_holds_while_its_version_is_in_service(replica, status, draining, holds):
    agent = an_agent("canary", name=NAME, version="canary", status=status)
    replica.write(replace(agent, draining=draining))
    set_route(replica, 0)
    pin(replica, "session-1", "canary")

    assert pin_holds(replica.view, replica.view.work.pins[pin_key(NAME, "session-1")]) is holds
    expected = "canary" if holds and status is AgentStatus.ACTIVE else "stable"
    assert choose(replica, "session-1").agent_id == expected


def test_a_pin_to_an_unknown_agent_does_not_hold(replica):
    set_route(replica)
    pin(replica, "session-1", "never-registered")

    assert choose(replica, "session-1").rule is RouteRule.WEIGHT


def test_the_pin_of_another_session_says_nothing(replica):
    set_route(replica, 0)
    pin(replica, "session-1", "canary")

    assert choose(replica, "session-2").agent_id == "stable"
    assert choose(replica, unit="session-1").agent_id == "stable"


@pytest.mark.parametrize(
    "trouble",
    [
        lambda canary, instance: (canary, replace(instance, state=InstanceState.SILENT)),
        lambda canary, instance: (canary, replace(instance, draining=True)),
        lambda canary, instance: (replace(canary, draining=True), instance),
        lambda canary, instance: (replace(canary, status=AgentStatus.INACTIVE), instance),
    ],
)
def test_a_version_that_takes_no_work_is_stood_in_for(replica, trouble):
    canary = an_agent("canary", name=NAME, version="canary")
    replica.write(*trouble(canary, an_instance("canary-i", "canary")))
    set_route(replica)

    choice = choose(replica, session_of("canary"))

    assert not takes_work(replica.view, "canary")
    assert (choice.agent_id, choice.rule, choice.weight_bp) == ("stable", RouteRule.FALLBACK, 9000)


def test_a_pinned_version_that_takes_no_work_is_stood_in_for(replica):
    replica.write(an_instance("canary-i", "canary", state=InstanceState.SILENT))
    set_route(replica)
    pin(replica, "session-1", "canary")

    assert choose(replica, "session-1").rule is RouteRule.FALLBACK


def test_a_version_without_a_share_stands_in_for_nobody(replica):
    replica.write(an_instance("stable-i", "stable", state=InstanceState.SILENT))
    set_route(replica, 0)

    choice = choose(replica, "session-1")

    assert (choice.agent_id, choice.rule) == ("stable", RouteRule.WEIGHT)


def test_one_call_hears_one_answer_about_all_versions(replica):
    set_route(replica, 5000)
    versions = [replica.view.agents[one].agent for one in ("canary", "stable")]

    for _ in range(100):
        takes = routed(replica.view, session_id="")
        assert [takes(one) for one in versions].count(True) == 1
        assert [takes(one) for one in versions] == [takes(one) for one in versions]


def test_what_was_dealt_stays_dealt_in_a_newer_view(replica):
    set_route(replica, 5000)
    call = routed(replica.view, session_id="")
    before = call.choice(NAME)

    assert call.seen_in(replica.view).choice(NAME) == before


def test_pins_change_no_answer_while_nothing_is_routed(replica):
    pin(replica, "session-1", "canary")
    assert version_of_routes(replica.view) == 0

    set_route(replica)
    before = version_of_routes(replica.view)
    pin(replica, "session-2", "canary")

    assert 0 < before < version_of_routes(replica.view)
