"""A change of rights rests on the rights that the store knows, not on those a replica remembers."""

from dataclasses import replace

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.records import Ban, ban_key
from controlplane.domain.access.refusals import (
    AgentBanned,
    CredentialRevoked,
    PermissionDenied,
)
from controlplane.services.access.bans import Bans
from controlplane.services.access.bindings import Bindings
from controlplane.services.access.standing import Standing
from controlplane.services.ports import ABSENT, Collection, Delete, Put, Require
from tests.fakes.rights import MeddledLedger, Rights, agent, program, user

ROOT = user("root")


@pytest.fixture
async def rights():
    """Return a plane with the namespace `acme`, where root is admin."""
    rights = Rights(wrap=MeddledLedger)
    await rights.namespace("acme")
    await rights.bind("user:root", "admin", "acme")
    return rights


@pytest.fixture
def bindings(rights):
    return Bindings(rights.ledger, rights.read_model, rights.clock, rights.authoriser)


async def create(bindings, subject="user:ann", role=RoleName.VIEWER, *, caller=ROOT, ttl_ms=0):
    return await bindings.create(
        "acme", subject, role, description="", ttl_ms=ttl_ms, request=None, caller=caller
    )


def may(rights, subject, permission=Permission.READ):
    return rights.authoriser.objection(user(subject), permission, "acme") is None


async def test_an_administrator_who_was_just_removed_cannot_come_back(rights, bindings):
    (own,) = rights.authoriser.grants(ROOT, Permission.ADMINISTER, "acme")
    await rights.write(Delete(Collection.ROLE_BINDINGS, own.binding_id))
    assert may(rights, "root", Permission.ADMINISTER)  # this replica does not know it yet
    with pytest.raises(PermissionDenied, match="it was just taken away"):
        await create(bindings, "user:root", RoleName.ADMIN)
    with pytest.raises(PermissionDenied, match="it was just taken away"):
        await bindings.delete("acme", "rb-any", reason="", caller=ROOT)


async def test_an_administrator_who_is_removed_while_he_gives_gives_nothing(rights, bindings):
    (own,) = rights.authoriser.grants(ROOT, Permission.ADMINISTER, "acme")

    async def remove():
        await rights.write(Delete(Collection.ROLE_BINDINGS, own.binding_id))

    rights.ledger.before_commit = remove
    with pytest.raises(PermissionDenied):
        await create(bindings)
    await rights.follow()
    assert not may(rights, "ann")


async def test_a_right_that_was_cut_short_meanwhile_is_no_right(rights, bindings):
    eternal = await rights.bind("user:eve", "admin", "acme")
    short = replace(eternal, expires_at_ms=rights.now_ms(1))
    await rights.write(Put(Collection.ROLE_BINDINGS, short.binding_id, short))
    rights.clock.shift(1)
    with pytest.raises(PermissionDenied, match="it was just taken away"):
        await create(bindings, "user:bob", caller=user("eve"))


async def test_a_token_that_was_just_revoked_gives_nothing(rights, bindings):
    token = await rights.token("at-1", "acme")
    await rights.bind("token:at-1", "admin", "acme")
    assert await create(bindings, caller=program("at-1"))
    await rights.write(Put(Collection.API_TOKENS, "at-1", replace(token, revoked=True)))
    with pytest.raises(CredentialRevoked):
        await create(bindings, "user:bob", caller=program("at-1"))


async def test_a_second_right_stands_in_for_one_that_was_taken_away(rights, bindings):
    (own,) = rights.authoriser.grants(ROOT, Permission.ADMINISTER, "acme")
    await rights.bind("user:root", "admin", EVERYWHERE)
    await rights.write(Delete(Collection.ROLE_BINDINGS, own.binding_id))
    assert await create(bindings)


async def test_an_agent_that_acts_as_itself_rests_on_no_binding_but_on_not_being_banned(rights):
    standing = Standing(rights.ledger, rights.clock, rights.authoriser)
    writer = agent("acme", "writer")
    (condition,) = await standing.conditions(writer, Permission.REPORT, "acme")
    assert condition == Require(Collection.BANS, "acme/writer", ABSENT)


async def test_an_agent_that_was_just_banned_does_not_take_its_ban_back(rights):
    spy = agent("acme", "spy")
    await rights.bind(spy.name, "admin", "acme")
    ban = Ban(namespace="acme", agent_name="spy")
    await rights.write(Put(Collection.BANS, ban_key("acme", "spy"), ban))
    bans = Bans(rights.ledger, rights.read_model, rights.clock, rights.authoriser)
    with pytest.raises(AgentBanned):
        await bans.unban("acme", "spy", reason="", caller=spy)


async def test_who_is_admin_for_a_while_makes_no_admin_for_longer(rights, bindings):
    guest = user("guest")
    await rights.bind("user:guest", "admin", "acme", expires_at_ms=rights.now_ms(3600))
    for ttl_ms in (0, 3_600_001):
        with pytest.raises(PermissionDenied, match="for a while"):
            await create(bindings, "user:guest", RoleName.ADMIN, caller=guest, ttl_ms=ttl_ms)
    friend = await create(bindings, "user:friend", RoleName.ADMIN, caller=guest, ttl_ms=3_600_000)
    assert friend.expires_at_ms == rights.now_ms(3600)
    assert await create(bindings, "user:friend", RoleName.OPERATOR, caller=guest)


async def test_the_longest_right_counts_for_how_long_others_may_have_it(rights, bindings):
    guest = user("guest", "staff")
    await rights.bind("user:guest", "admin", "acme", expires_at_ms=rights.now_ms(60))
    await rights.bind("group:staff", "admin", EVERYWHERE)
    made = await create(bindings, "user:friend", RoleName.ADMIN, caller=guest)
    assert made.expires_at_ms == 0
