"""Waiting tasks go to instances with a free slot: fairly, by fitness, never beyond capacity."""

import asyncio
from collections import Counter
from time import perf_counter
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.routes import Route, Share
from controlplane.domain.tasks import TaskState
from controlplane.services.ports import Collection, Delete, Put
from controlplane.services.tasks.assignment import GROUPS_PER_PASS, LOOK_AHEAD, PASS_LIMIT
from controlplane.services.tasks.placement import SHARE_SIZE
from controlplane.services.tasks.turns import LEFT_TO_OTHERS_MS
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.work_fleet import AGENT, NS, WorkFleet


@pytest.fixture
async def fleet():
    return WorkFleet()


async def test_a_task_goes_to_a_free_instance_of_the_agent_it_names(fleet):
    await fleet.add_agent("other", "o")
    await fleet.add_agent("worker", "w")
    task_id = await fleet.submit()
    assert await fleet.one.assign() == 1
    task = await fleet.task(task_id)
    assert (task.state, task.agent_id, task.instance_id) == (TaskState.ASSIGNED, "worker", "w")
    assert task.epoch == 1
    assert await fleet.slots("w") == 1
    assert "task.assigned" in await fleet.events()


async def test_a_task_without_a_name_goes_to_whoever_has_the_capabilities(fleet):
    await fleet.add_agent("reader", "r", capabilities=("read",))
    await fleet.add_agent("writer", "w", capabilities=("read", "write"))
    task_id = await fleet.submit("", capabilities=("write", "read"))
    await fleet.one.assign()
    assert (await fleet.task(task_id)).agent_id == "writer"


@pytest.mark.parametrize("what", ["draining", "inactive", "instance", "silent", "stream", "old"])
async def test_who_does_not_take_work_gets_none(fleet, what):
    await fleet.add_agent("worker", "w")
    match what:
        case "draining":
            await fleet.change_agent("worker", draining=True)
        case "inactive":
            await fleet.change_agent("worker", status=AgentStatus.INACTIVE, status_reason="LOST")
        case "instance":
            await fleet.change_instance("w", draining=True)
        case "silent":
            await fleet.silence("w")
        case "stream":
            await fleet.commit(Delete(Collection.TASK_STREAMS, "w"))
        case "old":
            await fleet.join("w", "worker", stream=False)
    await fleet.submit()
    assert await fleet.one.assign() == 0


@pytest.mark.parametrize("what", ["draining", "stopped", "silent", "replaced", "closed"])
async def test_a_change_that_is_not_seen_yet_defeats_the_assignment(fleet, what):
    """The copy of the second replica lags: the store refuses what it decides."""
    await fleet.add_agent("worker", "w")
    late = fleet.add_replica()
    task_id = await fleet.submit()
    fleet.clock.shift(LEFT_TO_OTHERS_MS / 1000)
    fleet.replicas.remove(late)
    match what:
        case "draining":
            await fleet.change_agent("worker", draining=True)
        case "stopped":
            await fleet.stop_agent("worker")
        case "silent":
            await fleet.silence("w")
        case "replaced":
            await fleet.join("w", "worker")
        case "closed":
            await fleet.commit(Delete(Collection.TASK_STREAMS, "w"))
    assert await late.assigner.assign(NS) == 0
    assert late.assigner.contested == 1
    assert (await fleet.task(task_id)).state is TaskState.PENDING
    assert await fleet.slots("w") == 0


async def test_capacity_counts_leases_and_work_from_elsewhere(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=5)
    fleet.one.view.instances["w"].outside = 2
    await fleet.submit_many(9)
    assert await fleet.one.assign() == 3
    assert await fleet.one.assign() == 0


async def test_what_was_just_assigned_takes_its_slot_before_it_is_visible(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=2)
    await fleet.submit_many(5)
    assert await fleet.one.assigner.assign(NS) == 2
    assert await fleet.one.assigner.assign(NS) == 0
    assert fleet.one.assigner.contested == 0
    first, _ = (await fleet.one.follow()).work.tasks.held_by("w")
    await fleet.complete(await fleet.accept(first))
    assert await fleet.one.assigner.assign(NS) == 1


async def test_tasks_spread_over_agents_and_instances(fleet):
    await fleet.add_agent("a", "a1", "a2", max_concurrency=4, capabilities=("c",))
    await fleet.add_agent("b", "b1", max_concurrency=4, capabilities=("c",))
    await fleet.submit_many(6, "", capabilities=("c",))
    await fleet.one.assign()
    assert [len(fleet.held(name)) for name in ("a1", "a2", "b1")] == [2, 2, 2]


async def test_a_stalled_instance_gets_nothing(fleet):
    await fleet.add_agent("worker", "w1", "w2", max_concurrency=10)
    fleet.one.view.instances["w1"].stalled = True
    await fleet.submit_many(6)
    assert await fleet.one.assign() == 6
    assert fleet.held("w1") == []


async def test_a_submitter_with_many_tasks_does_not_delay_another(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=20)
    await fleet.submit_many(1_000, submitter="greedy")
    modest = await fleet.submit_many(10, submitter="modest")
    assert await fleet.one.assign() == 20
    assert set(modest) <= set(fleet.held("w"))


async def test_submitters_take_turns_when_slots_free_one_by_one(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=1)
    await fleet.submit_many(50, submitter="greedy")
    await fleet.submit_many(5, submitter="modest")
    served: list[str] = []
    for _ in range(10):
        assert await fleet.one.assign() == 1
        (task_id,) = fleet.held("w")
        served.append((await fleet.task(task_id)).spec.submitter)
        await fleet.complete(await fleet.accept(task_id))
    assert Counter(served) == {"greedy": 5, "modest": 5}


async def test_a_full_fleet_is_not_offered_to_every_submitter(fleet):
    class Groups(dict[str, Any]):
        """Remembers whose groups were asked for."""

        asked: ClassVar[list[str]] = []

        def get(self, submitter: str, default: Any = None) -> Any:
            self.asked.append(submitter)
            return super().get(submitter, default)

    await fleet.add_agent("worker", "w", max_concurrency=1)
    lease = await fleet.running()
    for number in range(100):
        await fleet.submit(submitter=f"user-{number}")
    await fleet.complete(lease)
    waiting = fleet.one.view.work.tasks.waiting
    waiting.by_submitter = Groups(waiting.by_submitter)
    assert await fleet.one.assigner.assign(NS) == 1
    assert set(Groups.asked) <= {"user-0", "user-1", "user-2"}


async def test_each_submitter_keeps_the_order_of_submission(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=3)
    ids = []
    for _ in range(7):
        ids.append(await fleet.submit())
        fleet.clock.shift(0.01)
    for expected in (ids[:3], ids[3:6], ids[6:]):
        await fleet.one.assign()
        assert fleet.held("w") == sorted(expected)
        for task_id in expected:
            await fleet.complete(await fleet.accept(task_id))


async def test_tasks_nobody_can_take_hide_no_others(fleet):
    await fleet.add_agent("worker", "w")
    for number in range(GROUPS_PER_PASS + 40):
        await fleet.submit(f"absent-{number}")
    await fleet.submit_many(3 * LOOK_AHEAD, "absent")
    task_id = await fleet.submit()
    passes = 0
    while (await fleet.task(task_id)).state is TaskState.PENDING:
        await fleet.one.assign()
        passes += 1
    assert passes <= 2


async def test_a_paused_task_waits_for_its_moment(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    await fleet.one.leases.fail(
        NS, lease, detail="boom", permanent=False, release=False, caller=AGENT
    )
    assert await fleet.one.assign() == 0
    fleet.clock.shift(1.001)
    assert await fleet.one.assign() == 1
    assert (await fleet.task(lease.task_id)).epoch > lease.epoch


async def test_a_task_goes_elsewhere_after_an_instance_failed_it(fleet):
    await fleet.add_agent("a", "a1", "a2", capabilities=("c",), max_concurrency=9)
    await fleet.add_agent("b", "b1", capabilities=("c",), max_concurrency=9)
    task_id = await fleet.submit("", capabilities=("c",), max_attempts=9)
    holders: list[str] = []
    for _ in range(5):
        assert await fleet.one.assign() == 1
        lease = await fleet.accept(task_id)
        holders.append(lease.instance_id)
        await fleet.one.leases.fail(
            NS, lease, detail="", permanent=False, release=True, caller=AGENT
        )
        fleet.clock.shift(61)  # the longest pause between two attempts
    assert sorted(holders[:3]) == ["a1", "a2", "b1"]
    assert set(holders[3:]) <= {"a1", "a2", "b1"}, "the last choice is a choice"


async def test_a_task_that_nobody_else_can_take_goes_back_to_who_failed_it(fleet):
    await fleet.add_agent("worker", "w")
    lease = await fleet.running()
    await fleet.one.leases.fail(NS, lease, detail="", permanent=False, release=True, caller=AGENT)
    assert await fleet.one.assign() == 1
    assert fleet.held("w") == [lease.task_id]


async def route(fleet: WorkFleet, **weights: int) -> None:
    shares = tuple(
        Share(agent_id=agent_id, version=agent_id, weight_bp=weight)
        for agent_id, weight in weights.items()
    )
    await fleet.commit(
        Put(Collection.ROUTES, "worker", Route(name="worker", shares=shares, salt="s"))
    )


async def test_tasks_follow_the_route_of_the_name(fleet):
    await fleet.add_agent("new", "n", name="worker", version="2.0.0", max_concurrency=500)
    await fleet.add_agent("old", "o", name="worker", version="1.0.0", max_concurrency=500)
    await route(fleet, new=2_000, old=8_000)
    await fleet.submit_many(400)
    assert await fleet.one.assign() == 400
    assert 50 <= len(fleet.held("n")) <= 110


async def test_a_version_that_is_full_does_not_hold_up_the_other(fleet):
    await fleet.add_agent("new", "n", name="worker", version="2.0.0", max_concurrency=1)
    await fleet.add_agent("old", "o", name="worker", version="1.0.0", max_concurrency=100)
    await route(fleet, new=9_500, old=500)
    await fleet.submit_many(1_500)
    for _ in range(20):
        await fleet.one.assign()
    assert len(fleet.held("n")) == 1
    assert 40 <= len(fleet.held("o")) <= 100, "behind hundreds that wait for the other version"


async def test_a_fleet_larger_than_one_share_is_used_completely(fleet):
    count = SHARE_SIZE + 20
    for number in range(count):
        await fleet.add_agent(f"a{number}", f"i{number}", capabilities=("c",))
    await fleet.submit_many(count + 5, "", capabilities=("c",))
    assert await fleet.one.assign() == count


async def test_a_pass_ends_and_asks_for_another(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=PASS_LIMIT + 500)
    await fleet.submit_many(PASS_LIMIT + 300)
    await fleet.one.assigner.next_woken()
    first = await fleet.one.assign()
    assert PASS_LIMIT <= first < PASS_LIMIT + 300
    assert await fleet.one.assigner.next_woken() == NS
    assert first + await fleet.one.assign() == PASS_LIMIT + 300


async def test_namespaces_are_woken_in_turn(fleet):
    assigner = fleet.one.assigner
    for namespace in ("a", "b", "a"):
        assigner.wake(namespace)
    assert [await assigner.next_woken(), await assigner.next_woken()] == ["a", "b"]
    waiting = asyncio.create_task(assigner.next_woken())
    await asyncio.sleep(0)
    assert not waiting.done()
    assigner.wake("c")
    assert await waiting == "c"


async def test_a_store_that_does_not_answer_reserves_nothing(fleet):
    faulty: list[FaultyLedger] = []

    def wrap(ledger):
        faulty.append(FaultyLedger(ledger))
        return faulty[0]

    await fleet.add_agent("worker", "w")
    replica = fleet.add_replica(wrap)
    await fleet.submit()
    fleet.clock.shift(LEFT_TO_OTHERS_MS / 1000)
    faulty[0].fail_next()
    with pytest.raises(StoreUnavailable):
        await replica.assigner.assign(NS)
    assert await replica.assign() == 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), max_size=25),
)
async def test_two_replicas_never_exceed_capacity(slots, count, rounds):
    """Each acts on whatever it knows, at the same time; some tasks end in between."""
    fleet = WorkFleet()
    other = fleet.add_replica()
    for number, size in enumerate(slots):
        await fleet.add_agent(f"a{number}", f"i{number}", max_concurrency=size, capabilities=("c",))
    await fleet.submit_many(count, "", capabilities=("c",))
    fleet.clock.shift(LEFT_TO_OTHERS_MS / 1000)
    for who, follow, finish in rounds:
        replica = (fleet.one, other)[who]
        if follow:
            await replica.follow()
        if finish:
            held = [t for t, state in fleet.states().items() if state.is_held]
            for task_id in held[:1]:
                if (await fleet.task(task_id)).state is TaskState.ASSIGNED:
                    lease = await fleet.lease(task_id)
                    await fleet.one.leases.accept(NS, lease, caller=AGENT)
                    await fleet.one.leases.complete(NS, lease, result=b"", caller=AGENT)
        await asyncio.gather(fleet.one.assigner.assign(NS), other.assigner.assign(NS))
        await fleet.one.follow()
        for number, size in enumerate(slots):
            held_now = len(fleet.held(f"i{number}"))
            assert held_now == await fleet.slots(f"i{number}") <= size
    for replica in (fleet.one, other) * 2:
        await replica.assign()
    await fleet.follow()
    states = Counter(fleet.states().values())
    free = sum(slots) - states[TaskState.ASSIGNED]
    assert free == 0 or states[TaskState.PENDING] == 0, "a slot is free and a task waits"


async def test_a_large_backlog_is_placed_quickly_and_without_long_pauses(fleet):
    """10,000 tasks over 200 agents: the planning itself, without the store."""
    for number in range(200):
        await fleet.add_agent(
            f"a{number}", f"i{number}", max_concurrency=50, capabilities=("c", f"x{number % 7}")
        )
    await fleet.submit_many(10_000, "", capabilities=("c",))
    began = perf_counter()
    done = 0
    while len(fleet.one.view.work.tasks.waiting):
        done += await fleet.one.assign()
    assert done == 10_000
    assert perf_counter() - began < 20, "a generous bound: store and follower are in it"
