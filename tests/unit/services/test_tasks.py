"""Tasks for those who submit them."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import (
    InvalidArgument,
    InvalidTransition,
    RequestIdReused,
)
from controlplane.domain.task_limits import MAX_DATA_BYTES
from controlplane.domain.tasks import TaskReason, TaskSpec, TaskState
from controlplane.domain.work_refusals import (
    TaskNotFound,
)
from controlplane.services.ports import Collection, Position, Transaction
from controlplane.services.tasks.data import TaskData, TaskPart, data_key
from controlplane.services.tasks.pages import SLICE
from controlplane.services.tasks.steps import removal_steps
from controlplane.services.tasks.tasks import Submission, TaskContents, TaskFilter
from tests.fakes.plane import CALLER, NS
from tests.fakes.task_plane import AUDIT, TaskPlane, key

SPEC = TaskSpec(agent_name="researcher")
EVERYTHING = TaskFilter()


@pytest.fixture
def plane() -> TaskPlane:
    return TaskPlane()


async def test_a_task_waits_for_an_agent_that_may_not_exist_yet(plane):
    task = await plane.submit(b"hello", agent_name="nobody-yet", deadline_ms=5_000)
    assert (task.state, task.payload_bytes, task.spec.submitter) == ("PENDING", 5, "ada")
    assert task.deadline_at_ms == plane.clock.store_ms() + 5_000
    assert await plane.tasks.get(NS, task.task_id, min_revision=task.revision) == task


async def test_submission_is_one_round_trip_and_wakes_the_assigner(plane):
    plane.calls.clear()
    await plane.submit(follow=False)
    assert plane.calls == ["commit"]
    submissions = [Submission(spec=SPEC)] * 7
    await plane.tasks.submit_many(NS, submissions, caller=CALLER)
    assert plane.calls == ["commit_many"]
    assert plane.assigner.rung == 2


async def test_an_audit_names_the_call_that_submitted(plane):
    await plane.submit(request="r1")
    await plane.tasks.submit_many(NS, [Submission(spec=SPEC)], caller=CALLER)
    entries = [entry for _, _, entry in await plane.ledger.read_audit(NS)]
    assert [(e.method, e.event, e.request_id) for e in entries] == [
        ("SubmitTask", "task.submitted", "r1"),
        ("BatchSubmitTasks", "task.submitted", ""),
    ]


async def test_what_no_refusal_explains_is_not_hidden(plane, monkeypatch):
    async def broken(_transactions):
        return [RuntimeError("a defect")] * 2

    monkeypatch.setattr(plane.ledger, "commit_many", broken, raising=False)
    with pytest.raises(RuntimeError, match="a defect"):
        await plane.tasks.submit_many(NS, [Submission(spec=SPEC)] * 2, caller=CALLER)


async def test_a_submitter_may_be_named(plane):
    task = await plane.submit(submitter="bob")
    assert task.spec.submitter == "bob"


async def test_the_same_request_is_the_same_task(plane):
    first = await plane.submit(request="r1")
    again = await plane.submit(request="r1")
    assert again == first
    with pytest.raises(RequestIdReused):
        await plane.tasks.submit(
            NS, Submission(spec=SPEC, request=key("r1", "other")), caller=CALLER
        )


async def test_entries_of_a_batch_stand_for_themselves(plane):
    first = await plane.submit(request="r1")
    outcomes = await plane.tasks.submit_many(
        NS,
        [
            Submission(spec=SPEC, request=key("r2")),
            Submission(spec=TaskSpec()),
            Submission(spec=SPEC, request=key("r1")),
            Submission(spec=SPEC, request=key("r2", "other")),
            Submission(spec=SPEC, request=key("r2")),
            Submission(spec=SPEC, payload=b"x" * (MAX_DATA_BYTES + 1)),
        ],
        caller=CALLER,
    )
    new, wrong, replayed, reused, twice, large = outcomes
    assert replayed == first
    assert twice == new
    assert isinstance(wrong, InvalidArgument)
    assert isinstance(reused, RequestIdReused)
    assert isinstance(large, InvalidArgument)
    assert large.violations[0].field == "payload"
    assert "262144 (256 KiB)" in large.message


async def test_a_repeated_request_finds_its_task_as_it_is_now(plane):
    task = await plane.submit(request="r1")
    await plane.tasks.cancel(NS, task.task_id, reason="", caller=CALLER)
    again = await plane.submit(request="r1")
    assert again.state is TaskState.CANCELLED


async def test_a_repeated_request_whose_task_is_gone_says_so(plane):
    task = await plane.submit(request="r1")
    await remove(plane, task)
    with pytest.raises(TaskNotFound):
        await plane.submit(request="r1")


async def test_a_waiting_task_is_cancelled_for_good(plane):
    task = await plane.submit()
    cancelled = await plane.tasks.cancel(NS, task.task_id, reason="not needed", caller=CALLER)
    assert (cancelled.state, cancelled.reason) == (TaskState.CANCELLED, TaskReason.CANCELLED)
    assert (cancelled.detail, cancelled.epoch) == ("not needed", 1)
    assert cancelled == await plane.stored(task.task_id)
    again = await plane.tasks.cancel(NS, task.task_id, reason="again", caller=CALLER)
    assert again == cancelled


async def test_a_running_task_is_cancelled_and_its_slot_is_free(plane):
    lease = await plane.running()
    rung = plane.assigner.rung
    cancelled = await plane.tasks.cancel(NS, lease.task_id, reason="", caller=CALLER)
    assert cancelled.hops[0].reason is TaskReason.CANCELLED
    assert await plane.slots() == 0
    assert plane.assigner.rung == rung + 1


async def test_what_has_ended_otherwise_cannot_be_cancelled(plane):
    lease = await plane.running()
    await plane.complete(lease)
    with pytest.raises(InvalidTransition, match="SUCCEEDED"):
        await plane.tasks.cancel(NS, lease.task_id, reason="", caller=CALLER)


async def test_cancelling_what_is_not_there_or_for_a_reason_too_long_is_refused(plane):
    with pytest.raises(TaskNotFound):
        await plane.tasks.cancel(NS, "tsk-none", reason="", caller=CALLER)
    with pytest.raises(InvalidArgument):
        await plane.tasks.cancel(NS, "tsk-none", reason="x" * 1_025, caller=CALLER)


async def test_a_task_submitted_at_another_replica_is_found(plane):
    task = await plane.submit(follow=False)
    assert await plane.tasks.get(NS, task.task_id, min_revision=0) == task
    with pytest.raises(TaskNotFound):
        await plane.tasks.get(NS, "tsk-none", min_revision=0)


async def test_contents_are_what_the_task_carries_now(plane):
    lease = await plane.running(payload=b"in")
    await plane.leases.progress(
        NS, lease, progress=0.1, message="", checkpoint=b"half", caller=CALLER
    )
    await plane.complete(lease, b"out")
    contents = await plane.tasks.contents(NS, lease.task_id)
    assert contents == TaskContents(payload=b"in", checkpoint=b"half", result=b"out")


async def remove(plane, task):
    steps = removal_steps(await plane.stored(task.task_id))
    await plane.ledger.commit(Transaction(namespace=NS, steps=steps, audit=AUDIT))
    await plane.follow()


async def test_removal_takes_everything_a_task_carries(plane):
    lease = await plane.running(payload=b"in")
    await plane.leases.progress(
        NS, lease, progress=0.1, message="", checkpoint=b"half", caller=CALLER
    )
    task = await plane.complete(lease, b"out")
    await remove(plane, task)
    keys = [data_key(task.task_id, part) for part in TaskPart]
    assert await plane.ledger.read(NS, Collection.TASK_DATA, keys) == [None] * 3
    assert task.task_id not in plane.read_model.view(NS).work.tasks.all


async def test_payloads_used_lately_are_read_once(plane):
    task = await plane.submit(b"in")
    data = TaskData(plane.ledger)
    plane.calls.clear()
    assert await data.payload(NS, task.task_id) == b"in"
    assert await data.payload(NS, task.task_id) == b"in"
    assert await data.payload(NS, "tsk-none") == b""
    assert await data.checkpoint(NS, task.task_id) == b""
    assert plane.calls == ["read"] * 3


async def test_remembered_payloads_are_bounded_and_the_oldest_make_room(plane):
    data = TaskData(plane.ledger, memory_bytes=2_000)
    for name in ("a", "b"):
        data.remember(NS, name, b"x" * 600)
    await data.payload(NS, "a")
    data.remember(NS, "c", b"x" * 600)
    data.remember(NS, "too-large", b"x" * 2_000)
    plane.calls.clear()
    for name in ("a", "c", "b", "too-large"):
        await data.payload(NS, name)
    assert plane.calls == ["read"] * 2


async def next_of(following):
    return await asyncio.wait_for(anext(following), 5)


async def test_a_follower_sees_every_lease_until_the_end(plane):
    task = await plane.submit()
    following = plane.tasks.follow(NS, [task.task_id])
    assert await next_of(following) == task
    for instance_id in ("i", "j"):
        await plane.assign(task.task_id, instance_id)
        await plane.take_back(task.task_id)
    await plane.follow()  # four moves become one event
    seen = await next_of(following)
    assert [hop.instance_id for hop in seen.hops] == ["i", "j"]
    lease = await plane.assign(task.task_id)
    await plane.follow()
    assert (await next_of(following)).state is TaskState.ASSIGNED
    await plane.leases.accept(NS, lease, caller=CALLER)
    await plane.complete(lease)
    await plane.follow()
    assert (await next_of(following)).state is TaskState.SUCCEEDED
    assert [event async for event in following] == []
    assert plane.hub.listener_count == 0


async def test_a_follower_of_many_is_told_of_those_that_changed(plane):
    tasks = [await plane.submit() for _ in range(3)]
    following = plane.tasks.follow(NS, [task.task_id for task in tasks])
    assert [await next_of(following) for _ in tasks] == tasks
    await plane.tasks.cancel(NS, tasks[1].task_id, reason="", caller=CALLER)
    await plane.follow()
    assert (await next_of(following)).task_id == tasks[1].task_id
    await remove(plane, tasks[0])
    await plane.tasks.cancel(NS, tasks[2].task_id, reason="", caller=CALLER)
    await plane.follow()
    assert [event.task_id async for event in following] == [tasks[2].task_id]


async def test_a_follower_in_silence_is_told_how_far_it_is(plane):
    task = await plane.submit()
    following = plane.tasks.follow(NS, [task.task_id], bookmark_seconds=0)
    await next_of(following)
    position = await next_of(following)
    assert isinstance(position, Position)
    assert position.revision == task.revision
    await following.aclose()
    assert plane.hub.listener_count == 0


async def test_following_waits_for_tasks_this_replica_has_not_heard_of(plane):
    await plane.submit()
    task = await plane.submit(follow=False)
    following = plane.tasks.follow(NS, [task.task_id])
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    assert not first.done()
    await plane.follow()
    assert (await asyncio.wait_for(first, 5)).task_id == task.task_id
    await following.aclose()


async def test_following_names_the_first_task_that_does_not_exist(plane):
    task = await plane.submit()
    following = plane.tasks.follow(NS, [task.task_id, "tsk-b", "tsk-a"])
    with pytest.raises(TaskNotFound, match="tsk-b"):
        await next_of(following)


async def pages(plane, wanted=EVERYTHING, limit=2, between=None):
    seen: list[str] = []
    after = ""
    while True:
        page = await plane.tasks.page(NS, wanted, after=after, limit=limit, min_revision=0)
        seen.extend(task.task_id for task in page.tasks)
        after = page.next_cursor
        if not after:
            return seen, page
        if between is not None:
            await between()


async def test_pages_are_newest_first(plane):
    ids = []
    for _ in range(5):
        plane.clock.shift(0.001)
        ids.append((await plane.submit()).task_id)
    seen, last = await pages(plane)
    assert seen == ids[::-1]
    assert (last.total, len(last.tasks), last.position.revision) == (5, 1, 5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.lists(st.sampled_from(("submit", "remove", "move")), max_size=6))
def test_tasks_that_come_and_go_neither_repeat_nor_hide_others(limit, meanwhile):
    async def run():
        plane = TaskPlane()
        ids = [(await plane.submit()).task_id for _ in range(8)]
        happenings = iter(meanwhile[:3] + [one for one in meanwhile[3:] if one != "remove"])
        removed: set[str] = set()

        async def between():
            match next(happenings, None):
                case "submit":
                    await plane.submit()
                case "remove":
                    victim = ids[len(removed) * 3]
                    removed.add(victim)
                    await remove(plane, await plane.stored(victim))
                case "move":
                    await plane.assign(ids[-1], f"i{plane.clock.store_ms()}")
                    await plane.take_back(ids[-1], TaskReason.NOT_ACCEPTED)
                    await plane.follow()

        seen, _ = await pages(plane, limit=limit, between=between)
        assert len(seen) == len(set(seen))
        assert set(ids) - removed <= set(seen)
        assert [one for one in seen if one in ids] == sorted(set(seen) & set(ids), reverse=True)

    asyncio.run(run())


async def test_filters_must_all_hold(plane):
    agent = (await plane.register()).agent
    by_name = await plane.submit(session_id="s", submitter="bob")
    by_skill = await plane.submit(agent_name="", capabilities=("cite",))
    other = await plane.submit(agent_name="writer")
    await plane.assign(by_skill.task_id, "i", agent.agent_id)
    await plane.follow()
    for wanted, expected in (
        (TaskFilter(agent_name="researcher"), {by_name, by_skill}),
        (TaskFilter(agent_name="writer"), {other}),
        (TaskFilter(agent_id=agent.agent_id), {by_skill}),
        (TaskFilter(instance_id="i"), {by_skill}),
        (TaskFilter(instance_id="i", submitter="bob"), set()),
        (TaskFilter(session_id="s"), {by_name}),
        (TaskFilter(submitter="bob"), {by_name}),
        (TaskFilter(states=frozenset({TaskState.PENDING})), {by_name, other}),
    ):
        seen, page = await pages(plane, wanted)
        assert set(seen) == {task.task_id for task in expected}
        assert page.total == len(expected)


async def test_a_page_of_very_many_tasks_lets_others_run(plane):
    task = await plane.submit()
    view = plane.read_model.view(NS)
    for number in range(SLICE + 1):
        view.work.tasks.all[f"t{number}"] = replace(task, task_id=f"t{number}")
    page = asyncio.ensure_future(
        plane.tasks.page(NS, TaskFilter(), after="", limit=1, min_revision=0)
    )
    await asyncio.sleep(0)
    assert not page.done()
    view.work.tasks.all.clear()  # what the page shows is the moment it began with
    assert (await page).total == SLICE + 2
