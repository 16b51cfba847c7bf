"""Bans: one per name and namespace, taken back at will."""

import pytest

from controlplane.domain.access.refusals import NamespaceNotFound, PermissionDenied
from controlplane.domain.errors import InvalidArgument
from tests.fakes.clock import START_MS
from tests.fakes.identity_plane import (
    ADMIN,
    TENANT,
    IdentityPlane,
    InterferingLedger,
    admin_of,
)


@pytest.fixture
async def plane():
    plane = IdentityPlane(InterferingLedger)
    await plane.add_namespace()
    return plane


async def ban(plane, name="ann", namespace=TENANT, reason="stolen", caller=ADMIN):
    made = await plane.bans.ban(namespace, name, reason=reason, caller=caller)
    await plane.catch_up()
    return made


async def unban(plane, name="ann", namespace=TENANT, caller=ADMIN):
    removed = await plane.bans.unban(namespace, name, reason="found", caller=caller)
    await plane.catch_up()
    return removed


async def test_a_name_is_shut_out_whether_anybody_has_it_or_not(plane):
    made = await ban(plane)
    assert (made.reason, made.banned_by, made.created_at_ms) == ("stolen", ADMIN.name, START_MS)
    assert plane.read_model.access.ban_of(TENANT, "ann") == made
    assert plane.read_model.access.ban_of(TENANT, "Ann") is None
    assert plane.read_model.access.ban_of("team-b", "ann") is None


async def test_the_first_ban_stands(plane):
    first = await ban(plane)
    audited = len(await plane.audit())
    assert await ban(plane, reason="another") == first
    assert len(await plane.audit()) == audited


async def test_two_bans_at_a_time_are_one(plane):
    async def other():
        await plane.bans.ban(TENANT, "ann", reason="first", caller=ADMIN)

    plane.ledger.before_commit.append(other)
    assert (await ban(plane, reason="second")).reason == "first"


async def test_a_ban_is_taken_back_once(plane):
    await ban(plane)
    assert await unban(plane)
    assert not await unban(plane)
    assert plane.read_model.access.bans == {}
    events = [entry.event for entry in await plane.audit() if entry.event]
    assert events == ["agent.banned", "agent.unbanned"]


@pytest.mark.parametrize("name", ["", "*", "a/b", "../team-b/ann", "a\0", "\u202ea", "a" * 257])
async def test_what_is_no_name_is_refused(plane, name):
    for use in (ban, unban):
        with pytest.raises(InvalidArgument) as refused:
            await use(plane, name)
        assert refused.value.metadata["field"] == "agent_name"


async def test_only_admins_of_the_namespace_ban_and_take_back(plane):
    await plane.add_namespace("team-b")
    await ban(plane, "bob")
    ann = admin_of(TENANT)
    for use in (ban, unban):
        with pytest.raises(NamespaceNotFound):
            await use(plane, "bob", caller=ann)
    await plane.bind("user:ann", "operator", TENANT)
    for use in (ban, unban):
        with pytest.raises(PermissionDenied):
            await use(plane, "bob", caller=ann)
    await plane.bind("user:ann", "admin", TENANT)
    await ban(plane, caller=ann)
    with pytest.raises(NamespaceNotFound):
        await ban(plane, namespace="team-b", caller=ann)


async def test_pages_hold_the_bans_of_one_namespace_by_name(plane):
    await plane.add_namespace("team-b")
    for name in ("d", "a", "c", "b", "e"):
        await ban(plane, name)
        await ban(plane, name, "team-b")
    first = await plane.bans.page(TENANT, after="", limit=3)
    rest = await plane.bans.page(TENANT, after=first.next_cursor, limit=3)
    assert [one.agent_name for one in (*first.bans, *rest.bans)] == ["a", "b", "c", "d", "e"]
    assert {one.namespace for one in (*first.bans, *rest.bans)} == {TENANT}
    assert rest.next_cursor == ""
