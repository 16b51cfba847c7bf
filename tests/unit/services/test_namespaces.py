"""Namespaces as objects: made, shown, changed, listed."""

from dataclasses import replace

import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE, RoleBinding
from controlplane.domain.access.refusals import (
    NamespaceExists,
    NamespaceNotFound,
    NamespaceTerminating,
)
from controlplane.domain.errors import InvalidArgument, RequestIdReused, RevisionConflict
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.namespaces import Namespace, NamespaceState, Quotas
from controlplane.services.namespaces.namespaces import NamespaceChange
from controlplane.services.ports import AuditEntry, Collection, Put, RequestKey, Transaction
from tests.fakes.namespace_plane import ADA, NamespacePlane

BOB = Caller(name="user:bob", kind=CallerKind.USER, subjects=("user:bob",), credential="oidc:bob")


@pytest.fixture
def plane() -> NamespacePlane:
    return NamespacePlane()


def names(plane: NamespacePlane, caller: Caller = ADA) -> list[str]:
    return [one.name for one in plane.namespaces.page(caller, after="", limit=1000).namespaces]


async def bind(plane: NamespacePlane, subject: str, namespace: str) -> None:
    binding = RoleBinding(
        binding_id=f"rb-{subject}-{namespace}", subject=subject, role="viewer", namespace=namespace
    )
    await plane.ledger.commit(
        Transaction(
            namespace=SYSTEM_NAMESPACE,
            steps=(Put(Collection.ROLE_BINDINGS, binding.binding_id, binding),),
            audit=AuditEntry(actor="ada", method="CreateRoleBinding", object="rolebindings"),
        )
    )


async def test_a_namespace_is_made_and_shown(plane: NamespacePlane):
    made = await plane.create(
        "team-a", description="A", labels={"owner": "ada", "none": ""}, quotas=Quotas(agents=3)
    )
    assert (made.created_by, made.state) == ("ada", NamespaceState.ACTIVE)
    assert made.revision == 1
    assert made.created_at_ms == made.updated_at_ms == plane.clock.store_ms()
    assert made.labels == {"owner": "ada"}
    assert plane.namespaces.get("team-a") == made
    assert await plane.audit() == ["namespace.created"]


@pytest.mark.parametrize("name", ["default", "team-a"])
async def test_a_name_is_taken_once(plane: NamespacePlane, name: str):
    await plane.create("team-a")
    with pytest.raises(NamespaceExists):
        await plane.create(name)


async def test_a_repeated_request_gets_the_same_namespace(plane: NamespacePlane):
    request = RequestKey("r1", "digest")
    wanted = Namespace(name="team-a", quotas=Quotas(agents=1))
    first = await plane.namespaces.create(wanted, request=request, caller=ADA)
    await plane.bound("team-a", agents=2)
    again = await plane.namespaces.create(wanted, request=request, caller=ADA)
    assert again.quotas == Quotas(agents=2)
    assert again.created_at_ms == first.created_at_ms
    with pytest.raises(RequestIdReused):
        await plane.namespaces.create(wanted, request=RequestKey("r1", "other"), caller=ADA)


async def test_a_name_of_the_plane_cannot_be_taken(plane: NamespacePlane):
    with pytest.raises(InvalidArgument):
        await plane.create("@system")


async def test_default_exists_without_an_object_and_gets_one_by_a_change(plane: NamespacePlane):
    assert plane.namespaces.get("default") == Namespace(name="default")
    changed = await plane.bound("default", agents=1)
    assert (changed.created_by, changed.quotas.agents) == ("", 1)
    assert plane.namespaces.get("default").quotas.agents == 1


async def test_only_what_is_named_is_changed(plane: NamespacePlane):
    made = await plane.create("team-a", description="A", labels={"a": "1", "b": "2"})
    change = NamespaceChange(labels={"a": "", "c": "3"}, expected_revision=made.revision)
    after = await plane.namespaces.update("team-a", change, caller=ADA)
    assert after.labels == {"b": "2", "c": "3"}
    assert (after.description, after.quotas) == ("A", Quotas())
    assert after == replace(plane.namespaces.get("team-a"), labels=after.labels)
    with pytest.raises(RevisionConflict):
        await plane.namespaces.update("team-a", change, caller=ADA)


async def test_a_change_of_nothing_writes_nothing(plane: NamespacePlane):
    made = await plane.create("team-a", description="A")
    same = NamespaceChange(labels={"gone": ""}, description="A", quotas=Quotas())
    assert await plane.namespaces.update("team-a", same, caller=ADA) == made
    assert await plane.audit() == ["namespace.created"]


async def test_what_is_not_there_cannot_be_changed(plane: NamespacePlane):
    with pytest.raises(NamespaceNotFound):
        await plane.bound("team-a", agents=1)
    with pytest.raises(NamespaceNotFound):
        plane.namespaces.get("team-a")


async def test_what_is_being_removed_cannot_be_changed(plane: NamespacePlane):
    record = await plane.create("team-a")
    await plane.removal.begin(record, reason="", caller=ADA)
    with pytest.raises(NamespaceTerminating):
        await plane.bound("team-a", agents=1)
    with pytest.raises(NamespaceExists):
        await plane.create("team-a")


async def test_a_list_has_what_the_caller_may_see(plane: NamespacePlane):
    for name in ("team-b", "team-a", "team-c"):
        await plane.create(name)
    await bind(plane, "user:bob", "team-b")
    assert names(plane) == ["default", "team-a", "team-b", "team-c"]
    assert names(plane, BOB) == ["team-b"]
    await bind(plane, "user:bob", "*")
    assert names(plane, BOB) == names(plane)


async def test_a_list_comes_in_pages_of_what_is_seen(plane: NamespacePlane):
    for number in range(5):
        await plane.create(f"team-{number}")
        if number % 2 == 0:
            await bind(plane, "user:bob", f"team-{number}")
    first = plane.namespaces.page(BOB, after="", limit=2)
    assert [one.name for one in first.namespaces] == ["team-0", "team-2"]
    last = plane.namespaces.page(BOB, after=first.next_cursor, limit=1)
    assert [one.name for one in last.namespaces] == ["team-4"]
    assert not last.next_cursor


async def test_nobody_sees_a_namespace_by_its_use_where_callers_are_known(plane: NamespacePlane):
    await plane.register("team-a", "reader")
    assert names(plane) == ["default"]
    with pytest.raises(NamespaceNotFound):
        plane.namespaces.get("team-a")


async def test_without_authentication_a_namespace_exists_by_its_use():
    plane = NamespacePlane(authenticates=False)
    await plane.register("team-a", "reader")
    assert names(plane) == ["default", "team-a"]
    assert plane.namespaces.get("team-a") == Namespace(name="team-a")
    with pytest.raises(NamespaceNotFound):
        plane.namespaces.get("team-b")
    changed = await plane.bound("team-a", agents=1)
    assert (changed.created_by, changed.quotas.agents) == ("", 1)


async def test_a_namespace_that_is_used_can_still_be_made():
    plane = NamespacePlane(authenticates=False)
    await plane.register("team-a", "reader")
    made = await plane.create("team-a")
    assert made.created_by == "ada"
    assert names(plane) == ["default", "team-a"]
