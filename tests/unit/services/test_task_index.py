"""The tasks in memory: order, moments, outcomes, whatever happens to them."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.tasks import Hop, Task, TaskReason, TaskSpec, TaskState
from controlplane.services.tasks.agenda import SLACK, Agenda
from controlplane.services.tasks.index import RECENT_OUTCOMES, TaskIndex, limit_of
from controlplane.services.tasks.waiting import (
    CHUNK,
    OrderedTasks,
    WaitingTasks,
    order_of,
    want_of,
)


def a_task(number: int, **fields) -> Task:
    spec = TaskSpec(
        agent_name=fields.pop("agent_name", "worker"),
        capabilities=fields.pop("capabilities", ()),
        submitter=fields.pop("submitter", "ada"),
        session_id=fields.pop("session_id", ""),
        attempt_timeout_ms=fields.pop("attempt_timeout_ms", 0),
    )
    return Task(task_id=f"tsk-{number:06}", spec=spec, created_at_ms=1_000 + number, **fields)


def a_hop(epoch: int, *, at: int, failed: bool, agent_id: str = "agt-1") -> Hop:
    return Hop(
        epoch=epoch,
        agent_id=agent_id,
        instance_id="ins-1",
        assigned_at_ms=at - 2,
        started_at_ms=at - 1,
        ended_at_ms=at,
        reason=TaskReason.AGENT_FAILED if failed else TaskReason.NONE,
    )


def ready(waiting: WaitingTasks, submitter: str = "ada") -> list[str]:
    groups = waiting.by_submitter.get(submitter, {})
    return [task.task_id for group in groups.values() for task in group.ready]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200))
def test_ordered_tasks_are_a_sorted_set(changes):
    ordered, model = OrderedTasks(), {}
    for add, number in changes:
        task = a_task(number)
        if add and number not in model:
            ordered.add(task)
            model[number] = task
        elif not add and number in model:
            ordered.remove(task)
            del model[number]
        assert [one.task_id for one in ordered] == [model[n].task_id for n in sorted(model)]
        behind = ordered.after(order_of(task))
        expected = min((n for n in model if n > number), default=None)
        assert behind == (None if expected is None else model[expected])
        assert len(ordered) == len(model)


def test_a_long_queue_keeps_its_order_in_pieces():
    numbers = list(range(5 * CHUNK))
    Random(7).shuffle(numbers)
    ordered = OrderedTasks()
    for number in numbers:
        ordered.add(a_task(number))
    for number in numbers[: 2 * CHUNK]:
        ordered.remove(a_task(number))
    left = sorted(numbers[2 * CHUNK :])
    assert [task.created_at_ms - 1_000 for task in ordered] == left
    seen, at = [], None
    while (task := ordered.after(at)) is not None:
        at = order_of(task)
        seen.append(task.created_at_ms - 1_000)
    assert seen == left


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | st.integers(0, 50)), max_size=120),
    st.integers(0, 50),
    st.integers(1, 5),
)
def test_an_agenda_gives_the_earliest_and_forgets_none(changes, now, limit):
    agenda = Agenda()
    model: dict[str, int] = {}
    for key, at in changes:
        if at is None:
            agenda.drop(key)
            model.pop(key, None)
        else:
            agenda.put(key, at)
            model[key] = at
    due = sorted((at, key) for key, at in model.items() if at <= now)
    expected = [key for _, key in due[:limit]]
    assert agenda.due(now, limit) == expected
    assert agenda.due(now, limit) == expected, "what is due stays until it is dropped"
    assert len(agenda) == len(model)


def test_an_agenda_does_not_grow_with_its_changes():
    agenda = Agenda()
    for at in range(10_000):
        agenda.put("one", at)
    assert len(agenda._heap) <= 2 + SLACK


def test_a_task_that_comes_back_keeps_its_place():
    index = TaskIndex()
    for number in range(3):
        index.apply(f"tsk-{number:06}", a_task(number))
    first = a_task(0)
    held = replace(first, state=TaskState.ASSIGNED, instance_id="ins-1", agent_id="agt-1")
    assert index.apply(first.task_id, held) == {"ins-1"}
    assert ready(index.waiting) == ["tsk-000001", "tsk-000002"]
    assert index.apply(first.task_id, first) == {"ins-1"}
    assert ready(index.waiting) == ["tsk-000000", "tsk-000001", "tsk-000002"]


def test_a_pause_takes_a_task_out_of_the_queue_until_it_is_over():
    waiting = WaitingTasks()
    waiting.add(a_task(1, not_before_ms=5_000))
    waiting.add(a_task(2))
    assert ready(waiting) == ["tsk-000002"]
    assert len(waiting) == 2
    assert waiting.resume(4_999) == 0
    assert waiting.resume(5_000) == 1
    assert ready(waiting) == ["tsk-000001", "tsk-000002"]


def test_a_paused_task_can_be_called_off():
    waiting = WaitingTasks()
    paused = a_task(1, not_before_ms=5_000)
    waiting.add(paused)
    waiting.remove(paused)
    assert (len(waiting), waiting.by_want, waiting.by_submitter) == (0, {}, {})
    assert waiting.resume(9_000) == 0


def test_what_is_wanted_does_not_depend_on_how_it_is_written():
    one = a_task(1, capabilities=("b", "a", "b"))
    assert want_of(one) == want_of(a_task(2, capabilities=("a", "b")))


def test_whoever_was_served_comes_last():
    waiting = WaitingTasks()
    for number, submitter in enumerate(("ada", "bob", "eve")):
        waiting.add(a_task(number, submitter=submitter))
    waiting.served("ada")
    assert list(waiting.by_submitter) == ["bob", "eve", "ada"]
    waiting.served("nobody")


def test_every_state_has_its_moment():
    index = TaskIndex()
    task = a_task(1, deadline_at_ms=50_000, attempt_timeout_ms=2_000)
    index.apply(task.task_id, task)
    assert index.limits.due(50_000, 9) == [task.task_id]
    assigned = replace(task, state=TaskState.ASSIGNED, assigned_at_ms=3_000, instance_id="i")
    index.apply(task.task_id, assigned)
    assert index.unaccepted.due(3_000, 9) == [task.task_id]
    index.apply(task.task_id, replace(assigned, state=TaskState.RUNNING, started_at_ms=4_000))
    assert index.unaccepted.due(99_000, 9) == []
    assert index.limits.due(5_999, 9) == []
    assert index.limits.due(6_000, 9) == [task.task_id]
    index.apply(task.task_id, replace(task, state=TaskState.SUCCEEDED, ended_at_ms=7_000))
    assert index.limits.due(99_000, 9) == []
    assert index.ended.due(7_000, 9) == [task.task_id]
    index.apply(task.task_id, None)
    assert (len(index.limits), len(index.unaccepted), len(index.ended)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("state", "deadline", "timeout", "limit"),
    [
        (TaskState.PENDING, 0, 5, 0),
        (TaskState.PENDING, 9, 5, 9),
        (TaskState.RUNNING, 0, 5, 7),
        (TaskState.RUNNING, 6, 5, 6),
        (TaskState.RUNNING, 9, 5, 7),
        (TaskState.FAILED, 9, 5, 0),
    ],
)
def test_the_limit_is_the_earlier_of_deadline_and_attempt(state, deadline, timeout, limit):
    task = a_task(
        1, state=state, started_at_ms=2, deadline_at_ms=deadline, attempt_timeout_ms=timeout
    )
    assert limit_of(task) == limit


def test_a_load_knows_all_that_happened_to_a_task_seen_for_the_first_time():
    index = TaskIndex()
    hops = (a_hop(1, at=10, failed=True), a_hop(3, at=20, failed=False))
    index.apply("tsk-000001", a_task(1, hops=hops, hop_count=2))
    assert index.recent_outcomes("agt-1") == (2, 1)
    index.apply("tsk-000001", a_task(1, hops=hops, hop_count=2))
    assert index.recent_outcomes("agt-1") == (2, 1), "the same state again says nothing new"


@given(st.randoms(use_true_random=False))
def test_outcomes_are_the_newest_ones_in_whatever_order_tasks_are_loaded(random):
    tasks = [
        a_task(n, hops=(a_hop(1, at=100 + n, failed=n % 3 == 0),), hop_count=1)
        for n in range(RECENT_OUTCOMES + 90)
    ]
    newest = tasks[90:]
    random.shuffle(tasks)
    index = TaskIndex()
    for task in tasks:
        index.apply(task.task_id, task)
    failed = sum(task.hops[0].reason is TaskReason.AGENT_FAILED for task in newest)
    assert index.recent_outcomes("agt-1") == (RECENT_OUTCOMES, failed)
    assert index.recent_outcomes("agt-2") == (0, 0)
