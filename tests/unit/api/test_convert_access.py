"""Roles, bindings and explanations between the wire and the domain."""

import pytest
from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.access import (
    binding_to_proto,
    explanation_to_proto,
    needed_by_rpc,
    place_from_proto,
    role_from_proto,
    role_to_proto,
    wanted_binding_from_proto,
)
from controlplane.api.methods import METHODS, Scope
from controlplane.domain.access.permissions import EVERYWHERE, ROLES, Permission, RoleName
from controlplane.domain.access.records import RoleBinding
from controlplane.domain.errors import InvalidArgument
from controlplane.services.access.explain import Explanation
from fleetplane.v1 import access_service_pb2 as pb

REGISTER = "/fleetplane.v1.RegistryService/Register"
DAY = 86_400


def request(**fields):
    return pb.CreateRoleBindingRequest(**({"subject": "user:ann", "role": "viewer"} | fields))


@pytest.mark.parametrize(("text", "place"), [("", "default"), ("acme", "acme"), ("*", EVERYWHERE)])
def test_a_place_is_a_namespace_or_everywhere(text, place):
    assert place_from_proto(text) == place


@pytest.mark.parametrize("text", ["**", "a b", "@system", "Acme", "*a"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(InvalidArgument, match="namespace"):
        place_from_proto(text)


def test_a_wanted_binding_is_read():
    wanted = wanted_binding_from_proto(
        request(role="operator", description="d" * 256, ttl=Duration(seconds=DAY))
    )
    assert (wanted.subject, wanted.role) == ("user:ann", RoleName.OPERATOR)
    assert (wanted.description, wanted.ttl_ms) == ("d" * 256, DAY * 1000)
    assert wanted_binding_from_proto(request()).ttl_ms == 0


@pytest.mark.parametrize("seconds", [1, 10 * 365 * DAY + 3 * DAY])
def test_one_second_and_ten_years_are_within_bounds(seconds):
    wanted = wanted_binding_from_proto(request(ttl=Duration(seconds=seconds)))
    assert wanted.ttl_ms == seconds * 1000


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"subject": ""}, {"subject"}),
        ({"subject": "ann"}, {"subject"}),
        ({"role": ""}, {"role"}),
        ({"role": "root"}, {"role"}),
        ({"role": "ADMIN"}, {"role"}),
        ({"description": "ü" * 129}, {"description"}),
        ({"ttl": Duration()}, {"ttl"}),
        ({"ttl": Duration(nanos=999_000_000)}, {"ttl"}),
        ({"ttl": Duration(seconds=-1)}, {"ttl"}),
        ({"ttl": Duration(seconds=11 * 365 * DAY)}, {"ttl"}),
        (
            {"subject": "x", "role": "x", "description": "d" * 257},
            {"subject", "role", "description"},
        ),
    ],
)
def test_every_wrong_field_is_named(fields, named):
    with pytest.raises(InvalidArgument) as refused:
        wanted_binding_from_proto(request(**fields))
    assert {violation.field for violation in refused.value.violations} == named


def test_an_unknown_role_is_told_the_known_ones():
    with pytest.raises(InvalidArgument, match="role: must be one of viewer, agent, orchestrator"):
        role_from_proto("root", "role")


def test_a_role_shows_its_permissions_in_their_order():
    message = role_to_proto(ROLES[RoleName.OPERATOR])
    assert message.name == "operator"
    assert message.description == ROLES[RoleName.OPERATOR].description
    assert list(message.permissions) == ["read", "submit", "operate"]
    assert list(role_to_proto(ROLES[RoleName.ADMIN]).permissions) == list(Permission)


def test_a_binding_shows_its_moments_if_there_are_any():
    binding = RoleBinding(
        binding_id="rb-1",
        subject="user:ann",
        role="viewer",
        namespace="*",
        description="why",
        created_by="user:bob",
        created_at_ms=1_500,
        expires_at_ms=2_500,
    )
    message = binding_to_proto(binding)
    assert (message.binding_id, message.subject, message.role) == ("rb-1", "user:ann", "viewer")
    assert (message.namespace, message.description) == ("*", "why")
    assert message.created_by == "user:bob"
    assert message.created_at.ToMilliseconds() == 1_500
    assert message.expires_at.ToMilliseconds() == 2_500
    eternal = RoleBinding(binding_id="rb-1", subject="user:ann", role="viewer", namespace="*")
    assert not binding_to_proto(eternal).HasField("expires_at")


def test_an_explanation_is_rendered_whole():
    binding = RoleBinding(binding_id="rb-1", subject="user:ann", role="viewer", namespace="acme")
    message = explanation_to_proto(
        Explanation(
            allowed=True,
            permission=Permission.READ,
            words="because",
            grants=(binding,),
            sufficient_roles=(RoleName.VIEWER, RoleName.ADMIN),
        )
    )
    assert message == pb.CheckAccessResponse(
        allowed=True,
        permission="read",
        explanation="because",
        bindings=[binding_to_proto(binding)],
        sufficient_roles=["viewer", "admin"],
    )


def test_every_rpc_says_what_it_needs():
    needed = needed_by_rpc(METHODS, {REGISTER})
    assert {f"/{name}" for name in needed} == set(METHODS)
    for name, row in METHODS.items():
        one = needed[name[1:]]
        assert one.permission is row.permission
        assert one.everywhere == (row.scope is Scope.EVERYWHERE)
        assert one.for_agents == (name == REGISTER)
