"""The score, its parts, and who wins a tie."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.routing import (
    LOW_LATENCY_SPEED_WEIGHT,
    SPEED_WEIGHT,
    Candidate,
    Fitness,
    Ranking,
    fitness,
    least_loaded,
    score,
    session_hash,
    total_score,
)
from controlplane.domain.selection import RejectionReason
from tests.fakes.registered import an_agent, running

LOADS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.one_of(st.just(0.0), st.floats(0.1, 1e7)),
        st.floats(0, 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def instances(loads):
    return [
        running(f"ins-{n}", outside=tasks, latency_ms=latency, error_rate=errors, stalled=stalled)
        for n, (tasks, latency, errors, stalled) in enumerate(loads)
    ]


def leaving(instance_id, **said):
    """Return a fresh instance that is being drained."""
    live = running(instance_id, **said)
    live.instance = replace(live.instance, draining=True)
    return live


def fit(agent, *live):
    state = fitness(agent, live)
    assert isinstance(state, Fitness)
    return state


def candidate(agent_id="agt-1", *live, capability_match=1.0, text_match=0.0, **spec):
    agent = an_agent(agent_id, **spec)
    return Candidate(agent, fit(agent, *(live or (running(),))), capability_match, text_match)


def test_the_score_is_the_documented_sum():
    one = candidate(
        "agt-1", running(outside=1), running("ins-2"), max_concurrency=2, timeout_seconds=4
    )

    assert one.fitness == Fitness(concurrency=0.75, speed=0.25, in_flight=1, measured=False)
    assert total_score(one, SPEED_WEIGHT) == pytest.approx(0.5 + 0.4 * 0.75 + 0.1 * 0.25)
    assert total_score(one, LOW_LATENCY_SPEED_WEIGHT) == pytest.approx(
        0.5 + 0.2 * 0.75 + 0.3 * 0.25
    )


def test_the_breakdown_carries_every_part():
    breakdown = score(candidate("agt-7", running(outside=3), max_concurrency=4), SPEED_WEIGHT)

    assert breakdown.agent_id == "agt-7"
    assert breakdown.name_version == "agt-7@1.0.0"
    assert (breakdown.capability_match, breakdown.concurrency) == (1.0, 0.25)
    assert (breakdown.in_flight, breakdown.measured) == (3, False)
    assert breakdown.total == pytest.approx(
        0.5 + (0.5 - breakdown.speed_weight) * 0.25 + breakdown.speed_weight * breakdown.speed
    )


def test_measured_latency_and_errors_replace_the_declared_timeout():
    state = fit(
        an_agent(timeout_seconds=1),
        running(latency_ms=1000.0, error_rate=0.5),
        running("ins-2", latency_ms=0.0),
    )

    assert state.measured
    assert state.speed == pytest.approx(0.25)


def test_no_fresh_instance_is_no_capacity():
    assert fitness(an_agent(), ()) == (RejectionReason.CAPACITY, "has no fresh instance")


def test_full_instances_are_no_capacity():
    refusal = fitness(an_agent(max_concurrency=2), [running(outside=2), running(outside=5)])

    assert refusal == (
        RejectionReason.CAPACITY,
        "no free slot: 7 in flight, 2 slots on each of 2 instances",
    )


def test_nothing_but_stalled_instances_is_stalled():
    refusal = fitness(an_agent(), [running(stalled=True, outside=1)])

    assert refusal == (RejectionReason.STALLED, "every fresh instance is stalled")


def test_a_stalled_instance_offers_no_capacity_and_no_speed():
    state = fit(
        an_agent(max_concurrency=2),
        running(stalled=True, latency_ms=1.0),
        running("ins-2", latency_ms=1000.0),
    )

    assert state.concurrency == 0.5
    assert state.speed == pytest.approx(0.5)


def test_leases_and_other_work_take_slots_alike():
    state = fit(an_agent(max_concurrency=4), running(held=1, outside=2, in_flight=9))

    assert (state.concurrency, state.in_flight) == (0.25, 3)


def test_a_draining_agent_takes_no_task():
    draining = replace(an_agent(), draining=True)

    assert fitness(draining, [running()]) == (
        RejectionReason.DRAINING,
        "is draining and takes no new work",
    )


def test_nothing_but_draining_instances_is_draining():
    refusal = fitness(an_agent(), [leaving("ins-1"), leaving("ins-2", outside=1)])

    assert refusal == (RejectionReason.DRAINING, "every fresh instance is being drained")


def test_a_draining_instance_neither_offers_nor_takes_slots():
    state = fit(
        an_agent(max_concurrency=2),
        leaving("ins-1", outside=1, latency_ms=1.0),
        running("ins-2", outside=1, latency_ms=1000.0),
    )

    assert (state.concurrency, state.in_flight) == (0.5, 2)
    assert state.speed == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"stalled": True}, (RejectionReason.STALLED, "instance that stays is stalled")),
        ({"outside": 1}, (RejectionReason.CAPACITY, "1 slots on each of 1 instances that stay")),
    ],
)
def test_who_stays_beside_a_draining_instance_is_told_apart(said, refusal):
    answer = fitness(an_agent(), [leaving("ins-1"), running("ins-2", **said)])

    assert not isinstance(answer, Fitness)
    reason, detail = answer
    assert reason is refusal[0]
    assert detail.endswith(refusal[1])


def test_an_overloaded_instance_takes_no_slots_from_the_others():
    state = fit(an_agent(max_concurrency=2), running(outside=9), running("ins-2", outside=1))

    assert state.concurrency == 0.25


@given(loads=LOADS, slots=st.integers(1, 8), timeout=st.integers(1, 86_400), low=st.booleans())
def test_every_part_and_the_sum_are_between_0_and_1(loads, slots, timeout, low):
    agent = an_agent(max_concurrency=slots, timeout_seconds=timeout)
    state = fitness(agent, instances(loads))
    if not isinstance(state, Fitness):
        return
    weight = LOW_LATENCY_SPEED_WEIGHT if low else SPEED_WEIGHT
    assert 0 < state.concurrency <= 1
    assert 0 <= state.speed <= 1
    for match in (0.0, 1.0):
        assert 0 <= total_score(Candidate(agent, state, match, 0.0), weight) <= 1


@given(loads=LOADS, slots=st.integers(1, 8), data=st.data())
def test_one_task_more_never_raises_the_score(loads, slots, data):
    agent = an_agent(max_concurrency=slots)
    before = fitness(agent, instances(loads))
    busier = data.draw(st.integers(0, len(loads) - 1))
    tasks, *rest = loads[busier]
    after = fitness(agent, instances([*loads[:busier], (tasks + 1, *rest), *loads[busier + 1 :]]))
    if isinstance(before, Fitness) and isinstance(after, Fitness):
        assert total_score(Candidate(agent, after, 1.0, 0.0), SPEED_WEIGHT) <= total_score(
            Candidate(agent, before, 1.0, 0.0), SPEED_WEIGHT
        )
    if not isinstance(before, Fitness):
        assert not isinstance(after, Fitness)


@given(loads=LOADS, seed=st.integers())
def test_the_order_of_instances_decides_nothing(loads, seed):
    agent = an_agent(max_concurrency=8)
    live = instances(loads)
    shuffled = random.Random(seed).sample(live, len(live))

    assert fitness(agent, live) == fitness(agent, shuffled)
    assert least_loaded(live, 8, "s") is least_loaded(shuffled, 8, "s")


@given(
    tasks=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    seed=st.integers(),
    session=st.text(max_size=5),
)
def test_the_order_of_candidates_decides_nothing(tasks, seed, session):
    candidates = [
        candidate(f"agt-{n}", running(outside=busy), max_concurrency=4)
        for n, busy in enumerate(tasks)
    ]
    shuffled = random.Random(seed).sample(candidates, len(candidates))

    def order(some):
        return [one.agent.agent_id for one in Ranking(some, SPEED_WEIGHT).best_first(session)]

    assert order(candidates) == order(shuffled)


def test_the_better_score_is_first():
    ranking = Ranking(
        [
            candidate("agt-busy", running(outside=3), max_concurrency=4),
            candidate("agt-free", running(outside=1), max_concurrency=4),
        ],
        SPEED_WEIGHT,
    )

    assert [one.agent.agent_id for one in ranking.best_first("")] == ["agt-free", "agt-busy"]
    assert len(ranking) == 2


def test_equal_scores_go_to_the_better_text_and_then_to_fewer_tasks():
    tied = [
        candidate("agt-a", running(outside=2), max_concurrency=4, text_match=0.5),
        candidate("agt-b", running(outside=1), max_concurrency=2, text_match=0.5),
        candidate("agt-c", running(outside=2), max_concurrency=4, text_match=1.0),
    ]

    order = [one.agent.agent_id for one in Ranking(tied, SPEED_WEIGHT).best_first("any")]

    assert order == ["agt-c", "agt-b", "agt-a"]


def test_sessions_stay_with_their_agent_and_spread_over_equals():
    ranking = Ranking([candidate(f"agt-{n}") for n in range(5)], SPEED_WEIGHT)

    winners = {
        session: next(ranking.best_first(session)).agent.agent_id
        for session in (f"session-{n}" for n in range(200))
    }

    assert set(winners.values()) == {f"agt-{n}" for n in range(5)}
    assert winners == {
        session: next(ranking.best_first(session)).agent.agent_id for session in winners
    }


def test_the_hash_of_a_session_is_the_same_in_every_process():
    assert session_hash("session-1", "agt-1").hex() == "17b06225a8b4f111"


def test_the_least_loaded_instance_takes_the_task():
    free, busy = running("ins-1", outside=1), running("ins-2", outside=2)

    assert least_loaded([busy, free], 4, "s") is free


def test_a_full_a_stalled_and_a_draining_instance_take_no_task():
    full, stalled = running("ins-1", outside=4), running("ins-2", stalled=True)

    assert least_loaded([full, stalled, leaving("ins-3")], 4, "s") is None


def test_the_candidates_of_a_name_are_found_together():
    one, other = candidate("agt-1", name="a"), candidate("agt-2", name="b")
    again = candidate("agt-3", name="a")

    named = Ranking([one, other, again], SPEED_WEIGHT).by_name

    assert set(named) == {"a", "b"}
    assert {each.agent.agent_id for each in named["a"]} == {"agt-1", "agt-3"}


def test_a_better_version_of_the_same_agent_is_a_candidate_of_its_own():
    old = candidate("agt-1", running(outside=1), max_concurrency=2)
    new = old._replace(agent=replace(old.agent, agent_id="agt-2"))

    assert len(list(Ranking([old, new], SPEED_WEIGHT).best_first("s"))) == 2
