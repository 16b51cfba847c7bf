"""Lists, discovery, and the best agent with the reasons."""

import asyncio

import pytest

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.errors import InvalidArgument, NoCandidate, NotReady
from controlplane.domain.selection import AgentFilter, RejectionReason
from controlplane.services import ranking
from controlplane.services.discovery import BestAgentQuery, Discovery
from controlplane.services.hub import Hub
from controlplane.services.ports import Position
from controlplane.services.read_model import ReadModel
from tests.fakes.registered import EPOCH, Replica, an_agent, an_instance

NS = "default"


@pytest.fixture
def replica():
    return Replica()


@pytest.fixture
def discovery(replica):
    return Discovery(replica.read_model)


def running_agent(replica, agent_id, *, in_flight=0, latency_ms=0.0, stalled=False, **spec):
    """Commit an active agent with one fresh instance that says what it does."""
    replica.write(an_agent(agent_id, **spec), an_instance(f"{agent_id}-i", agent_id))
    live = replica.view.instances[f"{agent_id}-i"]
    live.outside, live.latency_ms, live.stalled = in_flight, latency_ms, stalled
    return live


def ids(page):
    return [entry.agent.agent_id for entry in page.entries]


async def best_id(discovery, **query):
    best = await discovery.find_best(BestAgentQuery(namespace=NS, **query))
    return best.entry.agent.agent_id


async def test_a_list_holds_agents_of_any_status_in_order(replica, discovery):
    replica.write(an_agent("b", status=AgentStatus.INACTIVE), an_agent("a"), an_agent("c"))

    page = await discovery.list_agents(NS, AgentFilter(), page_size=2)

    assert ids(page) == ["a", "b"]
    assert (page.total, page.next_after_id) == (3, "b")
    assert page.position == Position(EPOCH, 1)


async def test_the_last_page_has_no_next(replica, discovery):
    replica.write(an_agent("a"), an_agent("b"), an_agent("c"))

    page = await discovery.list_agents(NS, AgentFilter(), page_size=2, after_id="a")

    assert ids(page) == ["b", "c"]
    assert (page.total, page.next_after_id) == (3, "")


async def test_discovery_finds_active_agents_unless_told_otherwise(replica, discovery):
    replica.write(an_agent("a"), an_agent("b", status=AgentStatus.DEGRADED))

    active = await discovery.discover(NS, AgentFilter(), page_size=10)
    degraded = await discovery.discover(
        NS, AgentFilter(statuses=frozenset({AgentStatus.DEGRADED})), page_size=10
    )
    anybody = await discovery.discover(
        NS, AgentFilter(statuses=frozenset(AgentStatus)), page_size=10
    )

    assert (ids(active), ids(degraded), ids(anybody)) == (["a"], ["b"], ["a", "b"])


async def test_an_unknown_namespace_is_empty(discovery):
    page = await discovery.discover("nobody", AgentFilter(), page_size=10)

    assert (ids(page), page.total, page.position) == ([], 0, Position())


async def test_nothing_is_answered_before_the_first_snapshot():
    with pytest.raises(NotReady):
        await Discovery(ReadModel(Hub())).discover(NS, AgentFilter(), page_size=10)


async def test_a_caller_can_wait_for_what_he_wrote(replica, discovery):
    asked = asyncio.create_task(
        discovery.list_agents(NS, AgentFilter(), page_size=10, min_revision=2)
    )
    replica.write(an_agent("a"))
    await asyncio.sleep(0)
    assert not asked.done()

    replica.write(an_agent("b"))

    async with asyncio.timeout(5):
        assert ids(await asked) == ["a", "b"]


async def test_the_agent_with_more_free_capacity_wins(replica, discovery):
    running_agent(replica, "busy", in_flight=3, max_concurrency=4)
    running_agent(replica, "free", in_flight=1, max_concurrency=4)

    best = await discovery.find_best(BestAgentQuery(namespace=NS))

    assert best.entry.agent.agent_id == "free"
    assert best.instance.instance.instance_id == "free-i"
    assert best.score.concurrency == 0.75
    assert [other.agent_id for other in best.runners_up] == ["busy"]
    assert best.candidate_count == 2
    assert best.position == replica.position


async def test_low_latency_can_outweigh_free_capacity(replica, discovery):
    running_agent(replica, "slow", latency_ms=60_000.0, in_flight=0, max_concurrency=2)
    running_agent(replica, "fast", latency_ms=10.0, in_flight=1, max_concurrency=2)

    assert await best_id(discovery) == "slow"
    assert await best_id(discovery, prefer_low_latency=True) == "fast"


async def test_the_task_is_matched_with_what_agents_say_about_themselves(replica, discovery):
    running_agent(
        replica, "tax", description="Prepares tax returns", in_flight=1, max_concurrency=4
    )
    running_agent(replica, "law", description="Reads contracts", max_concurrency=4)

    best = await discovery.find_best(
        BestAgentQuery(namespace=NS, task_description="check my tax return")
    )

    assert best.entry.agent.agent_id == "tax"
    assert (best.score.capability_match, best.runners_up[0].capability_match) == (1.0, 0.0)


async def test_with_required_capabilities_the_task_decides_between_equals_only(replica, discovery):
    running_agent(replica, "tax", capabilities=("c",), description="tax", max_concurrency=4)
    running_agent(replica, "law", capabilities=("c",), description="law", max_concurrency=4)
    wanted = AgentFilter(capabilities=("c",))

    best = await discovery.find_best(
        BestAgentQuery(namespace=NS, filter=wanted, task_description="tax")
    )

    assert best.entry.agent.agent_id == "tax"
    assert {best.score.capability_match, best.runners_up[0].capability_match} == {1.0}


async def test_a_new_description_counts_at_once(replica, discovery):
    running_agent(replica, "a", description="tax")
    running_agent(replica, "b", description="law")
    assert await best_id(discovery, task_description="tax") == "a"

    replica.write(an_agent("a", description="law"), an_agent("b", description="tax"))

    assert await best_id(discovery, task_description="tax") == "b"


async def test_a_reported_load_counts_from_the_next_load_version_on(replica, discovery):
    first = running_agent(replica, "a", max_concurrency=4)
    running_agent(replica, "b", in_flight=1, max_concurrency=4)
    assert await best_id(discovery) == "a"

    first.outside = 3
    replica.view.load_version += 1

    assert await best_id(discovery) == "b"


async def test_a_winner_that_became_full_meanwhile_is_passed_over(replica, discovery):
    first = running_agent(replica, "a", max_concurrency=4)
    running_agent(replica, "b", in_flight=1, max_concurrency=4)
    assert await best_id(discovery) == "a"

    first.outside = 4

    assert await best_id(discovery) == "b"


async def test_a_freshly_loaded_replica_does_not_answer_from_the_old_one(replica, discovery):
    running_agent(replica, "a")
    assert await best_id(discovery) == "a"

    replica.load([an_agent("b"), an_instance("b-i", "b")])

    assert await best_id(discovery) == "b"


async def test_sessions_stay_while_nothing_changes(replica, discovery):
    for name in "abcd":
        running_agent(replica, name)

    winners = {s: await best_id(discovery, session_id=s) for s in map(str, range(50))}

    assert winners == {s: await best_id(discovery, session_id=s) for s in winners}
    assert set(winners.values()) == set("abcd")


async def test_who_cannot_take_a_task_is_rejected_with_the_reason(replica, discovery):
    running_agent(replica, "free", capabilities=("x",))
    running_agent(replica, "full", capabilities=("x",), in_flight=1)
    running_agent(replica, "stuck", capabilities=("x",), stalled=True)
    replica.write(
        an_agent("silent", capabilities=("x",)),
        an_instance("silent-i", "silent", state=InstanceState.SILENT),
    )
    running_agent(replica, "other")
    replica.write(an_agent("off", capabilities=("x",), status=AgentStatus.INACTIVE))

    best = await discovery.find_best(
        BestAgentQuery(namespace=NS, filter=AgentFilter(capabilities=("x",)))
    )

    assert [(miss.agent_id, miss.reason) for miss in best.rejected] == [
        ("full", RejectionReason.CAPACITY),
        ("silent", RejectionReason.CAPACITY),
        ("stuck", RejectionReason.STALLED),
        ("off", RejectionReason.STATUS),
        ("other", RejectionReason.CAPABILITY),
    ]
    assert best.rejected[-1].detail == 'lacks capability "x"'
    assert best.rejected[-1].name_version == "other@1.0.0"


async def test_of_very_many_agents_each_session_has_its_share(replica, discovery, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_RANKED", 5)
    for number in range(40):
        running_agent(
            replica, f"agt-{number:02}", in_flight=int(number % 3 == 0), max_concurrency=2
        )

    winners = [await best_id(discovery, session_id=str(n)) for n in range(200)]

    assert len(set(winners)) > 10
    assert all(int(winner[-2:]) % 3 for winner in winners)


async def test_shares_are_of_like_size_when_every_tenth_agent_matches(
    replica, discovery, monkeypatch
):
    monkeypatch.setattr(ranking, "MAX_RANKED", 5)
    for number in range(1000):
        running_agent(replica, f"agt-{number:04}", owner="o" if number % 10 == 3 else "")
    wanted = AgentFilter(owner="o")

    sizes = {
        (
            await discovery.find_best(
                BestAgentQuery(namespace=NS, filter=wanted, session_id=str(number))
            )
        ).candidate_count
        for number in range(60)
    }

    assert sizes <= {4, 5}


async def test_a_share_without_capacity_does_not_hide_the_others(replica, discovery, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_RANKED", 2)
    for number in range(10):
        running_agent(replica, f"agt-{number}", in_flight=0 if number == 7 else 1)

    winners = {await best_id(discovery, session_id=str(n)) for n in range(20)}

    assert winners == {"agt-7"}


async def test_others_have_their_turn_while_a_free_agent_is_searched_for(
    replica, discovery, monkeypatch
):
    monkeypatch.setattr(ranking, "MAX_RANKED", 1)
    for number in range(50):
        running_agent(replica, f"agt-{number:02}", in_flight=1)
    asked = asyncio.create_task(best_id(discovery))

    for _ in range(10):
        await asyncio.sleep(0)
    assert not asked.done()

    # What changes meanwhile counts, as far as it is in a share that comes.
    for live in replica.view.instances.values():
        live.outside = 0
    async with asyncio.timeout(5):
        assert await asked in replica.view.agents


async def test_nobody_free_in_any_share_is_no_candidate(replica, discovery, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_RANKED", 2)
    for number in range(9):
        running_agent(replica, f"agt-{number}", in_flight=1, description="tax")

    with pytest.raises(NoCandidate):
        await best_id(discovery, task_description="tax")


async def test_with_nobody_free_among_the_best_texts_the_others_are_ranked(
    replica, discovery, monkeypatch
):
    monkeypatch.setattr(ranking, "MAX_RANKED", 4)
    for number in range(20):
        text = "tax" if number in {3, 4} else "law"
        running_agent(replica, f"agt-{number:02}", in_flight=number != 9, description=text)

    winners = {
        await best_id(discovery, session_id=str(n), task_description="tax") for n in range(20)
    }

    assert winners == {"agt-09"}


async def test_of_very_many_agents_the_best_text_matches_are_ranked(
    replica, discovery, monkeypatch
):
    monkeypatch.setattr(ranking, "MAX_RANKED", 2)
    for number in range(10):
        running_agent(replica, f"agt-{number}", description="tax" if number == 7 else "law")

    assert await best_id(discovery, task_description="tax") == "agt-7"


async def test_no_more_is_explained_than_was_asked_for(replica, discovery):
    for name in "abcd":
        running_agent(replica, name, capabilities=("x",))
        running_agent(replica, f"not-{name}")
    wanted = AgentFilter(capabilities=("x",))

    two = await discovery.find_best(BestAgentQuery(namespace=NS, filter=wanted, max_explained=2))
    none = await discovery.find_best(BestAgentQuery(namespace=NS, filter=wanted, max_explained=0))

    assert (len(two.runners_up), len(two.rejected), two.candidate_count) == (2, 2, 4)
    assert (none.runners_up, none.rejected, none.candidate_count) == ((), (), 4)


async def test_no_candidate_is_refused_with_the_nearest_misses(replica, discovery):
    running_agent(replica, "near", capabilities=("x", "y"), in_flight=1)
    running_agent(replica, "far", capabilities=("x",))
    wanted = AgentFilter(capabilities=("x", "y"))

    with pytest.raises(NoCandidate) as refusal:
        await discovery.find_best(BestAgentQuery(namespace=NS, filter=wanted))

    assert refusal.value.misses == (
        ("near", "near@1.0.0 no free slot: 1 in flight, 1 slots on each of 1 instances"),
        ("far", 'far@1.0.0 lacks capability "y"'),
    )


async def test_a_refusal_stays_small(replica, discovery):
    for number in range(20):
        running_agent(replica, f"agt-{number}")

    with pytest.raises(NoCandidate) as refusal:
        await discovery.find_best(
            BestAgentQuery(namespace=NS, filter=AgentFilter(owner="nobody"), max_explained=100)
        )

    assert len(refusal.value.misses) == 5


async def test_every_wrong_field_of_a_query_is_named(discovery):
    query = BestAgentQuery(
        namespace=NS,
        filter=AgentFilter(statuses=frozenset({AgentStatus.ACTIVE})),
        task_description="x" * 4097,
        session_id="x" * 257,
        max_explained=101,
    )

    with pytest.raises(InvalidArgument) as refusal:
        await discovery.find_best(query)

    assert [violation.field for violation in refusal.value.violations] == [
        "filter.statuses",
        "task_description",
        "session_id",
        "max_explained",
    ]
