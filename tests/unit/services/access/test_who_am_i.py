"""Who a caller is to the daemon, and what it may do."""

import pytest

from controlplane.domain.access.permissions import EVERYWHERE
from controlplane.domain.access.refusals import CredentialMissing
from controlplane.domain.identity import LOCAL_ADMIN
from tests.fakes.clock import START_MS
from tests.fakes.identity_plane import (
    ADMIN,
    NOBODY,
    TENANT,
    IdentityPlane,
    admin_of,
    agent_caller,
)


@pytest.fixture
def plane():
    return IdentityPlane()


def roles(plane, caller):
    held = plane.who_am_i.of(caller).roles
    return [(one.role, one.namespace, bool(one.binding_id)) for one in held]


async def test_a_user_has_the_roles_of_his_bindings_that_still_hold(plane):
    await plane.bind("user:ann", "viewer", TENANT)
    await plane.bind("user:ann", "auditor", EVERYWHERE)
    await plane.bind("user:ann", "admin", TENANT, expires_at_ms=START_MS)
    await plane.bind("user:bob", "admin", TENANT)
    assert roles(plane, admin_of(TENANT)) == [
        ("auditor", EVERYWHERE, True),
        ("viewer", TENANT, True),
    ]


async def test_an_agent_has_its_own_role_and_those_of_the_patterns_that_mean_it(plane):
    await plane.bind("spiffe://fleetplane.local/ns/team-a/agent/*", "orchestrator", TENANT)
    assert roles(plane, agent_caller("ann")) == [
        ("agent", TENANT, False),
        ("orchestrator", TENANT, True),
    ]


@pytest.mark.parametrize("caller", [ADMIN, LOCAL_ADMIN], ids=lambda caller: caller.name)
def test_an_admin_by_the_settings_is_one_without_a_binding(plane, caller):
    assert roles(plane, caller) == [("admin", EVERYWHERE, False)]


def test_nobody_is_nobody(plane):
    with pytest.raises(CredentialMissing):
        plane.who_am_i.of(NOBODY)


def test_whether_callers_are_authenticated_is_said(plane):
    assert plane.who_am_i.of(ADMIN).authentication
    assert not IdentityPlane(authenticates=False).who_am_i.of(LOCAL_ADMIN).authentication
