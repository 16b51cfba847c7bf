"""What one namespace may keep about rights: not so much that others would notice."""

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.records import uses_counter
from controlplane.domain.access.refusals import QuotaExceeded
from controlplane.services.access import room
from controlplane.services.access.bindings import Bindings
from controlplane.services.ports import Collection
from tests.fakes.identity_plane import ADMIN, HOUR_MS, TENANT, IdentityPlane
from tests.fakes.rights import Rights, agent, user

HOME = "spiffe://fleetplane.local/ns/acme/agent/"


@pytest.fixture
async def plane():
    plane = IdentityPlane()
    await plane.add_namespace()
    await plane.add_namespace("team-b")
    return plane


@pytest.fixture(autouse=True)
def _little_room(monkeypatch):
    monkeypatch.setattr(room, "MAX_HELD", 2)
    monkeypatch.setattr(room, "MAX_PATTERNS", 1)


def bindings_of(plane):
    return Bindings(plane.ledger, plane.read_model, plane.clock, plane.authoriser)


async def bind(plane, subject, namespace=TENANT):
    made = await bindings_of(plane).create(
        namespace,
        subject,
        RoleName.VIEWER,
        description="",
        ttl_ms=0,
        request=None,
        caller=ADMIN,
    )
    await plane.catch_up()
    return made


async def test_a_namespace_has_so_many_bindings_and_no_more(plane):
    await bind(plane, "user:a")
    again = await bind(plane, "user:b")
    with pytest.raises(QuotaExceeded) as refused:
        await bind(plane, "user:c")
    assert refused.value.metadata["quota"] == "role_bindings"
    assert await bind(plane, "user:b") == again  # what is there is no more
    assert await bind(plane, "user:c", "team-b")
    await bindings_of(plane).delete(TENANT, again.binding_id, reason="", caller=ADMIN)
    await plane.catch_up()
    assert await bind(plane, "user:c")


async def test_a_namespace_has_so_many_patterns_and_no_more(plane):
    await bind(plane, HOME + "a*")
    with pytest.raises(QuotaExceeded) as refused:
        await bind(plane, HOME + "b*")
    assert refused.value.metadata["quota"] == "role_binding_patterns"
    assert await bind(plane, HOME + "b")
    assert await bind(plane, HOME + "b*", "team-b")


async def test_a_namespace_has_so_many_bans_and_no_more(plane):
    for name in ("a", "b"):
        await plane.bans.ban(TENANT, name, reason="", caller=ADMIN)
        await plane.catch_up()
    with pytest.raises(QuotaExceeded):
        await plane.bans.ban(TENANT, "c", reason="", caller=ADMIN)
    assert await plane.bans.ban(TENANT, "a", reason="", caller=ADMIN)
    assert await plane.bans.ban("team-b", "c", reason="", caller=ADMIN)


@pytest.mark.parametrize("kind", ["api_token", "join_token"])
async def test_a_namespace_has_so_many_good_tokens_and_no_more(plane, kind):
    make = getattr(plane, kind)
    for _ in range(2):
        await make()
    with pytest.raises(QuotaExceeded):
        await make()
    assert await make("team-b")
    plane.clock.shift(HOUR_MS / 1000)
    assert await make()


async def test_a_token_that_was_revoked_gives_way_with_all_that_belongs_to_it(plane):
    old, other = [(await plane.join_token()).token for _ in range(2)]
    await plane.join_tokens.revoke(TENANT, old.token_id, reason="", caller=ADMIN)
    await plane.catch_up()
    new = (await plane.join_token()).token
    assert set(plane.read_model.access.join_tokens) == {other.token_id, new.token_id}
    counts = await plane.ledger.read_counts("@system", [uses_counter(old.token_id)])
    assert list(counts) == [0]


async def test_an_api_token_that_expired_gives_way_with_its_bindings(plane):
    old = (await plane.api_token(ttl_ms=1000)).token
    await plane.api_token()
    plane.clock.shift(2)
    await plane.api_token()
    access = plane.read_model.access
    assert old.token_id not in access.api_tokens
    assert access.bindings_of((f"token:{old.token_id}",)) == []
    assert len(access.held_in(Collection.API_TOKENS, TENANT)) == 2
    assert len(access.held_in(Collection.ROLE_BINDINGS, TENANT)) == 2


async def test_patterns_of_other_namespaces_are_not_even_looked_at(monkeypatch):
    rights = Rights()
    for name in ("acme", "umbra"):
        await rights.namespace(name)
        await rights.bind(HOME + "w*", "operator", name)
    await rights.bind(HOME + "*", "viewer", EVERYWHERE)
    looked: list[str] = []

    def seen(pattern, subject):
        looked.append(pattern)
        return subject.startswith(pattern.removesuffix("*"))

    monkeypatch.setattr("controlplane.services.access.view.matches", seen)
    writer = agent("acme", "writer")
    assert rights.authoriser.objection(writer, Permission.OPERATE, "acme") is None
    assert sorted(looked) == [HOME + "*", HOME + "w*"]
    assert rights.authoriser.objection(user("ann"), Permission.READ, "acme") is not None


async def test_what_is_counted_follows_what_is_kept():
    rights = Rights()
    await rights.namespace("acme")
    first = await rights.bind(HOME + "w*", "viewer", "acme")
    await rights.bind(HOME + "w*", "viewer", "acme", expires_at_ms=rights.now_ms(9))
    access = rights.read_model.access
    assert access.patterns_in("acme") == 1
    assert list(access.held_in(Collection.ROLE_BINDINGS, "acme")) == [first.binding_id]
    await rights.unbind(first)
    assert access.patterns_in("acme") == 0
    assert not access.held_in(Collection.ROLE_BINDINGS, "acme")
