"""A change of rights rests on the rights that the store knows, not on those a replica remembers."""

from dataclasses import replace

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.refusals import CredentialRevoked, PermissionDenied
from controlplane.services.access.bindings import Bindings
from controlplane.services.access.standing import Standing
from controlplane.services.ports import Collection, Delete, Put
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


async def create(bindings, subject="user:ann", role=RoleName.VIEWER, *, caller=ROOT):
    return await bindings.create(
        "acme", subject, role, description="", ttl_ms=0, request=None, caller=caller
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


async def test_an_agent_that_acts_as_itself_rests_on_no_binding(rights):
    standing = Standing(rights.ledger, rights.clock, rights.authoriser)
    writer = agent("acme", "writer")
    assert await standing.conditions(writer, Permission.REPORT, "acme") == ()
