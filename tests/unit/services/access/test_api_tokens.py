"""API tokens: made with their role, listed without secrets, ended with their bindings."""

import asyncio

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, binding_id_of
from controlplane.domain.access.refusals import (
    CredentialRevoked,
    NamespaceNotFound,
    NamespaceTerminating,
    PermissionDenied,
    TokenNotFound,
)
from controlplane.domain.errors import InvalidArgument, RequestIdReused
from controlplane.domain.identity import LOCAL_ADMIN
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.access.api_tokens import BOOTSTRAP_ID
from controlplane.services.ports import Collection, RequestKey
from tests.fakes.clock import START_MS
from tests.fakes.identity_plane import (
    ADMIN,
    HOUR_MS,
    TENANT,
    IdentityPlane,
    InterferingLedger,
    YieldingLedger,
    admin_of,
)

REQUEST = RequestKey("req-1", "digest")


@pytest.fixture
async def plane():
    plane = IdentityPlane(InterferingLedger)
    await plane.add_namespace()
    return plane


async def everything(plane):
    """Return all that is stored and audited, as text."""
    view = plane.read_model.access
    return repr([vars(view), await plane.audit()])


async def revoke(plane, token_id, namespace=TENANT, caller=ADMIN):
    listed = await plane.api_tokens.revoke(namespace, token_id, reason="leaked", caller=caller)
    await plane.catch_up()
    return listed


async def test_a_token_comes_with_its_role(plane):
    minted = await plane.api_token(role="operator")
    token = minted.token
    assert minted.secret.startswith(f"{token.token_id}.")
    assert (token.created_by, token.created_at_ms) == (ADMIN.name, START_MS)
    assert token.expires_at_ms == START_MS + HOUR_MS
    subject = f"token:{token.token_id}"
    (binding,) = plane.read_model.access.bindings_of((subject,))
    assert binding.binding_id == binding_id_of(subject, "operator", TENANT)
    assert (binding.role, binding.namespace) == ("operator", TENANT)
    assert binding.expires_at_ms == token.expires_at_ms
    caller = plane.authenticator.by_bearer(minted.secret)
    plane.authoriser.authorise(caller, Permission.OPERATE, TENANT)
    with pytest.raises(PermissionDenied):
        plane.authoriser.authorise(caller, Permission.ADMINISTER, TENANT)


async def test_a_token_for_ever_and_everywhere(plane):
    minted = await plane.api_token(EVERYWHERE, role="admin", ttl_ms=0)
    assert minted.token.expires_at_ms == 0
    plane.clock.shift(100 * 366 * 86_400)
    caller = plane.authenticator.by_bearer(minted.secret)
    plane.authoriser.authorise(caller, Permission.ADMINISTER, EVERYWHERE)


async def test_the_secret_is_nowhere_but_in_the_answer(plane):
    minted = await plane.api_token()
    random_part = minted.secret.partition(".")[2]
    assert random_part not in await everything(plane)
    assert random_part not in repr(minted)


async def test_no_two_secrets_are_alike(plane):
    secrets = {(await plane.api_token()).secret for _ in range(50)}
    assert len({secret.partition(".")[2] for secret in secrets}) == 50


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "a\0b"},
        {"name": "a\u202eb"},
        {"name": "a\nb"},
        {"name": "\u200f"},
        {"name": "x" * 129},
        {"role": ""},
        {"role": "root"},
        {"role": "Admin"},
        {"role": "admin\0"},
        {"role": "*"},
    ],
)
async def test_a_name_that_does_not_print_and_an_unknown_role_are_refused(plane, fields):
    with pytest.raises(InvalidArgument) as refused:
        await plane.api_token(**fields)
    assert refused.value.metadata["field"] in fields
    assert plane.read_model.access.api_tokens == {}


async def test_a_repeated_request_is_refused_and_names_the_token(plane):
    minted = await plane.api_token(request=REQUEST)
    with pytest.raises(RequestIdReused) as refused:
        await plane.api_token(request=REQUEST)
    assert refused.value.metadata == {"request_id": "req-1", "token_id": minted.token.token_id}
    assert len(plane.read_model.access.api_tokens) == 1
    with pytest.raises(RequestIdReused) as refused:
        await plane.api_token(request=RequestKey("req-1", "other"))
    assert refused.value.metadata == {"request_id": "req-1"}


async def test_request_ids_of_tenants_do_not_meet(plane):
    await plane.add_namespace("team-b")
    await plane.api_token(request=REQUEST)
    await plane.api_token("team-b", request=REQUEST)
    assert len(plane.read_model.access.api_tokens) == 2


async def test_an_admin_of_one_namespace_makes_tokens_there_only(plane):
    await plane.add_namespace("team-b")
    ann = admin_of(TENANT)
    await plane.bind("user:ann", "admin", TENANT)
    await plane.api_token(role="admin", caller=ann)
    with pytest.raises(PermissionDenied):
        await plane.api_token(EVERYWHERE, role="viewer", caller=ann)
    with pytest.raises(NamespaceNotFound):
        await plane.api_token("team-b", role="viewer", caller=ann)
    assert len(plane.read_model.access.api_tokens) == 1


async def test_who_was_just_removed_makes_no_token_even_where_that_is_not_known_yet(plane):
    binding_id = await plane.bind("user:ann", "admin", TENANT)
    await plane.unbind(binding_id, seen=False)
    with pytest.raises(PermissionDenied):
        await plane.api_token(role="admin", caller=admin_of(TENANT))


async def test_who_is_removed_at_the_last_moment_makes_no_token(plane):
    binding_id = await plane.bind("user:ann", "admin", TENANT)

    async def remove():
        await plane.unbind(binding_id, seen=False)

    plane.ledger.before_commit.append(remove)
    with pytest.raises(PermissionDenied):
        await plane.api_token(role="admin", caller=admin_of(TENANT))


async def test_a_revoked_token_makes_no_other_in_its_last_moments(plane):
    minted = await plane.api_token(role="admin")
    caller = plane.authenticator.by_bearer(minted.secret)
    await plane.api_tokens.revoke(TENANT, minted.token.token_id, reason="", caller=ADMIN)
    with pytest.raises(CredentialRevoked):  # this replica has not seen it yet
        await plane.api_token(role="admin", caller=caller)


async def test_a_namespace_that_is_being_removed_gets_no_token(plane):
    await plane.add_namespace(TENANT, NamespaceState.TERMINATING)
    with pytest.raises(NamespaceTerminating):
        await plane.api_token()


async def test_without_authentication_tokens_can_be_made_for_any_namespace():
    plane = IdentityPlane(authenticates=False)
    minted = await plane.api_token("not-made-yet", caller=LOCAL_ADMIN)
    assert minted.token.created_by == LOCAL_ADMIN.name


async def test_revoking_ends_the_token_and_all_its_bindings(plane):
    await plane.add_namespace("team-b")
    minted, other = await plane.api_token(), await plane.api_token()
    subject = f"token:{minted.token.token_id}"
    await plane.bind(subject, "viewer", "team-b")
    listed = await revoke(plane, minted.token.token_id)
    assert listed.token.revoked
    assert listed.token.created_at_ms == minted.token.created_at_ms
    assert plane.read_model.access.bindings_of((subject,)) == []
    assert len(plane.read_model.access.bindings) == 1  # of the other one
    with pytest.raises(CredentialRevoked):
        plane.authenticator.by_bearer(minted.secret)
    plane.authenticator.by_bearer(other.secret)
    entry = (await plane.audit())[-1]
    assert (entry.event, entry.reason) == ("api_token.revoked", "leaked")
    assert entry.details == {"namespace": TENANT, "bindings": "2"}


async def test_revoking_again_changes_nothing(plane):
    minted = await plane.api_token()
    first = await revoke(plane, minted.token.token_id)
    audited = len(await plane.audit())
    assert await revoke(plane, minted.token.token_id) == first
    assert len(await plane.audit()) == audited


async def test_a_binding_that_was_made_after_the_end_goes_with_the_next_revocation(plane):
    minted = await plane.api_token()
    await revoke(plane, minted.token.token_id)
    subject = f"token:{minted.token.token_id}"
    await plane.bind(subject, "viewer", TENANT)
    await revoke(plane, minted.token.token_id)
    assert plane.read_model.access.bindings_of((subject,)) == []


async def test_a_token_is_revoked_where_it_belongs_only(plane):
    await plane.add_namespace("team-b")
    minted = await plane.api_token()
    for place in ("team-b", EVERYWHERE):
        with pytest.raises(TokenNotFound):
            await revoke(plane, minted.token.token_id, place)
    with pytest.raises(TokenNotFound):
        await revoke(plane, "at-unknown")
    plane.authenticator.by_bearer(minted.secret)


async def test_a_token_can_revoke_itself(plane):
    minted = await plane.api_token(role="admin")
    caller = plane.authenticator.by_bearer(minted.secret)
    listed = await revoke(plane, minted.token.token_id, caller=caller)
    assert listed.token.revoked


async def test_pages_hold_the_tokens_of_one_namespace_oldest_first(plane):
    await plane.add_namespace("team-b")
    made = []
    for number in range(7):
        made.append((await plane.api_token(name=f"t{number}")).token.token_id)
        await plane.api_token("team-b")
        plane.clock.shift(1)
    await plane.api_token(EVERYWHERE)
    found, after = [], ""
    while True:
        page = await plane.api_tokens.page(TENANT, after=after, limit=3)
        found += [listed.token.token_id for listed in page.tokens]
        after = page.next_cursor
        if not after:
            break
    assert found == made
    everywhere = await plane.api_tokens.page(EVERYWHERE, after="", limit=100)
    assert [listed.token.namespace for listed in everywhere.tokens] == [EVERYWHERE]


async def test_the_last_use_is_listed(plane):
    minted = await plane.api_token()
    plane.authenticator.by_bearer(minted.secret)
    assert await plane.token_uses.write() == 1
    await plane.catch_up()
    page = await plane.api_tokens.page(TENANT, after="", limit=10)
    assert [listed.last_used_at_ms for listed in page.tokens] == [START_MS]


async def test_the_first_administrator_gets_a_token_once(plane):
    secret = await plane.api_tokens.bootstrap_admin()
    await plane.catch_up()
    assert secret is not None
    assert secret.startswith(f"{BOOTSTRAP_ID}.")
    caller = plane.authenticator.by_bearer(secret)
    plane.authoriser.authorise(caller, Permission.ADMINISTER, EVERYWHERE)
    assert await plane.api_tokens.bootstrap_admin() is None


async def test_two_replicas_that_start_together_make_one_administrator():
    plane = IdentityPlane(YieldingLedger)
    plane.read_model.ready = True
    secrets = await asyncio.gather(*(plane.api_tokens.bootstrap_admin() for _ in range(10)))
    await plane.catch_up()
    (secret,) = [one for one in secrets if one is not None]
    assert plane.authenticator.by_bearer(secret).token_id == BOOTSTRAP_ID
    (record,) = await plane.ledger.read(SYSTEM_NAMESPACE, Collection.API_TOKENS, (BOOTSTRAP_ID,))
    assert record is not None
    assert record.value.namespace == EVERYWHERE
    assert len(plane.read_model.access.bindings) == 1


async def test_who_has_an_administrators_token_gets_no_other(plane):
    await plane.api_token(EVERYWHERE, role="admin", ttl_ms=HOUR_MS)
    assert await plane.api_tokens.bootstrap_admin() is None
    plane.clock.shift(3_600)  # it has expired
    assert await plane.api_tokens.bootstrap_admin() is not None


@pytest.mark.parametrize(
    ("namespace", "role"), [(TENANT, "admin"), (EVERYWHERE, "operator"), (EVERYWHERE, "auditor")]
)
async def test_lesser_tokens_are_no_administrators(plane, namespace, role):
    await plane.api_token(namespace, role=role)
    assert await plane.api_tokens.bootstrap_admin() is not None


async def test_a_bootstrap_token_that_was_revoked_does_not_come_back(plane):
    secret = await plane.api_tokens.bootstrap_admin()
    await plane.catch_up()
    await revoke(plane, BOOTSTRAP_ID, EVERYWHERE)
    assert await plane.api_tokens.bootstrap_admin() is None
    with pytest.raises(CredentialRevoked):
        plane.authenticator.by_bearer(secret)
