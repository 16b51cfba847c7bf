"""The index finds what a linear search finds, in order, and keeps up with changes."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.agents import AgentStatus
from controlplane.domain.selection import AgentFilter
from controlplane.services import agent_index, agent_matches
from controlplane.services.agent_index import AgentIndex
from controlplane.services.change_journal import ChangeJournal
from tests.fakes.registered import an_agent

WORDS = ("a", "b", "c")
SOME = st.lists(st.sampled_from(WORDS), max_size=3, unique=True).map(tuple)
ONE_OR_NONE = st.sampled_from(("", *WORDS))
TAGS = st.dictionaries(st.sampled_from(WORDS), st.sampled_from(WORDS), max_size=2)
VERSIONS = st.sampled_from(("1.0.0", "1.5.0", "2.0.0-rc.1", "2.0.0"))
STATUSES = st.sampled_from(AgentStatus)

AGENTS = st.lists(
    st.builds(
        lambda number, draining, **given: replace(
            an_agent(f"agt-{number:03}", **given), draining=draining
        ),
        st.integers(0, 40),
        st.booleans(),
        status=STATUSES,
        name=st.sampled_from(WORDS),
        version=VERSIONS,
        owner=ONE_OR_NONE,
        model=ONE_OR_NONE,
        capabilities=SOME,
        tools=SOME,
        tags=TAGS,
    ),
    max_size=30,
)
FILTERS = st.builds(
    AgentFilter,
    capabilities=SOME,
    tags=TAGS,
    statuses=st.frozensets(STATUSES),
    name=ONE_OR_NONE,
    version_range=st.sampled_from(("", ">=1.5.0", "<2.0.0", "==2.0.0-rc.1", ">3.0.0")),
    owner=ONE_OR_NONE,
    model=ONE_OR_NONE,
    tool=ONE_OR_NONE,
    takes_work=st.booleans(),
)


def index_of(*agents):
    index = AgentIndex()
    for agent in agents:
        index.add(agent)
    return index


def all_pages(index, wanted, size):
    matches = index.candidates(wanted)
    found: list[str] = []
    while page := matches.page(found[-1] if found else "", size):
        found.extend(page)
    return found


@given(written=AGENTS, removed=st.sets(st.integers(0, 29)), wanted=FILTERS, size=st.integers(1, 7))
def test_the_index_finds_what_a_linear_search_finds_in_order(written, removed, wanted, size):
    index = AgentIndex()
    held = {}
    for agent in written:
        index.add(agent)
        held[agent.agent_id] = agent
    index.candidates(wanted)
    for number in removed:
        if number < len(written) and written[number].agent_id in held:
            index.remove(held.pop(written[number].agent_id))

    expected = sorted(agent_id for agent_id, agent in held.items() if wanted.matches(agent))

    assert set(index.candidates(wanted).ids) == set(expected)
    assert len(index.candidates(wanted)) == len(expected)
    assert all_pages(index, wanted, size) == expected
    assert list(index.ids()) == sorted(held)


def test_a_changed_agent_is_found_by_what_it_is_now():
    agent = an_agent("agt-1", status=AgentStatus.ACTIVE, capabilities=("old",))
    index = index_of(agent)

    index.remove(agent)
    index.add(replace(agent, spec=replace(agent.spec, capabilities=("new",))))

    assert not index.candidates(AgentFilter(capabilities=("old",)))
    assert set(index.candidates(AgentFilter(capabilities=("new",))).ids) == {"agt-1"}


def test_adding_an_agent_again_takes_the_place_of_the_first():
    index = index_of(an_agent("agt-1", owner="one"), an_agent("agt-1", owner="two"))

    assert len(index) == 1
    assert list(index.ids()) == ["agt-1"]
    assert not index.candidates(AgentFilter(owner="one"))


def test_removing_an_unknown_agent_does_nothing():
    index = index_of(an_agent("agt-1"))

    index.remove(an_agent("agt-2"))

    assert len(index) == 1


@given(
    steps=st.lists(st.tuples(AGENTS, st.integers(0, 40), st.integers(1, 4)), max_size=4),
    wanted=FILTERS,
    dense=st.sampled_from((1, 16)),
    ids_per_change=st.sampled_from((0.01, 16)),
)
def test_a_result_follows_every_change(steps, wanted, dense, ids_per_change):
    index = AgentIndex()
    with pytest.MonkeyPatch.context() as patch:
        # As if there were many others: results are few among them, and kept in order.
        patch.setattr(agent_matches, "DENSE", 0 if dense == 1 else 16)
        patch.setattr(agent_index, "_IDS_PER_CHANGE", ids_per_change)
        for written, gone, size in steps:
            for agent in written:
                index.add(agent)
            leaver = index.get(f"agt-{gone:03}")
            if leaver is not None:
                index.remove(leaver)
            held = [index.get(agent_id) for agent_id in index.ids()]
            expected = [agent.agent_id for agent in held if agent and wanted.matches(agent)]

            assert all_pages(index, wanted, size) == expected
            assert set(index.candidates(wanted).ids) == set(expected)


def test_a_result_is_kept_while_few_agents_change():
    index = index_of(*(an_agent(f"agt-{n:04}", capabilities=("x", "y")) for n in range(2000)))
    wanted = AgentFilter(capabilities=("x", "y"))
    first = index.candidates(wanted)

    index.add(an_agent("agt-0001"))
    index.remove(index.get("agt-0002"))

    assert index.candidates(wanted) is first
    assert first.page("", 2) == ["agt-0000", "agt-0003"]
    assert len(first) == 1998

    for number in range(3, 1000):
        index.add(an_agent(f"agt-{number:04}"))

    again = index.candidates(wanted)
    assert again is not first
    assert again.page("", 2) == ["agt-0000", "agt-1000"]


@pytest.mark.parametrize("few", [0, 1000])
@given(written=AGENTS, wanted=FILTERS)
def test_a_range_of_versions_is_found_in_either_way(few, written, wanted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_index, "_FEW_TO_JUDGE", few)
        index = index_of(*written)
        wanted = replace(wanted, version_range=">=1.0.0,<2.0.0")
        held = [index.get(agent_id) for agent_id in index.ids()]

        assert set(index.candidates(wanted).ids) == {
            agent.agent_id for agent in held if wanted.matches(agent)
        }


def test_ids_of_a_large_load_are_in_order():
    ids = [f"agt-{n:05}" for n in range(10_000)]
    shuffled = ids.copy()
    random.Random(7).shuffle(shuffled)

    index = index_of(*map(an_agent, shuffled))

    assert list(index.ids()) == ids


def test_results_that_hold_nearly_everybody_are_bounded():
    index = index_of(
        *(
            an_agent(f"agt-{n:05}", capabilities=tuple(f"c{i}" for i in range(20)))
            for n in range(11_000)
        )
    )

    for number in range(1, 20):
        index.candidates(AgentFilter(capabilities=("c0", f"c{number}")))

    assert sum(matches.kept for matches in index._answers.values()) == index._kept_ids <= 200_000
    assert len(index._answers) == 18


def test_the_texts_are_those_of_active_agents():
    index = index_of(
        an_agent("agt-1", description="pays invoices"),
        an_agent("agt-2", capabilities=("pay-invoices",), tools=("ledger",)),
        an_agent("agt-3", description="pays invoices", status=AgentStatus.DEGRADED),
    )
    everybody = set(index.ids())

    assert sorted(index.texts.search("invoices").best(9, everybody)) == ["agt-1", "agt-2"]
    assert index.texts.search("ledger").best(9, everybody) == ["agt-2"]

    index.add(an_agent("agt-1", description="pays invoices", status=AgentStatus.INACTIVE))
    index.add(an_agent("agt-2", capabilities=("rest",)))

    assert index.texts.search("invoices ledger").best(9, everybody) == []
    assert index.texts.search("rest").best(9, everybody) == ["agt-2"]


def test_a_share_is_the_same_whether_or_not_somebody_paged_before():
    agents = [
        an_agent(f"agt-{n:03}", capabilities=("x", "y") if n % 40 == 0 else ("y",))
        for n in range(1000)
    ]
    wanted = AgentFilter(capabilities=("x", "y"))
    paged, fresh = index_of(*agents), index_of(*agents)
    paged.candidates(wanted).page("", 3)

    assert paged.candidates(wanted).share(1, 3) == fresh.candidates(wanted).share(1, 3)


def test_results_of_many_different_queries_do_not_pile_up():
    index = index_of(an_agent("agt-1"))

    for number in range(1000):
        index.candidates(AgentFilter(owner=str(number)))

    assert len(index._answers) <= 256


@pytest.mark.parametrize("matching", [3, 900])
def test_a_page_begins_behind_the_cursor_even_if_that_agent_is_gone(matching):
    ids = [f"agt-{n:04}" for n in range(1000)]
    index = index_of(
        *(an_agent(i, capabilities=("x",) if n < matching else ()) for n, i in enumerate(ids))
    )
    index.remove(index.get("agt-0000"))

    page = index.candidates(AgentFilter(capabilities=("x",))).page("agt-0000", 1)

    assert page == ["agt-0001"]


def test_ids_stay_in_order_while_agents_come_and_go_in_bulk():
    index = AgentIndex()
    held = {}
    dice = random.Random(7)
    for _ in range(20):
        for _ in range(dice.choice((1, 5, 200))):
            agent = an_agent(f"agt-{dice.randrange(2000):04}")
            index.add(agent)
            held[agent.agent_id] = agent
        for agent_id in dice.sample(sorted(held), k=min(len(held), 40)):
            index.remove(held.pop(agent_id))
        assert list(index.ids()) == sorted(held)


@pytest.mark.parametrize("matching", [7, 90])
def test_shares_are_all_matches_each_once(matching):
    index = index_of(
        *(an_agent(f"agt-{n:03}", capabilities=("x",) if n < matching else ()) for n in range(1000))
    )
    matches = index.candidates(AgentFilter(capabilities=("x",)))

    shares = [matches.share(number, 4) for number in range(4)]

    assert sorted(agent_id for share in shares for agent_id in share) == sorted(matches.ids)


def test_the_rarest_conditions_come_first():
    index = index_of(
        an_agent("agt-1", capabilities=("rare", "common")),
        an_agent("agt-2", capabilities=("common",)),
    )

    sets = index.rarest(AgentFilter(capabilities=("common", "rare")), 1)

    assert [set(ids) for ids in sets] == [{"agt-1"}]


def test_a_journal_knows_what_changed_since_it_began():
    journal = ChangeJournal()
    journal.note({"a", "b"}, 5)
    journal.note({"b"}, 6)
    journal.note((), 7)
    journal.note({"c", "a"}, 8)

    assert journal.since(4) is None
    assert journal.since(5) == {"a", "b", "c"}
    assert journal.since(6) == {"a", "c"}
    assert journal.since(8) == set()


def test_a_journal_that_was_told_nothing_knows_nothing():
    assert ChangeJournal().since(0) is None


def test_a_journal_forgets_the_oldest_changes():
    journal = ChangeJournal(kept_ids=3)
    journal.note((), 0)
    for revision in range(1, 6):
        journal.note({f"agt-{revision}"}, revision)

    assert journal.since(1) is None
    assert journal.since(2) == {"agt-3", "agt-4", "agt-5"}
