"""How a task moves, and what fences a late word about it."""

import math
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.errors import (
    InvalidArgument,
    InvalidTransition,
)
from controlplane.domain.task_limits import (
    MAX_DATA_BYTES,
    validate_message,
    validate_progress,
)
from controlplane.domain.task_rules import (
    Lease,
    accepted,
    assigned,
    completed,
    ended,
    failed,
    progressed,
    retry_pause_ms,
    submitted,
    taken_back,
    validate_lease,
    validate_spec,
)
from controlplane.domain.tasks import MAX_HOPS, Task, TaskReason, TaskSpec, TaskState
from controlplane.domain.work_refusals import (
    LeaseFenced,
)

SPEC = TaskSpec(kind="summarize", agent_name="researcher")
NOW = 1_000_000


def waiting(**spec) -> Task:
    return submitted("tsk-1", replace(SPEC, **spec), payload_bytes=3, now_ms=NOW)


def offered(task: Task | None = None, instance_id: str = "i") -> Task:
    task = task if task is not None else waiting()
    return assigned(task, agent_id="a", instance_id=instance_id, generation=7, now_ms=NOW)


def lease_of(task: Task) -> Lease:
    return Lease(task_id=task.task_id, instance_id=task.instance_id, epoch=task.epoch)


def running(task: Task | None = None, cohort: str = "") -> Task:
    task = offered(task)
    return accepted(task, lease_of(task), cohort=cohort, now_ms=NOW + 5)


def fail(task: Task, lease: Lease | None = None, **how) -> Task:
    words: dict[str, Any] = {
        "detail": "boom",
        "permanent": False,
        "release": False,
        "now_ms": NOW + 10,
    } | how
    return failed(task, lease or lease_of(task), **words)


def test_a_task_is_assigned_accepted_and_completed():
    task = running(cohort="r1/10")
    assert (task.state, task.attempts, task.started_at_ms) == (TaskState.RUNNING, 1, NOW + 5)
    assert (task.epoch, task.instance_generation, task.cohort) == (1, 7, "r1/10")
    task = progressed(
        task, lease_of(task), progress=0.5, message="half", checkpoint_bytes=9, now_ms=NOW + 6
    )
    assert (task.progress, task.progress_message, task.checkpoint_bytes) == (0.5, "half", 9)
    done = completed(task, lease_of(task), result_bytes=4, now_ms=NOW + 7)
    assert (done.state, done.reason, done.result_bytes) == (TaskState.SUCCEEDED, "", 4)
    assert (done.ended_at_ms, done.progress, done.epoch) == (NOW + 7, 1.0, 1)
    (hop,) = done.hops
    assert (hop.reason, hop.epoch, hop.instance_id, hop.started_at_ms) == ("", 1, "i", NOW + 5)


def test_a_deadline_counts_from_submission():
    assert waiting(deadline_ms=5_000).deadline_at_ms == NOW + 5_000
    assert waiting().deadline_at_ms == 0


def test_only_a_waiting_task_is_assigned():
    with pytest.raises(InvalidTransition) as refusal:
        offered(running())
    assert refusal.value.metadata == {"current_state": "RUNNING", "wanted_state": "ASSIGNED"}


def test_accepting_again_is_the_same_attempt():
    task = running()
    assert accepted(task, lease_of(task), cohort="other", now_ms=NOW + 99) is task


def test_completing_again_changes_nothing():
    task = running()
    done = completed(task, lease_of(task), result_bytes=4, now_ms=NOW)
    assert completed(done, lease_of(task), result_bytes=5, now_ms=NOW + 1) is done


@pytest.mark.parametrize(
    "late",
    [
        lambda task, lease: accepted(task, lease, cohort="", now_ms=NOW),
        lambda task, lease: completed(task, lease, result_bytes=0, now_ms=NOW),
        fail,
        lambda task, lease: progressed(
            task, lease, progress=1, message="", checkpoint_bytes=None, now_ms=NOW
        ),
    ],
)
def test_words_under_a_lease_that_ended_are_fenced(late):
    task = running()
    old = lease_of(task)
    for after in (
        taken_back(task, TaskReason.LEASE_LOST, now_ms=NOW),
        offered(taken_back(task, TaskReason.LEASE_LOST, now_ms=NOW), "j"),
        ended(task, TaskState.CANCELLED, TaskReason.CANCELLED, detail="", now_ms=NOW),
        ended(task, TaskState.FAILED, TaskReason.DEADLINE_EXCEEDED, detail="", now_ms=NOW),
    ):
        with pytest.raises(LeaseFenced) as refusal:
            late(after, old)
        assert refusal.value.metadata["current_epoch"] == str(after.epoch)
    with pytest.raises(LeaseFenced):
        late(task, replace(old, instance_id="somebody-else"))
    with pytest.raises(LeaseFenced):
        late(task, replace(old, epoch=old.epoch + 1))


def test_work_that_was_never_accepted_cannot_be_reported():
    task = offered()
    with pytest.raises(InvalidTransition):
        completed(task, lease_of(task), result_bytes=0, now_ms=NOW)
    with pytest.raises(InvalidTransition):
        progressed(task, lease_of(task), progress=1, message="", checkpoint_bytes=None, now_ms=NOW)


def test_a_failed_attempt_is_tried_again_after_a_pause_until_none_is_left():
    task, pauses = waiting(max_attempts=3), []
    for _ in range(2):
        task = fail(running(task))
        pauses.append(task.not_before_ms - (NOW + 10))
        assert (task.state, task.reason, task.instance_id) == ("PENDING", "AGENT_FAILED", "")
    assert pauses == [1_000, 2_000]
    task = fail(running(task))
    assert (task.state, task.reason, task.detail) == ("FAILED", "ATTEMPTS_EXHAUSTED", "boom")
    assert [hop.reason for hop in task.hops] == [TaskReason.AGENT_FAILED] * 3


def test_the_pause_doubles_up_to_a_minute():
    assert [retry_pause_ms(n) for n in (0, 1, 2, 3, 6, 7, 100)] == [
        1_000,
        1_000,
        2_000,
        4_000,
        32_000,
        60_000,
        60_000,
    ]


def test_a_permanent_failure_is_not_tried_again():
    task = fail(running(waiting(max_attempts=9)), permanent=True)
    assert (task.state, task.reason, task.epoch) == ("FAILED", "AGENT_REFUSED", 1)


def test_a_task_nobody_can_begin_comes_to_an_end():
    task = waiting(max_attempts=2)
    task = fail(offered(task))
    task = fail(offered(task))
    assert (task.state, task.attempts) == (TaskState.FAILED, 2)


def test_a_released_attempt_does_not_count_and_is_assigned_at_once():
    task = fail(running(waiting(max_attempts=1)), release=True)
    assert (task.state, task.reason, task.attempts) == ("PENDING", "RELEASED", 0)
    assert task.not_before_ms == 0


def test_a_task_that_is_released_twice_in_a_row_waits_a_moment():
    task = fail(offered(fail(offered(), release=True)), release=True)
    assert task.not_before_ms == NOW + 10 + 1_000


@pytest.mark.parametrize("reason", [TaskReason.DRAINED, TaskReason.DEACTIVATED])
def test_an_attempt_that_the_plane_ends_early_does_not_count(reason):
    task = taken_back(running(waiting(max_attempts=1)), reason, detail="moved", now_ms=NOW)
    assert (task.state, task.attempts, task.reason) == (TaskState.PENDING, 0, reason)
    assert (task.epoch, task.not_before_ms, task.detail) == (2, 0, "moved")


def test_a_lost_lease_counts_but_is_assigned_at_once():
    task = taken_back(running(), TaskReason.LEASE_LOST, now_ms=NOW)
    assert (task.state, task.attempts, task.not_before_ms) == (TaskState.PENDING, 1, 0)


def test_the_last_lost_attempt_says_what_was_lost():
    task = taken_back(running(waiting(max_attempts=1)), TaskReason.LEASE_LOST, now_ms=NOW)
    assert (task.state, task.reason) == (TaskState.FAILED, TaskReason.ATTEMPTS_EXHAUSTED)
    assert task.detail == "attempt 1 of 1: LEASE_LOST"


def test_an_assignment_that_nobody_accepted_costs_nothing():
    task = taken_back(offered(waiting(max_attempts=1)), TaskReason.NOT_ACCEPTED, now_ms=NOW)
    assert (task.state, task.attempts) == (TaskState.PENDING, 0)
    assert task.hops[0].started_at_ms == 0


def test_a_hop_that_was_never_accepted_does_not_carry_the_start_of_the_one_before():
    task = offered(taken_back(running(), TaskReason.LEASE_LOST, now_ms=NOW))
    task = taken_back(task, TaskReason.NOT_ACCEPTED, now_ms=NOW)
    assert [bool(hop.started_at_ms) for hop in task.hops] == [True, False]


def test_an_attempt_that_took_too_long_waits_before_the_next():
    task = taken_back(running(), TaskReason.ATTEMPT_TIMEOUT, now_ms=NOW)
    assert (task.attempts, task.not_before_ms) == (1, NOW + 1_000)


def test_nothing_is_taken_back_from_nobody():
    with pytest.raises(InvalidTransition):
        taken_back(waiting(), TaskReason.LEASE_LOST, now_ms=NOW)


def test_only_the_newest_hops_are_kept_but_all_are_counted():
    task = waiting(max_attempts=100)
    for _ in range(MAX_HOPS + 3):
        task = taken_back(offered(task), TaskReason.NOT_ACCEPTED, now_ms=NOW)
    assert (len(task.hops), task.hop_count) == (MAX_HOPS, MAX_HOPS + 3)
    assert task.hops[-1].epoch == task.epoch - 1


def test_what_has_ended_stays_as_it_is():
    task = ended(waiting(), TaskState.FAILED, TaskReason.NO_AGENT, detail="gone", now_ms=NOW)
    assert (task.state, task.detail, task.hops) == (TaskState.FAILED, "gone", ())
    with pytest.raises(InvalidTransition):
        ended(task, TaskState.CANCELLED, TaskReason.CANCELLED, detail="", now_ms=NOW)


def test_a_task_succeeds_by_its_holder_only():
    with pytest.raises(ValueError, match="SUCCEEDED"):
        ended(running(), TaskState.SUCCEEDED, TaskReason.NONE, detail="", now_ms=NOW)


def test_every_wrong_field_of_a_declaration_is_named():
    spec = TaskSpec(
        kind="k" * 257,
        agent_name="no/slash",
        capabilities=("", "c" * 257),
        session_id="s" * 257,
        submitter="\ud800",
        max_attempts=0,
        deadline_ms=999,
        attempt_timeout_ms=86_400_001,
    )
    with pytest.raises(InvalidArgument) as refusal:
        validate_spec(spec, MAX_DATA_BYTES + 1, field="tasks[2].spec")
    assert [v.field.removeprefix("tasks[2].") for v in refusal.value.violations] == [
        "spec.kind",
        "spec.session_id",
        "spec.submitter",
        "spec.agent_name",
        "spec.capabilities[0]",
        "spec.capabilities[1]",
        "spec.max_attempts",
        "spec.deadline",
        "spec.attempt_timeout",
        "payload",
    ]
    assert "256 KiB" in refusal.value.violations[-1].description


def test_the_limits_themselves_are_allowed():
    spec = TaskSpec(
        kind="k" * 256,
        capabilities=("c" * 256,) * 64,
        session_id="s" * 256,
        max_attempts=100,
        deadline_ms=30 * 86_400_000,
        attempt_timeout_ms=86_400_000,
    )
    validate_spec(spec, MAX_DATA_BYTES)
    validate_progress(1.0, "m" * 1_024, MAX_DATA_BYTES)
    validate_message("reason", "m" * 1_024)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (TaskSpec(), "spec.agent_name"),
        (TaskSpec(capabilities=("c",) * 65), "spec.capabilities"),
        (TaskSpec(agent_name="a", max_attempts=101), "spec.max_attempts"),
        (TaskSpec(agent_name="a", deadline_ms=30 * 86_400_000 + 1), "spec.deadline"),
        (TaskSpec(agent_name="a", attempt_timeout_ms=999), "spec.attempt_timeout"),
    ],
)
def test_a_wrong_declaration_is_refused(spec, field):
    with pytest.raises(InvalidArgument) as refusal:
        validate_spec(spec, 0)
    assert [v.field for v in refusal.value.violations] == [field]


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan, math.inf])
def test_progress_is_a_share(progress):
    with pytest.raises(InvalidArgument, match="progress"):
        validate_progress(progress, "", None)


def test_a_report_that_is_too_large_names_what():
    with pytest.raises(InvalidArgument) as refusal:
        validate_progress(0, "m" * 1_025, MAX_DATA_BYTES + 1)
    assert [v.field for v in refusal.value.violations] == ["message", "checkpoint"]
    with pytest.raises(InvalidArgument, match="reason"):
        validate_message("reason", "m" * 1_025)


def test_a_lease_is_named_completely():
    with pytest.raises(InvalidArgument) as refusal:
        validate_lease(Lease(task_id="", instance_id="", epoch=0))
    assert [v.field for v in refusal.value.violations] == [
        "lease.task_id",
        "lease.instance_id",
        "lease.epoch",
    ]
