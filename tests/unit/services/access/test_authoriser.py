"""Who may do what, as one replica knows it, and what it remembers of its verdicts."""

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission
from controlplane.domain.access.records import TokenUse
from controlplane.domain.access.refusals import (
    AgentBanned,
    CredentialExpired,
    CredentialMissing,
    CredentialRevoked,
    EarlierNamespace,
    NamespaceNotFound,
    NamespaceTerminating,
    PermissionDenied,
)
from controlplane.domain.errors import NotReady
from controlplane.domain.identity import ANONYMOUS, LOCAL_ADMIN
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.access import authoriser as module
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.hub import Hub
from controlplane.services.ports import Collection, Delete, Put
from controlplane.services.read_model import ReadModel
from tests.fakes.clock import FakeClock
from tests.fakes.rights import Rights, agent, program, user

ANN = user("ann", "ops")
FILLS = [Permission.REPORT, Permission.SUBMIT, Permission.OPERATE, Permission.APPROVE]
LOOKS = [Permission.READ, Permission.AUDIT, Permission.ADMINISTER]


@pytest.fixture
async def rights():
    """Return a plane with the namespace `acme`, where Ann is operator."""
    rights = Rights()
    await rights.namespace("acme")
    await rights.bind("user:ann", "operator", "acme")
    return rights


def test_without_authentication_everybody_may_do_everything_anywhere():
    rights = Rights(authenticates=False)
    for permission in Permission:
        for namespace in ("default", "never-made", EVERYWHERE):
            for caller in (LOCAL_ADMIN, ANONYMOUS, ANN):
                assert rights.authoriser.authorise(caller, permission, namespace) is False
    assert rights.authoriser.places_of(ANONYMOUS) is None
    assert rights.authoriser.is_admin(ANN)


@pytest.mark.parametrize("permission", FILLS)
@pytest.mark.parametrize("authenticates", [True, False])
async def test_a_namespace_that_is_being_removed_takes_nothing_new(permission, authenticates):
    rights = Rights(authenticates=authenticates)
    await rights.namespace("acme")
    assert rights.authoriser.objection(LOCAL_ADMIN, permission, "acme") is None
    await rights.namespace("acme", NamespaceState.TERMINATING)
    with pytest.raises(NamespaceTerminating):
        rights.authoriser.authorise(LOCAL_ADMIN, permission, "acme")
    assert rights.authoriser.objection(LOCAL_ADMIN, permission, "default") is None


@pytest.mark.parametrize("permission", LOOKS)
@pytest.mark.parametrize("authenticates", [True, False])
async def test_a_namespace_that_is_being_removed_can_be_looked_at(permission, authenticates):
    rights = Rights(authenticates=authenticates)
    await rights.namespace("acme", NamespaceState.TERMINATING)
    assert rights.authoriser.objection(LOCAL_ADMIN, permission, "acme") is None


async def test_who_does_not_see_a_namespace_does_not_learn_that_it_is_being_removed(rights):
    await rights.namespace("acme", NamespaceState.TERMINATING)
    refusal = rights.authoriser.objection(user("bob"), Permission.OPERATE, "acme")
    assert isinstance(refusal, NamespaceNotFound)


async def test_a_namespace_unseen_and_one_that_is_not_are_refused_alike(rights):
    bob = user("bob")
    unseen = rights.authoriser.objection(bob, Permission.READ, "acme")
    missing = rights.authoriser.objection(bob, Permission.READ, "never-made")
    assert isinstance(unseen, NamespaceNotFound)
    assert isinstance(missing, NamespaceNotFound)
    assert unseen.message.replace("acme", "never-made") == missing.message


@pytest.mark.parametrize("caller", [LOCAL_ADMIN, user("root", is_admin=True)])
async def test_even_an_administrator_has_no_rights_in_a_namespace_that_is_not(rights, caller):
    with pytest.raises(NamespaceNotFound):
        rights.authoriser.authorise(caller, Permission.READ, "never-made")
    assert rights.authoriser.authorise(caller, Permission.ADMINISTER, "acme") is False
    assert rights.authoriser.authorise(caller, Permission.ADMINISTER, EVERYWHERE) is False


async def test_default_is_there_without_being_made(rights):
    await rights.bind("user:bob", "viewer", "default")
    assert rights.authoriser.authorise(user("bob"), Permission.READ, "default") is False


async def test_a_right_of_before_does_not_bring_a_namespace_back(rights):
    assert rights.authoriser.objection(ANN, Permission.READ, "acme") is None
    await rights.write(Delete(Collection.NAMESPACES, "acme"))
    await rights.follow()
    assert isinstance(rights.authoriser.objection(ANN, Permission.READ, "acme"), NamespaceNotFound)


async def test_a_refusal_names_the_roles_that_would_do(rights):
    with pytest.raises(PermissionDenied) as refused:
        rights.authoriser.authorise(ANN, Permission.APPROVE, "acme")
    assert refused.value.message == (
        "user:ann may not approve in namespace 'acme': it takes one of the roles approver, admin"
    )
    with pytest.raises(PermissionDenied, match="administer everywhere: it takes the role admin"):
        rights.authoriser.authorise(ANN, Permission.ADMINISTER, EVERYWHERE)


async def test_a_group_gives_its_members_its_roles(rights):
    await rights.bind("group:ops", "approver", "acme")
    assert rights.authoriser.objection(ANN, Permission.APPROVE, "acme") is None
    assert rights.authoriser.objection(user("ann"), Permission.APPROVE, "acme") is not None


async def test_a_pattern_gives_everybody_it_means_its_role(rights):
    await rights.bind("spiffe://fleetplane.local/ns/acme/agent/ops-*", "operator", "acme")
    authoriser = rights.authoriser
    assert authoriser.authorise(agent("acme", "ops-1"), Permission.OPERATE, "acme") is False
    assert authoriser.objection(agent("acme", "writer"), Permission.OPERATE, "acme") is not None


async def test_nobody_may_do_nothing_but_what_is_public(rights):
    assert rights.authoriser.authorise(ANONYMOUS, Permission.PUBLIC, "acme") is False
    for permission in Permission:
        if permission is not Permission.PUBLIC:
            refusal = rights.authoriser.objection(ANONYMOUS, permission, "acme")
            assert isinstance(refusal, CredentialMissing)


@pytest.mark.parametrize("is_admin", [True, False])
async def test_a_credential_that_has_ended_is_good_for_nothing_more(rights, is_admin):
    ann = user("ann", expires_at_ms=rights.now_ms(60), is_admin=is_admin)
    assert rights.authoriser.objection(ann, Permission.OPERATE, "acme") is None
    rights.clock.shift(60)
    for permission in (Permission.OPERATE, Permission.IDENTIFY):
        refusal = rights.authoriser.objection(ann, permission, "acme")
        assert isinstance(refusal, CredentialExpired)
    assert rights.authoriser.objection(ann, Permission.PUBLIC, "acme") is None


@pytest.mark.parametrize("is_admin", [True, False])
async def test_a_revoked_token_is_refused_whatever_it_was_bound_to(rights, is_admin):
    token = await rights.token("at-1")
    await rights.bind("token:at-1", "admin", EVERYWHERE)
    caller = program("at-1", is_admin=is_admin)
    assert rights.authoriser.objection(caller, Permission.OPERATE, "acme") is None
    await rights.revoke(token)
    refusal = rights.authoriser.objection(caller, Permission.OPERATE, "acme")
    assert isinstance(refusal, CredentialRevoked)
    assert refusal.metadata == {"token_id": "at-1"}


async def test_a_token_that_is_gone_is_refused_like_a_revoked_one(rights):
    refusal = rights.authoriser.objection(program("at-0"), Permission.IDENTIFY, "default")
    assert isinstance(refusal, CredentialRevoked)


async def test_a_banned_agent_is_refused_everything_in_every_namespace(rights):
    await rights.bind("spiffe://fleetplane.local/**", "admin", EVERYWHERE)
    writer = agent("acme", "writer")
    assert rights.authoriser.objection(writer, Permission.REPORT, "acme") is None
    await rights.ban("acme", "writer")
    for permission in (Permission.REPORT, Permission.IDENTIFY, Permission.ADMINISTER):
        for namespace in ("acme", "default", EVERYWHERE):
            refusal = rights.authoriser.objection(writer, permission, namespace)
            assert isinstance(refusal, AgentBanned)
    assert rights.authoriser.objection(agent("default", "writer"), Permission.READ, "acme") is None


async def test_an_agent_is_confined_to_itself_at_home_and_unknown_elsewhere(rights):
    await rights.namespace("umbra")
    writer = agent("acme", "writer")
    assert rights.authoriser.authorise(writer, Permission.REPORT, "acme") is True
    assert rights.authoriser.authorise(writer, Permission.READ, "acme") is True
    assert isinstance(
        rights.authoriser.objection(writer, Permission.READ, "umbra"), NamespaceNotFound
    )
    assert isinstance(
        rights.authoriser.objection(writer, Permission.OPERATE, "acme"), PermissionDenied
    )
    assert rights.authoriser.places_of(writer) == {"acme"}


async def test_the_admins_of_the_settings_need_no_binding():
    rights = Rights(admins=frozenset({"group:ops"}))
    await rights.namespace("acme")
    assert rights.authoriser.authorise(ANN, Permission.ADMINISTER, EVERYWHERE) is False
    assert rights.authoriser.places_of(ANN) is None
    assert rights.authoriser.is_admin(ANN)
    assert not rights.authoriser.is_admin(user("ann"))


async def test_the_grants_of_a_caller_are_the_bindings_that_permit(rights):
    everywhere = await rights.bind("group:ops", "admin", EVERYWHERE)
    (here,) = [b for b in rights.read_model.access.bindings.values() if b.namespace == "acme"]
    grants = rights.authoriser.grants(ANN, Permission.OPERATE, "acme")
    assert set(grants) == {here, everywhere}
    assert rights.authoriser.grants(ANN, Permission.AUDIT, EVERYWHERE) == (everywhere,)


async def test_nothing_is_judged_before_the_first_load():
    authoriser = Authoriser(ReadModel(Hub()), FakeClock(), authenticates=True)
    with pytest.raises(NotReady):
        authoriser.authorise(LOCAL_ADMIN, Permission.READ, "default")
    assert authoriser.authorise(ANONYMOUS, Permission.PUBLIC, "default") is False


async def test_a_change_of_rights_ends_what_is_remembered(rights):
    (binding,) = rights.read_model.access.bindings.values()
    assert rights.authoriser.objection(ANN, Permission.OPERATE, "acme") is None
    await rights.unbind(binding)
    assert isinstance(
        rights.authoriser.objection(ANN, Permission.OPERATE, "acme"), NamespaceNotFound
    )
    await rights.bind("user:ann", "viewer", "acme")
    assert isinstance(
        rights.authoriser.objection(ANN, Permission.OPERATE, "acme"), PermissionDenied
    )


async def test_a_binding_that_ends_ends_what_is_remembered(rights):
    await rights.bind("user:bob", "operator", "acme", expires_at_ms=rights.now_ms(10))
    bob = user("bob")
    assert rights.authoriser.objection(bob, Permission.OPERATE, "acme") is None
    rights.clock.shift(9.999)
    assert rights.authoriser.objection(bob, Permission.OPERATE, "acme") is None
    rights.clock.shift(0.001)
    assert rights.authoriser.objection(bob, Permission.OPERATE, "acme") is not None


async def test_verdicts_of_one_credential_are_not_those_of_another(rights):
    assert rights.authoriser.authorise(ANN, Permission.OPERATE, "acme") is False
    writer = agent("acme", "writer")
    assert rights.authoriser.authorise(writer, Permission.REPORT, "acme") is True
    assert rights.authoriser.objection(user("bob"), Permission.OPERATE, "acme") is not None
    assert rights.authoriser.objection(writer, Permission.OPERATE, "acme") is not None


async def test_callers_without_a_credential_are_never_mixed_up(rights):
    assert rights.authoriser.authorise(LOCAL_ADMIN, Permission.OPERATE, "acme") is False
    nameless = user("bob")
    object.__setattr__(nameless, "credential", "")
    assert rights.authoriser.objection(nameless, Permission.OPERATE, "acme") is not None


async def test_a_remembered_verdict_asks_nobody(rights, monkeypatch):
    assert rights.authoriser.authorise(ANN, Permission.OPERATE, "acme") is False

    def refuse(*_args):
        raise AssertionError("decided again")

    monkeypatch.setattr(module, "decide", refuse)
    assert rights.authoriser.authorise(ANN, Permission.OPERATE, "acme") is False
    with pytest.raises(AssertionError):
        rights.authoriser.authorise(ANN, Permission.READ, "acme")


async def test_what_is_remembered_is_bounded(rights, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 10)
    for number in range(50):
        caller = agent("acme", f"writer-{number}")
        assert rights.authoriser.authorise(caller, Permission.REPORT, "acme") is True
    assert len(rights.authoriser._remembered) <= 10


async def test_a_use_of_a_token_forgets_nothing(rights):
    token = await rights.token("at-1")
    version = rights.read_model.access.version
    use = TokenUse(token_id=token.token_id, at_ms=1)
    await rights.write(Put(Collection.TOKEN_USES, use.token_id, use))
    await rights.follow()
    assert rights.read_model.access.version == version


async def test_the_agents_of_a_namespace_that_was_removed_are_none_of_the_next_one(rights):
    old = agent("acme", "writer", valid_from_ms=rights.now_ms(-3600))
    assert isinstance(rights.authoriser.objection(old, Permission.READ, "acme"), EarlierNamespace)
    # What was issued for this one is valid from a little before its signing, by another clock.
    new = agent("acme", "editor", valid_from_ms=rights.now_ms(-45))
    assert rights.authoriser.authorise(new, Permission.READ, "acme") is True


async def test_default_is_never_another_one_even_if_it_gets_its_record_late(rights):
    old = agent("default", "writer", valid_from_ms=rights.now_ms(-3600))
    await rights.namespace("default")
    assert rights.authoriser.authorise(old, Permission.READ, "default") is True


async def test_a_change_of_a_namespace_makes_it_no_other_one(rights):
    old = agent("acme", "writer", valid_from_ms=rights.now_ms())
    rights.clock.shift(3600)
    await rights.namespace("acme")
    assert rights.authoriser.authorise(old, Permission.READ, "acme") is True


async def test_the_places_of_a_caller_are_those_where_it_can_tell_that_a_namespace_exists(rights):
    await rights.namespace("umbra")
    await rights.bind("user:ann", "viewer", "umbra", expires_at_ms=rights.now_ms(60))
    await rights.bind("user:root", "viewer", EVERYWHERE)
    callers = [ANN, user("bob"), user("root"), agent("umbra", "writer"), LOCAL_ADMIN]
    for passed in (0, 61):
        rights.clock.shift(passed)
        for caller in callers:
            places = rights.authoriser.places_of(caller)
            for name in ("acme", "umbra", "default"):
                refusal = rights.authoriser.objection(caller, Permission.READ, name)
                visible = not isinstance(refusal, NamespaceNotFound)
                assert visible is (places is None or name in places), (caller.name, name)
