"""Discovery and the best agent where versions are routed, or drain."""

from dataclasses import replace

import pytest

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.errors import InvalidArgument, NoCandidate
from controlplane.domain.routes import WHOLE_BP, Route, SessionPin, Share, bucket, pin_key
from controlplane.domain.routing import Ranking
from controlplane.domain.selection import AgentFilter, RejectionReason
from controlplane.services import ranking
from controlplane.services.discovery import BestAgentQuery, Discovery
from controlplane.services.ports import Collection
from controlplane.services.routing.choice import RouteRule
from tests.fakes.registered import Replica, an_agent, an_instance

NS = "default"
SESSIONS = [f"session-{n}" for n in range(60)]


@pytest.fixture
def replica():
    return Replica()


@pytest.fixture
def discovery(replica):
    return Discovery(replica.read_model)


def running_agent(replica, agent_id, *, draining=False, instance_draining=False, load=0, **spec):
    instance = an_instance(f"{agent_id}-i", agent_id)
    replica.write(
        replace(an_agent(agent_id, **spec), draining=draining),
        replace(instance, draining=instance_draining),
    )
    replica.view.instances[f"{agent_id}-i"].outside = load


def two_versions(replica, name="writer", **spec):
    for version in ("2", "1"):
        running_agent(replica, f"{name}-{version}", name=name, version=f"{version}.0.0", **spec)


def set_route(replica, canary_bp=5000, name="writer", **fields):
    shares = tuple(
        Share(agent_id=f"{name}-{version}", version=f"{version}.0.0", weight_bp=weight_bp)
        for version, weight_bp in (("2", canary_bp), ("1", WHOLE_BP - canary_bp))
    )
    route = Route(name=name, shares=shares, salt=f"salt of {name}", **fields)
    replica.view.work.apply(Collection.ROUTES, name, route, set(), set())


def unset_route(replica, name="writer"):
    replica.view.work.apply(Collection.ROUTES, name, None, set(), set())


def version_of(session_id, canary_bp=5000, name="writer"):
    in_canary = bucket(f"salt of {name}", session_id) < canary_bp
    return f"{name}-2" if in_canary else f"{name}-1"


def session_of(agent_id, canary_bp=5000):
    return next(one for one in SESSIONS if version_of(one, canary_bp) == agent_id)


async def best_of(discovery, **query):
    return await discovery.find_best(BestAgentQuery(namespace=NS, **query))


async def list_of(discovery, wanted=None, *, page_size=100, **asked):
    """Return the ids of all pages, and the totals they name."""
    found, totals, cursor = [], [], ""
    while True:
        page = await discovery.discover(
            NS, wanted or AgentFilter(), page_size=page_size, after_id=cursor, **asked
        )
        found += [entry.agent.agent_id for entry in page.entries]
        totals.append(page.total)
        cursor = page.next_after_id
        if not cursor:
            return found, totals


async def test_the_best_agent_is_the_version_that_the_session_goes_to(replica, discovery):
    two_versions(replica)
    set_route(replica, cohort="ro-1/3")

    for session in SESSIONS:
        best = await best_of(discovery, session_id=session)
        assert best.entry.agent.agent_id == version_of(session)
        assert best.route.agent_id == best.entry.agent.agent_id
        assert (best.route.rule, best.route.weight_bp) == (RouteRule.WEIGHT, 5000)
        assert best.route.rollout_id == "ro-1"
        assert best.candidate_count == 1
        assert not best.runners_up
        assert not best.dealt


async def test_sessions_share_one_ranking(replica, discovery, monkeypatch):
    two_versions(replica)
    set_route(replica)
    made = []

    class Counted(Ranking):
        def __init__(self, *given):
            made.append(self)
            super().__init__(*given)

    monkeypatch.setattr(ranking, "Ranking", Counted)

    for session in SESSIONS:
        await best_of(discovery, session_id=session)

    assert len(made) == 1


async def test_the_version_that_is_passed_over_is_rejected_by_its_route(replica, discovery):
    two_versions(replica)
    set_route(replica, 1000)

    best = await best_of(discovery, session_id=session_of("writer-1", 1000))

    assert [(miss.agent_id, miss.reason) for miss in best.rejected] == [
        ("writer-2", RejectionReason.ROUTE)
    ]
    assert best.rejected[0].detail == (
        "is not where the route leads: to version 1.0.0 by WEIGHT, which has 9000 of 10000"
    )


async def test_a_full_version_spills_nothing_over(replica, discovery):
    two_versions(replica, max_concurrency=2)
    set_route(replica)
    replica.view.instances["writer-2-i"].outside = 2

    with pytest.raises(NoCandidate) as refused:
        await best_of(discovery, session_id=session_of("writer-2"))

    assert [agent_id for agent_id, _ in refused.value.misses] == ["writer-1", "writer-2"]
    assert "to version 2.0.0 by WEIGHT" in refused.value.misses[0][1]


async def test_a_pinned_session_finds_its_version(replica, discovery):
    two_versions(replica)
    set_route(replica, 0)
    pin = SessionPin(name="writer", session_id="s", agent_id="writer-2", used_at_ms=0)
    key = pin_key("writer", "s")
    replica.view.work.apply(Collection.SESSION_PINS, key, pin, set(), set())

    best = await best_of(discovery, session_id="s")

    assert best.entry.agent.agent_id == "writer-2"
    assert (best.route.rule, best.route.weight_bp) == (RouteRule.PIN, 0)


async def test_a_silent_version_is_stood_in_for(replica, discovery):
    two_versions(replica)
    set_route(replica)
    replica.write(an_instance("writer-2-i", "writer-2", state=InstanceState.SILENT))

    best = await best_of(discovery, session_id=session_of("writer-2"))

    assert best.entry.agent.agent_id == "writer-1"
    assert best.route.rule is RouteRule.FALLBACK


async def test_calls_without_a_session_are_dealt_out_evenly(replica, discovery):
    two_versions(replica)
    set_route(replica, 2500)

    answers = [await best_of(discovery) for _ in range(400)]

    canary = [one.entry.agent.agent_id for one in answers].count("writer-2")
    assert abs(canary - 100) < 6
    assert all(one.dealt for one in answers)


async def test_names_without_a_route_compete_as_ever(replica, discovery):
    two_versions(replica, max_concurrency=2, load=1)
    running_agent(replica, "reader", max_concurrency=2)
    set_route(replica)

    best = await best_of(discovery, session_id="s")

    assert best.entry.agent.agent_id == "reader"
    assert best.route is None
    assert best.candidate_count == 2
    assert [one.agent_id for one in best.runners_up] == [version_of("s")]


async def test_without_routes_nothing_is_said_about_them(replica, discovery):
    two_versions(replica)

    best = await best_of(discovery)

    assert (best.route, best.dealt, best.candidate_count) == (None, False, 2)


async def test_the_next_share_is_asked_if_a_route_empties_the_first(
    replica, discovery, monkeypatch
):
    monkeypatch.setattr(ranking, "MAX_RANKED", 2)
    for number in range(8):
        running_agent(replica, f"agt-{number}", name="writer", version=f"{number}.0.0")
    only = Share(agent_id="agt-6", version="6.0.0", weight_bp=WHOLE_BP)
    route = Route(name="writer", shares=(only,), salt="s")
    replica.view.work.apply(Collection.ROUTES, "writer", route, set(), set())

    for session in ("", *SESSIONS[:10]):
        best = await best_of(discovery, session_id=session)
        assert best.entry.agent.agent_id == "agt-6"


async def test_a_draining_agent_is_no_candidate(replica, discovery):
    running_agent(replica, "leaving", draining=True)
    running_agent(replica, "moving", instance_draining=True)
    running_agent(replica, "staying", max_concurrency=2, load=1)

    best = await best_of(discovery)

    assert best.entry.agent.agent_id == "staying"
    assert [(miss.agent_id, miss.reason) for miss in best.rejected] == [
        ("leaving", RejectionReason.DRAINING),
        ("moving", RejectionReason.DRAINING),
    ]


async def test_the_draining_instance_of_a_candidate_takes_no_task(replica, discovery):
    running_agent(replica, "a", instance_draining=True)
    replica.write(an_instance("a-j", "a"))
    replica.view.instances["a-j"].outside = 1
    replica.write(an_agent("a", max_concurrency=2))

    assert (await best_of(discovery)).instance.instance.instance_id == "a-j"


async def test_draining_agents_are_discovered_only_if_asked_for(replica, discovery):
    running_agent(replica, "a", draining=True)
    running_agent(replica, "b")
    running_agent(replica, "c", instance_draining=True)

    assert await list_of(discovery) == (["b", "c"], [2])
    assert await list_of(discovery, include_draining=True) == (["a", "b", "c"], [3])

    replica.write(an_agent("a"))
    assert await list_of(discovery) == (["a", "b", "c"], [3])


async def test_statuses_are_kept_where_draining_agents_are_left_out(replica, discovery):
    running_agent(replica, "a", draining=True)
    replica.write(an_agent("b", status=AgentStatus.INACTIVE))

    wanted = AgentFilter(statuses=frozenset({AgentStatus.INACTIVE}))

    assert await list_of(discovery, wanted) == (["b"], [1])


async def test_discovery_follows_routes_only_if_asked_to(replica, discovery):
    two_versions(replica)
    set_route(replica)

    assert await list_of(discovery, session_id="s") == (["writer-1", "writer-2"], [2])
    assert await list_of(discovery, session_id="s", route=True) == ([version_of("s")], [1])


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
@pytest.mark.parametrize("session_id", ["", "session-1"])
async def test_pages_of_a_routed_list_are_of_one_deal(replica, discovery, page_size, session_id):
    names = [f"name-{n}" for n in range(7)]
    for name in names:
        two_versions(replica, name)
        set_route(replica, name=name)
    running_agent(replica, "free")

    found, totals = await list_of(discovery, page_size=page_size, route=True, session_id=session_id)

    assert found == sorted(found)
    assert {one.rpartition("-")[0] or one for one in found} == {*names, "free"}
    assert len(found) == len(names) + 1
    assert set(totals) == {len(names) + 1}
    if session_id:
        assert set(found) == {"free", *(version_of(session_id, name=name) for name in names)}


async def test_a_small_result_among_many_routes_is_routed_too(replica, discovery):
    for number in range(5):
        two_versions(replica, f"name-{number}")
        set_route(replica, name=f"name-{number}")

    found, totals = await list_of(discovery, AgentFilter(name="name-3"), route=True, session_id="s")

    assert (found, totals) == ([version_of("s", name="name-3")], [1])


async def test_lists_without_a_session_differ_and_say_so(replica, discovery):
    two_versions(replica)
    set_route(replica)

    pages = [await discovery.discover(NS, AgentFilter(), page_size=9, route=True) for _ in SESSIONS]

    assert {page.entries[0].agent.agent_id for page in pages} == {"writer-1", "writer-2"}
    assert all(page.dealt for page in pages)
    asked = await discovery.discover(NS, AgentFilter(), page_size=9, route=True, session_id="s")
    assert not asked.dealt
    unrelated = AgentFilter(name="nobody")
    assert not (await discovery.discover(NS, unrelated, page_size=9, route=True)).dealt


async def test_a_route_that_leads_to_one_version_leaves_nothing_to_deal(replica, discovery):
    two_versions(replica)
    set_route(replica, WHOLE_BP)

    best = await best_of(discovery)
    page = await discovery.discover(NS, AgentFilter(), page_size=9, route=True)

    assert (best.entry.agent.agent_id, best.dealt) == ("writer-2", False)
    assert (page.entries[0].agent.agent_id, page.dealt) == ("writer-2", False)


async def test_a_list_that_began_with_a_route_ends_without_one(replica, discovery):
    for name in ("a", "b"):
        two_versions(replica, name)
        set_route(replica, name=name)
    first = await discovery.discover(NS, AgentFilter(), page_size=1, route=True)

    unset_route(replica, "a")
    unset_route(replica, "b")
    rest = await discovery.discover(
        NS, AgentFilter(name="b"), page_size=1, route=True, after_id=first.next_after_id
    )
    last = await discovery.discover(
        NS, AgentFilter(name="b"), page_size=1, route=True, after_id=rest.next_after_id
    )

    assert [page.entries[0].agent.agent_id for page in (rest, last)] == ["b-1", "b-2"]
    assert last.next_after_id == ""


async def test_a_session_id_that_is_too_long_is_refused(discovery):
    with pytest.raises(InvalidArgument, match="session_id"):
        await discovery.discover(NS, AgentFilter(), page_size=1, session_id="s" * 257)
