"""Replicas that assign the same tasks: who has the first turn, and where a pass begins."""

import asyncio
from collections import Counter

import pytest

from controlplane.domain.tasks import Task, TaskSpec, TaskState
from controlplane.services.tasks.turns import (
    LEFT_TO_OTHERS_MS,
    MOST_SPREAD,
    SPREAD_SECONDS,
    Turns,
)
from tests.fakes.work_fleet import NS, WorkFleet

SETTLED_SECONDS = LEFT_TO_OTHERS_MS / 1000


@pytest.fixture
async def fleet():
    return WorkFleet()


def task(task_id: str = "t", *, created_at_ms: int = 1_000, epoch: int = 0) -> Task:
    return Task(task_id=task_id, spec=TaskSpec(), created_at_ms=created_at_ms, epoch=epoch)


async def test_a_new_task_is_left_to_the_replica_that_took_it_in(fleet):
    await fleet.add_agent("worker", "w")
    other = fleet.add_replica()
    await fleet.submit()
    assert await other.assigner.assign(NS) == 0
    assert other.assigner.left_to_others == 1
    assert await fleet.one.assigner.assign(NS) == 1


async def test_two_replicas_that_are_woken_by_their_own_tasks_lose_no_commit(fleet):
    await fleet.add_agent("worker", "w", max_concurrency=100)
    other = fleet.add_replica()
    await fleet.submit_many(20)
    done = await asyncio.gather(fleet.one.assigner.assign(NS), other.assigner.assign(NS))
    assert tuple(done) == (20, 0)
    assert fleet.one.assigner.contested == other.assigner.contested == 0


async def test_a_task_that_nobody_assigned_in_time_is_everybodys(fleet):
    await fleet.add_agent("worker", "w")
    other = fleet.add_replica()
    await fleet.submit()
    fleet.clock.shift(SETTLED_SECONDS)
    assert await other.assigner.assign(NS) == 1


def test_a_task_that_was_assigned_before_is_everybodys():
    turns = Turns()
    assert turns.is_of_others(task(), 1_000)
    assert not turns.is_of_others(task(epoch=1), 1_000)
    assert not turns.is_of_others(task(), 1_000 + LEFT_TO_OTHERS_MS)


def test_what_was_made_here_is_forgotten_when_it_is_everybodys():
    turns = Turns()
    turns.take_in(["t"], 1_000)
    turns.take_in(["u"], 1_100)
    assert not turns.is_of_others(task("t"), 1_000)
    turns.forget(1_000 + LEFT_TO_OTHERS_MS)
    assert turns.is_of_others(task("t"), 1_000)
    assert not turns.is_of_others(task("u"), 1_100)


def test_a_replica_that_loses_begins_further_behind_and_comes_back():
    turns = Turns()
    assert turns.left_out() == 0
    turns.note_pass(lost=3, won=0, now=10.0)
    assert turns.spread == 3
    assert {turns.left_out() for _ in range(200)} == {0, 1, 2, 3}
    turns.note_pass(lost=0, won=5, now=10.1)
    assert turns.spread == 2
    turns.note_pass(lost=0, won=0, now=10.2)
    assert turns.spread == 2, "a pass that found nothing says nothing"
    turns.note_pass(lost=10 * MOST_SPREAD, won=0, now=10.3)
    assert turns.spread == MOST_SPREAD
    turns.note_pass(lost=0, won=0, now=10.4 + SPREAD_SECONDS)
    assert turns.spread == 0


async def test_what_a_pass_leaves_out_is_assigned_by_the_next(fleet):
    """It is woken for it: nothing else may happen for a long time."""
    await fleet.add_agent("worker", "w", max_concurrency=MOST_SPREAD)
    late = fleet.add_replica()
    await fleet.submit_many(4 * MOST_SPREAD)
    fleet.clock.shift(SETTLED_SECONDS)
    fleet.replicas.remove(late)
    assert await fleet.one.assign() == MOST_SPREAD
    assert await late.assigner.assign(NS) == 0
    assert late.assigner.contested == MOST_SPREAD
    fleet.replicas.append(late)
    await fleet.follow()
    await fleet.add_agent("helper", "h", name="worker", version="2.0.0", max_concurrency=200)
    late.assigner.wake(NS)
    for _ in range(2 * MOST_SPREAD):
        assert await asyncio.wait_for(late.assigner.next_woken(), 1) == NS
        await late.assigner.assign(NS)
        await fleet.follow()
        if Counter(fleet.states().values())[TaskState.PENDING] == 0:
            return
    pytest.fail("tasks wait although slots are free")
