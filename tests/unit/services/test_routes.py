"""Routes set by hand: whole, conditional, and never against a rollout."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import (
    AgentNotFound,
    InvalidArgument,
    RequestIdReused,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.domain.routes import Route, Share
from controlplane.domain.work_refusals import (
    RolloutActive,
    RouteNotFound,
)
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    ConditionFailed,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.routing.routes import MAX_ROUNDS, Routes
from tests.fakes.plane import CALLER, NS, Plane

NAME = "researcher"
HALVES = (("2.0.0", 5000), ("1.0.0", 5000))


@pytest.fixture
async def plane():
    """Return a plane with two versions of one agent."""
    plane = Plane()
    await plane.register(NAME, "1.0.0")
    await plane.register(NAME, "2.0.0")
    return plane


@pytest.fixture
def routes(plane):
    return Routes(plane.ledger, plane.read_model)


async def set_route(plane, routes, shares=HALVES, *, name=NAME, expected=0, **fields):
    route = await routes.set(
        NS,
        name,
        shares,
        reason=fields.get("reason", "a trial"),
        expected_revision=expected,
        request=fields.get("request"),
        caller=CALLER,
    )
    await plane.follow()
    return route


async def delete(plane, routes, *, expected=0):
    revision = await routes.delete(
        NS, NAME, reason="over", expected_revision=expected, caller=CALLER
    )
    await plane.follow()
    return revision


async def put(plane, collection, key, value):
    await plane.ledger.commit(
        Transaction(
            namespace=NS,
            steps=(Put(collection, key, value),),
            audit=AuditEntry(actor="test", method="Test", object=key),
        )
    )
    await plane.follow()


async def audit_of(plane):
    return [entry for _, _, entry in await plane.ledger.read_audit(NS)]


async def test_a_route_is_read_as_it_was_set(plane, routes):
    ids = plane.read_model.view(NS).agent_id_of

    route = await set_route(plane, routes, (("2.0.0", 1000), ("1.0.0", 9000)))

    assert route.shares == (
        Share(agent_id=ids[f"{NAME}@2.0.0"], version="2.0.0", weight_bp=1000),
        Share(agent_id=ids[f"{NAME}@1.0.0"], version="1.0.0", weight_bp=9000),
    )
    assert (route.set_by, route.reason, route.rollout_id) == ("ada", "a trial", "")
    assert route.revision > 0
    assert await routes.get(NS, NAME, min_revision=route.revision) == route


async def test_setting_and_deleting_are_in_the_audit(plane, routes):
    await set_route(plane, routes)
    await delete(plane, routes)

    was_set, deleted = (await audit_of(plane))[-2:]
    assert (was_set.actor, was_set.method, was_set.event) == ("ada", "SetRoute", "route.set")
    assert (was_set.object, was_set.reason) == (f"routes/{NAME}", "a trial")
    assert was_set.details == {"shares": "2.0.0=5000,1.0.0=5000"}
    assert (deleted.method, deleted.event, deleted.reason) == (
        "DeleteRoute",
        "route.deleted",
        "over",
    )


async def test_other_weights_keep_the_salt(plane, routes):
    first = await set_route(plane, routes)
    second = await set_route(plane, routes, (("2.0.0", 6000), ("1.0.0", 4000)))

    assert first.salt
    assert second.salt == first.salt
    assert second.revision > first.revision


async def test_a_route_that_comes_again_deals_anew(plane, routes):
    first = await set_route(plane, routes)
    await delete(plane, routes)

    assert (await set_route(plane, routes)).salt != first.salt


async def test_the_salt_of_a_rollout_that_ended_is_kept(plane, routes):
    await put(plane, Collection.ROUTES, NAME, Route(name=NAME, shares=(), salt="rollout:x"))

    assert (await set_route(plane, routes)).salt == "rollout:x"


async def test_setting_the_same_again_writes_nothing(plane, routes):
    first = await set_route(plane, routes)

    assert await set_route(plane, routes) == first
    assert (await set_route(plane, routes, reason="another")).revision > first.revision


async def test_shares_must_be_whole(plane, routes):
    with pytest.raises(InvalidArgument, match=r"shares\[1\]\.weight_bp: the shares sum to 9999"):
        await set_route(plane, routes, (("2.0.0", 5000), ("1.0.0", 4999)))


async def test_a_version_must_be_registered(plane, routes):
    with pytest.raises(AgentNotFound, match=r"researcher@3\.0\.0"):
        await set_route(plane, routes, (("3.0.0", 5000), ("1.0.0", 5000)))


async def test_a_version_this_replica_has_not_heard_of_is_found(plane, routes):
    await plane.ledger.commit(
        Transaction(
            namespace=NS,
            steps=(Put(Collection.NAMES, f"{NAME}@3.0.0", "agt-3", ABSENT),),
            audit=AuditEntry(actor="test", method="Test", object="agt-3"),
        )
    )

    route = await set_route(plane, routes, (("3.0.0", 10_000),))

    assert route.shares[0].agent_id == "agt-3"


async def test_a_decommissioned_version_gets_no_share(plane, routes):
    agent_id = plane.read_model.view(NS).agent_id_of[f"{NAME}@2.0.0"]
    agent = plane.read_model.view(NS).agents[agent_id].agent
    gone = replace(agent, status=AgentStatus.DECOMMISSIONED)
    await put(plane, Collection.AGENTS, agent_id, gone)

    with pytest.raises(InvalidArgument, match=r"shares\[0\]\.version: .*is decommissioned"):
        await set_route(plane, routes)


async def test_a_stale_revision_is_refused(plane, routes):
    first = await set_route(plane, routes)
    await set_route(plane, routes, (("2.0.0", 1), ("1.0.0", 9999)), expected=first.revision)

    with pytest.raises(RevisionConflict):
        await set_route(plane, routes, expected=first.revision)
    with pytest.raises(RevisionConflict):
        await delete(plane, routes, expected=first.revision)


async def test_a_revision_of_no_route_is_stale(plane, routes):
    with pytest.raises(RevisionConflict):
        await set_route(plane, routes, expected=7)


async def test_the_route_of_a_rollout_is_not_touched(plane, routes):
    owned = Route(name=NAME, shares=(), salt="s", cohort="ro-1/2")
    await put(plane, Collection.ROUTES, NAME, owned)

    with pytest.raises(RolloutActive, match="ro-1"):
        await set_route(plane, routes)
    with pytest.raises(RolloutActive, match="ro-1"):
        await delete(plane, routes)


async def test_a_rollout_that_has_no_route_yet_is_not_anticipated(plane, routes):
    await put(plane, Collection.ACTIVE_ROLLOUTS, NAME, "ro-1")

    with pytest.raises(RolloutActive, match="ro-1"):
        await set_route(plane, routes)


async def test_a_retry_writes_once(plane, routes):
    request = RequestKey("req-1", "digest")
    first = await set_route(plane, routes, request=request)
    written = len(await audit_of(plane))

    assert await set_route(plane, routes, request=request) == first
    assert len(await audit_of(plane)) == written
    with pytest.raises(RequestIdReused):
        await set_route(plane, routes, request=RequestKey("req-1", "other"))


async def test_a_retry_after_the_route_was_deleted_says_so(plane, routes):
    request = RequestKey("req-1", "digest")
    await set_route(plane, routes, request=request)
    await delete(plane, routes)

    with pytest.raises(RouteNotFound):
        await set_route(plane, routes, request=request)


async def test_deleting_is_idempotent(plane, routes):
    await set_route(plane, routes)

    assert await delete(plane, routes) > 0
    assert await delete(plane, routes) == 0
    assert await delete(plane, routes, expected=3) == 0
    with pytest.raises(RouteNotFound):
        await routes.get(NS, NAME, min_revision=0)


async def test_routes_are_listed_by_name_in_pages(plane, routes):
    for name in ("c", "a", "b"):
        await plane.register(name, "1.0.0")
        await set_route(plane, routes, (("1.0.0", 10_000),), name=name)

    first = await routes.page(NS, after="", limit=2, min_revision=0)
    second = await routes.page(NS, after=first.next_cursor, limit=2, min_revision=0)

    assert [one.name for one in first.routes + second.routes] == ["a", "b", "c"]
    assert (first.next_cursor, second.next_cursor) == ("b", "")
    assert (first.total, second.total) == (3, 3)
    assert first.position == plane.read_model.view(NS).position


class Contended:
    """A ledger where somebody else always commits first."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.tries = 0

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    async def commit(self, transaction):
        if transaction.audit.method in {"SetRoute", "DeleteRoute"}:
            self.tries += 1
            raise ConditionFailed(0)
        return await self._ledger.commit(transaction)


async def test_contention_is_reported_after_a_few_rounds(plane, routes):
    await set_route(plane, routes)
    contended = Contended(plane.ledger)

    with pytest.raises(StoreUnavailable, match="too many callers"):
        await set_route(plane, Routes(contended, plane.read_model), reason="another")
    assert contended.tries == MAX_ROUNDS
    with pytest.raises(StoreUnavailable, match="too many callers"):
        await delete(plane, Routes(contended, plane.read_model))
