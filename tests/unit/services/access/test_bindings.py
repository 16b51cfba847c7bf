"""Roles given and taken away: one binding each, audited, and never by who has just lost his own."""

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.records import SYSTEM_NAMESPACE, binding_id_of
from controlplane.domain.access.refusals import (
    NamespaceNotFound,
    NamespaceTerminating,
    PermissionDenied,
)
from controlplane.domain.errors import InvalidArgument, RequestIdReused, StoreUnavailable
from controlplane.domain.identity import LOCAL_ADMIN
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.access.bindings import MAX_ROUNDS, Bindings
from controlplane.services.ports import ConditionFailed, RequestKey
from tests.fakes.rights import DAY_MS, MeddledLedger, Rights, agent, user

ROOT = user("root")
ANN = "user:ann"


class NeverLucky:
    """A ledger on which somebody else is always faster."""

    def __init__(self, inner):
        self._inner = inner
        self.tries = 0

    async def commit(self, _transaction):
        self.tries += 1
        raise ConditionFailed(0)

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
async def rights():
    """Return a plane with the namespaces `acme` and `umbra`, where root is admin of `acme`."""
    rights = Rights(wrap=MeddledLedger)
    await rights.namespace("acme")
    await rights.namespace("umbra")
    await rights.bind("user:root", "admin", "acme")
    return rights


@pytest.fixture
def bindings(rights):
    return bindings_over(rights)


def bindings_over(rights):
    return Bindings(rights.ledger, rights.read_model, rights.clock, rights.authoriser)


async def create(rights, bindings, subject=ANN, role=RoleName.VIEWER, **fields):
    binding = await bindings.create(
        fields.get("namespace", "acme"),
        subject,
        role,
        description=fields.get("description", "a trial"),
        ttl_ms=fields.get("ttl_ms", 0),
        request=fields.get("request"),
        caller=fields.get("caller", ROOT),
    )
    await rights.follow()
    return binding


async def delete(rights, bindings, binding_id, *, namespace="acme", caller=ROOT):
    removed = await bindings.delete(namespace, binding_id, reason="over", caller=caller)
    await rights.follow()
    return removed


async def audit_of(rights, method):
    entries = await rights.ledger.read_audit(SYSTEM_NAMESPACE, limit=1000)
    return [entry for _, _, entry in entries if entry.method == method]


def may(rights, subject, permission=Permission.READ, namespace="acme"):
    return rights.authoriser.objection(user(subject), permission, namespace) is None


async def test_a_binding_gives_its_role_and_says_who_gave_it(rights, bindings):
    assert not may(rights, "ann")
    binding = await create(rights, bindings)
    assert may(rights, "ann")
    assert binding.binding_id == binding_id_of(ANN, "viewer", "acme")
    assert (binding.subject, binding.role, binding.namespace) == (ANN, "viewer", "acme")
    assert (binding.description, binding.created_by) == ("a trial", "user:root")
    assert binding.created_at_ms == rights.now_ms()
    assert binding.expires_at_ms == 0
    assert binding == rights.read_model.access.bindings[binding.binding_id]


async def test_a_binding_can_end_by_itself(rights, bindings):
    binding = await create(rights, bindings, ttl_ms=DAY_MS)
    assert binding.expires_at_ms == rights.now_ms() + DAY_MS
    rights.clock.shift(DAY_MS / 1000)
    assert not may(rights, "ann")


async def test_the_same_binding_twice_is_one_and_writes_nothing(rights, bindings):
    first = await create(rights, bindings)
    rights.clock.shift(5)
    assert await create(rights, bindings) == first
    assert len(await audit_of(rights, "CreateRoleBinding")) == 1


async def test_another_end_or_description_replaces_the_binding(rights, bindings):
    first = await create(rights, bindings)
    rights.clock.shift(5)
    second = await create(rights, bindings, ttl_ms=DAY_MS, description="for today")
    assert second.binding_id == first.binding_id
    assert second.expires_at_ms == rights.now_ms() + DAY_MS
    assert second.created_at_ms == first.created_at_ms + 5000
    assert bindings.page("acme", subject=ANN, after="", limit=9).bindings == (second,)
    third = await create(rights, bindings)
    assert third.expires_at_ms == 0


async def test_a_binding_that_has_ended_is_made_anew(rights, bindings):
    await create(rights, bindings, ttl_ms=1000)
    rights.clock.shift(1)
    assert not may(rights, "ann")
    await create(rights, bindings, ttl_ms=1000)
    assert may(rights, "ann")


async def test_a_retry_gets_the_first_answer(rights, bindings):
    request = RequestKey("req-1", "digest")
    first = await create(rights, bindings, ttl_ms=DAY_MS, request=request)
    rights.clock.shift(5)
    assert await create(rights, bindings, ttl_ms=DAY_MS, request=request) == first
    assert len(await audit_of(rights, "CreateRoleBinding")) == 1


async def test_a_retry_does_not_give_back_what_was_taken_away(rights, bindings):
    request = RequestKey("req-1", "digest")
    first = await create(rights, bindings, request=request)
    assert await delete(rights, bindings, first.binding_id)
    assert await create(rights, bindings, request=request) == first
    assert not may(rights, "ann")


async def test_a_retry_that_crosses_its_first_try_gets_its_answer(rights, bindings):
    request = RequestKey("req-1", "digest")
    made = []

    async def first_try():
        made.append(await bindings_create(bindings, request))

    rights.ledger.before_commit = first_try
    second = await bindings_create(bindings, request)
    assert [second] == made
    assert len(await audit_of(rights, "CreateRoleBinding")) == 1


async def bindings_create(bindings, request):
    return await bindings.create(
        "acme",
        ANN,
        RoleName.VIEWER,
        description="",
        ttl_ms=DAY_MS,
        request=request,
        caller=ROOT,
    )


async def test_a_request_id_for_other_content_is_refused_as_it_was_written(rights, bindings):
    await create(rights, bindings, request=RequestKey("req-1", "digest"))
    with pytest.raises(RequestIdReused) as refused:
        await create(rights, bindings, "user:bob", request=RequestKey("req-1", "other"))
    assert refused.value.metadata == {"request_id": "req-1"}
    assert not may(rights, "bob")


async def test_tenants_do_not_share_their_request_ids(rights, bindings):
    await rights.bind("user:eve", "admin", "umbra")
    await create(rights, bindings, request=RequestKey("setup", "digest"))
    other = RequestKey("setup", "other")
    await create(rights, bindings, namespace="umbra", caller=user("eve"), request=other)
    assert may(rights, "ann", namespace="umbra")


@pytest.mark.parametrize("subject", ["", "ann", "robot:r2", "user:", "spiffe://*/a"])
async def test_a_wrong_subject_is_refused(rights, bindings, subject):
    with pytest.raises(InvalidArgument, match="subject"):
        await create(rights, bindings, subject)


@pytest.mark.parametrize(
    ("caller", "namespace", "refusal"),
    [
        (user("root"), "umbra", NamespaceNotFound),
        (user("root"), "never-made", NamespaceNotFound),
        (user("root"), EVERYWHERE, PermissionDenied),
        (user("oscar"), "acme", PermissionDenied),
        (agent("acme", "writer"), "acme", PermissionDenied),
    ],
)
async def test_nobody_gives_or_takes_a_role_where_he_is_not_admin(
    rights, bindings, caller, namespace, refusal
):
    await rights.bind("user:oscar", "operator", "acme")
    there = await rights.bind(ANN, "viewer", namespace)
    with pytest.raises(refusal):
        await create(rights, bindings, "user:bob", namespace=namespace, caller=caller)
    with pytest.raises(refusal):
        await delete(rights, bindings, there.binding_id, namespace=namespace, caller=caller)


async def test_who_is_admin_everywhere_gives_roles_everywhere(rights, bindings):
    await rights.bind("user:boss", "admin", EVERYWHERE)
    await create(rights, bindings, namespace=EVERYWHERE, caller=user("boss"))
    await create(rights, bindings, "user:bob", namespace="umbra", caller=user("boss"))
    assert may(rights, "ann", namespace="umbra")
    assert may(rights, "bob", namespace="umbra")


@pytest.mark.parametrize("authenticates", [True, False])
async def test_who_needs_no_binding_gives_roles(authenticates):
    rights = Rights(authenticates=authenticates, admins=frozenset({"user:root"}))
    bindings = bindings_over(rights)
    for namespace in ("default", EVERYWHERE):
        binding = await create(rights, bindings, namespace=namespace)
        assert await delete(rights, bindings, binding.binding_id, namespace=namespace)


async def test_rights_can_be_made_ready_before_callers_are_authenticated():
    rights = Rights(authenticates=False)
    await create(rights, bindings_over(rights), namespace="not-yet-made", caller=LOCAL_ADMIN)
    (binding,) = rights.read_model.access.bindings.values()
    assert (binding.namespace, binding.created_by) == ("not-yet-made", "local-admin")


async def test_a_namespace_that_is_being_removed_gets_no_binding(rights, bindings):
    await rights.namespace("acme", NamespaceState.TERMINATING)
    with pytest.raises(NamespaceTerminating):
        await create(rights, bindings)


async def test_a_namespace_that_goes_away_meanwhile_keeps_no_binding(rights, bindings):
    async def terminate():
        await rights.namespace("acme", NamespaceState.TERMINATING)

    rights.ledger.before_commit = terminate
    with pytest.raises(NamespaceTerminating):
        await create(rights, bindings)
    assert not await delete(rights, bindings, binding_id_of(ANN, "viewer", "acme"))


async def test_an_administrator_may_give_up_his_own_right(rights, bindings):
    (own,) = rights.authoriser.grants(ROOT, Permission.ADMINISTER, "acme")
    assert await delete(rights, bindings, own.binding_id)
    assert not may(rights, "root")


async def test_a_binding_taken_away_is_gone_and_taking_it_again_is_no_fault(rights, bindings):
    binding = await create(rights, bindings)
    assert await delete(rights, bindings, binding.binding_id)
    assert not may(rights, "ann")
    assert not await delete(rights, bindings, binding.binding_id)
    assert len(await audit_of(rights, "DeleteRoleBinding")) == 1


async def test_a_binding_of_another_namespace_is_not_there(rights, bindings):
    foreign = await rights.bind(ANN, "viewer", "umbra")
    everywhere = await rights.bind(ANN, "viewer", EVERYWHERE)
    for one in (foreign, everywhere):
        assert not await delete(rights, bindings, one.binding_id)
        assert one.binding_id in rights.read_model.access.bindings


async def test_the_audit_says_who_gave_what_to_whom_where_and_why(rights, bindings):
    request = RequestKey("req-1", "digest")
    binding = await create(rights, bindings, ttl_ms=DAY_MS, request=request)
    await delete(rights, bindings, binding.binding_id)
    (created,) = await audit_of(rights, "CreateRoleBinding")
    (deleted,) = await audit_of(rights, "DeleteRoleBinding")
    assert (created.actor, created.reason, created.request_id) == ("user:root", "a trial", "req-1")
    assert (deleted.actor, deleted.reason, deleted.request_id) == ("user:root", "over", "")
    assert (created.event, deleted.event) == ("binding.created", "binding.deleted")
    for entry in (created, deleted):
        assert entry.object == f"bindings/{binding.binding_id}"
        assert entry.details == {
            "namespace": "acme",
            "subject": ANN,
            "role": "viewer",
            "expires_at_ms": str(binding.expires_at_ms),
        }


async def test_pages_follow_each_other_by_subject_and_role(rights, bindings):
    for name in ("carl", "bob", "ann"):
        for role in (RoleName.VIEWER, RoleName.APPROVER):
            await create(rights, bindings, f"user:{name}", role)
    await rights.bind("user:foreign", "viewer", "umbra")
    await rights.bind("user:boss", "admin", EVERYWHERE)
    seen, cursor = [], ""
    while True:
        page = bindings.page("acme", subject="", after=cursor, limit=2)
        assert len(page.bindings) <= 2
        seen += [(one.subject, one.role) for one in page.bindings]
        cursor = page.next_cursor
        if not cursor:
            break
    names = [f"user:{name}" for name in ("ann", "bob", "carl")]
    wanted = [(name, role) for name in names for role in ("approver", "viewer")]
    assert seen == [*wanted, ("user:root", "admin")]


async def test_a_page_goes_on_where_the_last_one_ended_whatever_was_removed(rights, bindings):
    made = [await create(rights, bindings, f"user:{name}") for name in ("ann", "bob", "carl")]
    first = bindings.page("acme", subject="", after="", limit=2)
    await delete(rights, bindings, made[1].binding_id)
    rest = bindings.page("acme", subject="", after=first.next_cursor, limit=2)
    assert [one.subject for one in rest.bindings] == ["user:carl", "user:root"]


async def test_a_list_can_be_about_one_subject_and_about_everywhere(rights, bindings):
    await create(rights, bindings)
    boss = await rights.bind("user:boss", "admin", EVERYWHERE)
    (only,) = bindings.page("acme", subject=ANN, after="", limit=9).bindings
    assert only.subject == ANN
    assert bindings.page(EVERYWHERE, subject="", after="", limit=9).bindings == (boss,)
    assert bindings.page("umbra", subject="", after="", limit=9).bindings == ()


async def test_contention_is_reported_after_some_rounds():
    rights = Rights(authenticates=False)
    binding = await rights.bind(ANN, "viewer", "default")
    unlucky = NeverLucky(rights.ledger)
    bindings = Bindings(unlucky, rights.read_model, rights.clock, rights.authoriser)
    with pytest.raises(StoreUnavailable):
        await create(rights, bindings, "user:bob", namespace="default")
    with pytest.raises(StoreUnavailable):
        await delete(rights, bindings, binding.binding_id, namespace="default")
    assert unlucky.tries == 2 * MAX_ROUNDS
