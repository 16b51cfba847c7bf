"""The rule: default no, nothing beyond what a binding says, and agents are at home at home."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.access.decision import (
    FREE,
    NEVER,
    decide,
    earliest,
    has_ended,
    sufficient_roles,
)
from controlplane.domain.access.permissions import EVERYWHERE, ROLES, Permission, RoleName
from controlplane.domain.access.records import RoleBinding
from controlplane.domain.identity import AgentIdentity

NOW = 1_000_000
NEEDS_A_ROLE = [permission for permission in Permission if permission not in FREE]

NAMESPACES = st.sampled_from(["acme", "umbra", "default"])
PLACES = st.one_of(NAMESPACES, st.just(EVERYWHERE))
PERMISSIONS = st.sampled_from(NEEDS_A_ROLE)
AGENTS = st.none() | st.builds(AgentIdentity, namespace=NAMESPACES, agent_name=st.just("writer"))
BINDINGS = st.lists(
    st.builds(
        RoleBinding,
        binding_id=st.uuids().map(str),
        subject=st.just("user:ann"),
        role=st.sampled_from([*RoleName, "curator"]),
        namespace=PLACES,
        expires_at_ms=st.sampled_from([NEVER, NOW - 1, NOW, NOW + 1, NOW + 60_000]),
    ),
    max_size=6,
)


def binding(role="viewer", namespace="acme", **fields):
    return RoleBinding(
        binding_id=fields.pop("binding_id", f"rb-{role}-{namespace}"),
        subject="user:ann",
        role=role,
        namespace=namespace,
        **fields,
    )


@given(PERMISSIONS, PLACES)
def test_without_a_binding_everything_is_refused_and_nothing_is_seen(permission, namespace):
    verdict = decide((), None, permission, namespace, NOW)
    assert (verdict.permitted, verdict.visible, verdict.confined) == (False, False, False)
    assert verdict.grants == ()


@given(BINDINGS, AGENTS, PERMISSIONS, PLACES)
def test_whatever_is_permitted_is_given_by_a_living_binding_or_is_the_agents_own(
    bindings, agent, permission, namespace
):
    verdict = decide(bindings, agent, permission, namespace, NOW)
    giving = {
        one.binding_id
        for one in bindings
        if one.role in list(RoleName)
        and permission in ROLES[RoleName(one.role)].permissions
        and one.namespace in {EVERYWHERE, namespace}
        and (one.expires_at_ms == NEVER or one.expires_at_ms > NOW)
    }
    own = (
        agent is not None
        and agent.namespace == namespace
        and permission in {Permission.READ, Permission.REPORT}
    )
    assert {one.binding_id for one in verdict.grants} == giving
    assert verdict.permitted == (bool(giving) or own)
    assert verdict.confined == (own and not giving)


@given(BINDINGS, BINDINGS, AGENTS, PERMISSIONS, PLACES)
def test_another_binding_never_takes_anything_away(few, more, agent, permission, namespace):
    before = decide(few, agent, permission, namespace, NOW)
    after = decide([*few, *more], agent, permission, namespace, NOW)
    assert after.permitted >= before.permitted
    assert after.visible >= before.visible
    assert not (after.confined and not before.confined and before.permitted)


@given(BINDINGS, AGENTS, PERMISSIONS, NAMESPACES)
def test_what_holds_everywhere_holds_in_every_namespace(bindings, agent, permission, namespace):
    everywhere = decide(bindings, agent, permission, EVERYWHERE, NOW)
    if everywhere.permitted:
        here = decide(bindings, agent, permission, namespace, NOW)
        assert here.permitted
        assert not here.confined


@given(BINDINGS, AGENTS, PERMISSIONS, PLACES)
def test_whoever_may_do_something_sees_the_namespace(bindings, agent, permission, namespace):
    verdict = decide(bindings, agent, permission, namespace, NOW)
    assert verdict.visible >= verdict.permitted


@given(BINDINGS, AGENTS, PERMISSIONS, PLACES, st.integers(0, 120_000))
def test_a_verdict_stays_until_the_moment_it_names(bindings, agent, permission, namespace, later):
    verdict = decide(bindings, agent, permission, namespace, NOW)
    if not verdict.permitted or has_ended(verdict.until_ms, NOW + later):
        return
    after = decide(bindings, agent, permission, namespace, NOW + later)
    assert (after.permitted, after.confined) == (verdict.permitted, verdict.confined)


@given(BINDINGS, AGENTS, PERMISSIONS, NAMESPACES)
def test_a_binding_elsewhere_changes_nothing(bindings, agent, permission, namespace):
    near = [one for one in bindings if one.namespace in {namespace, EVERYWHERE}]
    assert decide(bindings, agent, permission, namespace, NOW) == decide(
        near, agent, permission, namespace, NOW
    )


@given(BINDINGS, AGENTS, PERMISSIONS, PLACES, st.randoms())
def test_the_order_of_bindings_does_not_matter(bindings, agent, permission, namespace, random):
    shuffled = list(bindings)
    random.shuffle(shuffled)
    assert decide(bindings, agent, permission, namespace, NOW) == decide(
        shuffled, agent, permission, namespace, NOW
    )


@pytest.mark.parametrize("permission", sorted(FREE))
def test_what_is_free_needs_no_binding(permission):
    verdict = decide((), None, permission, "acme", NOW)
    assert (verdict.permitted, verdict.confined, verdict.visible) == (True, False, False)


@pytest.mark.parametrize(("expires", "permitted"), [(NOW, False), (NOW + 1, True), (NEVER, True)])
def test_a_binding_ends_at_its_very_millisecond(expires, permitted):
    held = binding(expires_at_ms=expires)
    assert decide([held], None, Permission.READ, "acme", NOW).permitted is permitted


def test_a_role_of_a_newer_release_gives_nothing_and_shows_nothing():
    verdict = decide([binding("curator")], None, Permission.READ, "acme", NOW)
    assert (verdict.permitted, verdict.visible) == (False, False)


def test_an_agent_with_a_binding_is_not_confined():
    agent = AgentIdentity(namespace="acme", agent_name="writer")
    assert decide((), agent, Permission.REPORT, "acme", NOW).confined
    verdict = decide([binding("agent")], agent, Permission.REPORT, "acme", NOW)
    assert (verdict.permitted, verdict.confined) == (True, False)


def test_a_binding_for_another_permission_leaves_an_agent_confined():
    agent = AgentIdentity(namespace="acme", agent_name="writer")
    assert decide([binding("viewer")], agent, Permission.REPORT, "acme", NOW).confined


def test_the_binding_that_ends_last_comes_first():
    soon = binding("viewer", expires_at_ms=NOW + 10)
    later = binding("operator", expires_at_ms=NOW + 20)
    forever = binding("admin")
    verdict = decide([soon, forever, later], None, Permission.READ, "acme", NOW)
    assert verdict.grants == (forever, later, soon)
    assert verdict.until_ms == NOW + 10
    assert decide([forever], None, Permission.READ, "acme", NOW).until_ms == NEVER
    assert decide([replace(soon)], None, Permission.READ, "acme", NOW).grants == (soon,)


def test_the_earliest_moment_is_the_first_that_comes():
    assert earliest([NEVER, 30, 20]) == 20
    assert earliest([NEVER]) == NEVER
    assert earliest([]) == NEVER


@pytest.mark.parametrize("permission", NEEDS_A_ROLE)
def test_the_roles_that_would_do_are_those_that_have_it(permission):
    named = sufficient_roles(permission)
    assert RoleName.ADMIN in named
    for role in RoleName:
        held = decide([binding(role.value)], None, permission, "acme", NOW).permitted
        assert held == (role in named)


@pytest.mark.parametrize("permission", sorted(FREE))
def test_every_role_would_do_for_what_is_free(permission):
    assert sufficient_roles(permission) == tuple(RoleName)
