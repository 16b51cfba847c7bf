"""Join tokens: made within bounds, listed with their uses, ended for good."""

import pytest

from controlplane.domain.access.refusals import (
    CredentialRevoked,
    NamespaceTerminating,
    PermissionDenied,
    TokenNotFound,
)
from controlplane.domain.errors import InvalidArgument, RequestIdReused
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.ports import RequestKey
from tests.fakes.clock import START_MS
from tests.fakes.credentials import GOOD_CSR
from tests.fakes.identity_plane import (
    ADMIN,
    HOUR_MS,
    NOBODY,
    TENANT,
    IdentityPlane,
    InterferingLedger,
    admin_of,
)

REQUEST = RequestKey("req-1", "digest")


@pytest.fixture
async def plane():
    plane = IdentityPlane(InterferingLedger)
    await plane.add_namespace()
    return plane


async def revoke(plane, token_id, namespace=TENANT):
    listed = await plane.join_tokens.revoke(namespace, token_id, reason="lost", caller=ADMIN)
    await plane.catch_up()
    return listed


async def test_a_token_says_what_it_is_good_for(plane):
    minted = await plane.join_token(agent_name_pattern="bot-*", max_uses=3, description="rack 7")
    token = minted.token
    assert minted.secret.startswith(f"{token.token_id}.")
    assert token.token_id.startswith("jt-")
    assert (token.namespace, token.agent_name_pattern, token.max_uses) == (TENANT, "bot-*", 3)
    assert (token.created_by, token.created_at_ms) == (ADMIN.name, START_MS)
    assert token.expires_at_ms == START_MS + HOUR_MS
    assert plane.read_model.access.join_tokens == {token.token_id: token}


async def test_the_secret_is_nowhere_but_in_the_answer(plane):
    minted = await plane.join_token()
    random_part = minted.secret.partition(".")[2]
    kept = repr([vars(plane.read_model.access), await plane.audit(), minted])
    assert random_part not in kept


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent_name_pattern", "a b"),
        ("agent_name_pattern", "a\0"),
        ("agent_name_pattern", "\u202ea"),
        ("agent_name_pattern", "a?"),
        ("agent_name_pattern", "(a|b)"),
        ("agent_name_pattern", "a" * 257),
        ("max_uses", 1_000_001),
        ("max_uses", -1),
        ("description", "\u00e4" * 129),
    ],
)
async def test_what_is_out_of_bounds_is_refused(plane, field, value):
    with pytest.raises(InvalidArgument) as refused:
        await plane.join_token(**{field: value})
    assert refused.value.metadata["field"] == field
    assert plane.read_model.access.join_tokens == {}


async def test_a_repeated_request_is_refused_and_names_the_token(plane):
    minted = await plane.join_token(request=REQUEST)
    with pytest.raises(RequestIdReused) as refused:
        await plane.join_token(request=REQUEST)
    assert refused.value.metadata == {"request_id": "req-1", "token_id": minted.token.token_id}
    assert minted.secret.partition(".")[2] not in refused.value.message


async def test_who_does_not_administer_the_namespace_makes_and_ends_nothing(plane):
    minted = await plane.join_token()
    await plane.bind("user:ann", "operator", TENANT)
    ann = admin_of(TENANT)
    with pytest.raises(PermissionDenied):
        await plane.join_token(caller=ann)
    with pytest.raises(PermissionDenied):
        await plane.join_tokens.revoke(TENANT, minted.token.token_id, reason="", caller=ann)


async def test_a_namespace_that_is_being_removed_gets_no_token(plane):
    await plane.add_namespace(TENANT, NamespaceState.TERMINATING)
    with pytest.raises(NamespaceTerminating):
        await plane.join_token()


async def test_revoking_is_for_good_and_keeps_the_count(plane):
    minted = await plane.join_token(max_uses=0)
    await plane.enrolment.enroll(minted.secret, "ann", GOOD_CSR, caller=NOBODY)
    first = await revoke(plane, minted.token.token_id)
    assert (first.token.revoked, first.uses) == (True, 1)
    audited = len(await plane.audit())
    assert await revoke(plane, minted.token.token_id) == first
    assert len(await plane.audit()) == audited
    with pytest.raises(CredentialRevoked):
        await plane.enrolment.enroll(minted.secret, "ann", GOOD_CSR, caller=NOBODY)


async def test_two_revocations_at_a_time_are_one(plane):
    minted = await plane.join_token()

    async def other():
        await plane.join_tokens.revoke(TENANT, minted.token.token_id, reason="", caller=ADMIN)

    plane.ledger.before_commit.append(other)
    assert (await revoke(plane, minted.token.token_id)).token.revoked
    assert sum(entry.event == "join_token.revoked" for entry in await plane.audit()) == 1


async def test_a_token_is_revoked_where_it_belongs_only(plane):
    await plane.add_namespace("team-b")
    minted = await plane.join_token()
    for namespace, token_id in (("team-b", minted.token.token_id), (TENANT, "jt-unknown")):
        with pytest.raises(TokenNotFound):
            await revoke(plane, token_id, namespace)


async def test_pages_hold_the_tokens_of_one_namespace_with_their_uses(plane):
    await plane.add_namespace("team-b")
    made = []
    for number in range(5):
        minted = await plane.join_token(max_uses=0)
        await plane.join_token("team-b")
        for turn in range(number):
            await plane.enrolment.enroll(minted.secret, f"a{turn}", GOOD_CSR, caller=NOBODY)
        made.append((minted.token.token_id, number))
        plane.clock.shift(1)
    first = await plane.join_tokens.page(TENANT, after="", limit=3)
    rest = await plane.join_tokens.page(TENANT, after=first.next_cursor, limit=3)
    found = [(listed.token.token_id, listed.uses) for listed in (*first.tokens, *rest.tokens)]
    assert found == made
    assert rest.next_cursor == ""
    assert (await plane.join_tokens.page("team-c", after="", limit=3)).tokens == ()
