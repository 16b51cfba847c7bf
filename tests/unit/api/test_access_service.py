"""The servicer of rights, called as the pipeline calls it."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from controlplane.api.context import Call, enter_call
from controlplane.api.convert.access import needed_by_rpc
from controlplane.api.methods import METHODS
from controlplane.api.pagination import PageTokens
from controlplane.api.v1.access_service import AccessService
from controlplane.domain.access.permissions import RoleName
from controlplane.domain.access.refusals import PermissionDenied
from controlplane.domain.access.spiffe import own_agent
from controlplane.domain.errors import InvalidArgument, InvalidCursor
from controlplane.services.access.bindings import Bindings
from controlplane.services.access.explain import AccessCheck
from fleetplane.v1 import access_service_pb2 as pb
from tests.fakes.rights import TRUST_DOMAIN, Rights, user

NO_CONTEXT: Any = None


class Service:
    """The servicer over the memory store; `caller` makes the calls."""

    def __init__(self, rights, caller):
        self.rights = rights
        self.caller = caller
        bindings = Bindings(rights.ledger, rights.read_model, rights.clock, rights.authoriser)
        check = AccessCheck(
            rights.read_model,
            rights.authoriser,
            methods=needed_by_rpc(METHODS, METHODS),
            agent_of=lambda subject: own_agent(subject, TRUST_DOMAIN),
        )
        self._servicer = AccessService(bindings, check, PageTokens(b"0" * 16))

    async def call(self, method, request):
        call = Call(METHODS[f"/fleetplane.v1.AccessService/{method}"], NO_CONTEXT)
        call.caller = self.caller
        enter_call(call)
        response = await getattr(self._servicer, method)(request, NO_CONTEXT)
        await self.rights.follow()
        return response

    async def create(self, subject="user:ann", role="viewer", **fields):
        fields.setdefault("namespace", "acme")
        request = pb.CreateRoleBindingRequest(subject=subject, role=role, **fields)
        return (await self.call("CreateRoleBinding", request)).binding

    async def list(self, **fields):
        fields.setdefault("namespace", "acme")
        return await self.call("ListRoleBindings", pb.ListRoleBindingsRequest(**fields))


@pytest.fixture
async def service():
    rights = Rights()
    await rights.namespace("acme")
    await rights.bind("user:root", "admin", "acme")
    return Service(rights, user("root"))


async def test_the_roles_are_listed_with_their_permissions(service):
    response = await service.call("ListRoles", pb.ListRolesRequest())
    assert [role.name for role in response.roles] == list(RoleName)
    viewer = response.roles[0]
    assert list(viewer.permissions) == ["read"]
    assert viewer.description


async def test_a_binding_is_made_listed_and_taken_away(service):
    fields = {"description": "on call", "ttl": Duration(seconds=60), "request_id": "req-1"}
    made = await service.create(**fields)
    assert made.binding_id.startswith("rb-")
    assert (made.subject, made.role, made.namespace) == ("user:ann", "viewer", "acme")
    assert made.created_by == "user:root"
    assert made.expires_at.ToMilliseconds() == service.rights.now_ms(60)
    service.rights.clock.shift(1)
    assert await service.create(**fields) == made

    assert list((await service.list(subject="user:ann")).bindings) == [made]
    for removed in (True, False):
        request = pb.DeleteRoleBindingRequest(namespace="acme", binding_id=made.binding_id)
        assert (await service.call("DeleteRoleBinding", request)).removed is removed
    assert list((await service.list(subject="user:ann")).bindings) == []


async def test_pages_are_walked_with_their_tokens(service):
    for number in range(5):
        await service.create(f"user:ann-{number}")
    seen, token = [], ""
    while True:
        page = await service.list(page_size=2, page_token=token)
        seen += [binding.subject for binding in page.bindings]
        token = page.next_page_token
        if not token:
            break
    assert seen == [*(f"user:ann-{number}" for number in range(5)), "user:root"]


async def test_a_page_token_is_good_for_its_own_list_only(service):
    for number in range(3):
        await service.create(f"user:ann-{number}")
    token = (await service.list(page_size=1)).next_page_token
    for other in ({"namespace": "*"}, {"namespace": ""}, {"subject": "user:ann-1"}):
        with pytest.raises(InvalidCursor):
            await service.list(page_size=1, page_token=token, **other)


async def test_a_question_is_answered(service):
    response = await service.call(
        "CheckAccess",
        pb.CheckAccessRequest(namespace="acme", action="fleetplane.v1.RegistryService/UpdateAgent"),
    )
    assert response.allowed
    assert response.permission == "operate"
    assert [binding.subject for binding in response.bindings] == ["user:root"]
    assert list(response.sufficient_roles) == ["operator", "admin"]


async def test_what_is_missing_is_named(service):
    delete = pb.DeleteRoleBindingRequest(namespace="acme")
    for method, request, field in (
        ("DeleteRoleBinding", delete, "binding_id"),
        ("CheckAccess", pb.CheckAccessRequest(), "action"),
    ):
        with pytest.raises(InvalidArgument, match=field):
            await service.call(method, request)


async def test_a_long_reason_or_page_is_refused(service):
    delete = pb.DeleteRoleBindingRequest(binding_id="rb-1", reason="r" * 1025)
    with pytest.raises(InvalidArgument, match="reason"):
        await service.call("DeleteRoleBinding", delete)
    with pytest.raises(InvalidArgument, match="page_size"):
        await service.list(page_size=1001)


async def test_who_is_not_admin_is_refused_even_behind_the_gate(service):
    service.caller = user("bob")
    await service.rights.bind("user:bob", "operator", "acme")
    with pytest.raises(PermissionDenied):
        await service.create()
