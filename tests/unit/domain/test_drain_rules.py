"""When a drain is done, and what its deadline does."""

from dataclasses import replace

import pytest

from controlplane.domain.drain_rules import (
    MAX_EXTENSION_MS,
    Said,
    action_now,
    ended_by_themselves,
    observed,
    require_deadline,
    require_reason,
)
from controlplane.domain.drains import Drain, DrainPhase
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.tasks import DrainAction, Task, TaskSpec, TaskState

T = 1_000_000
DRAIN = Drain(agent_id="a", started_at_ms=T, deadline_at_ms=T + 10_000, held_at_start=3)


def word(after_ms: int, outside: int = 0) -> Said:
    return Said(heard_at_ms=T + after_ms, outside=outside)


def test_a_drain_waits_for_leases():
    assert observed(DRAIN, 1, [word(500)], T + 600) is DRAIN


def test_a_word_from_before_the_start_says_nothing():
    assert observed(DRAIN, 0, [word(0)], T + 600) is DRAIN
    assert observed(DRAIN, 0, [Said(heard_at_ms=0, outside=0)], T + 600) is DRAIN


def test_two_words_a_second_apart_end_a_drain():
    once = observed(DRAIN, 0, [word(500)], T + 600)
    assert (once.phase, once.quiet_since_ms) == (DrainPhase.DRAINING, T + 500)
    assert observed(once, 0, [word(1_499)], T + 1_500) is once
    done = observed(once, 0, [word(1_500)], T + 1_600)
    assert (done.phase, done.ended_at_ms, done.completed) == (DrainPhase.DRAINED, T + 1_600, 3)


def test_every_instance_has_to_say_it_twice():
    once = observed(DRAIN, 0, [word(500), word(800)], T + 900)
    assert once.quiet_since_ms == T + 800
    assert observed(once, 0, [word(1_900), word(900)], T + 2_000) is once


@pytest.mark.parametrize(("held", "outside"), [(1, 0), (0, 1)])
def test_work_in_between_starts_the_silence_anew(held, outside):
    once = observed(DRAIN, 0, [word(500)], T + 600)
    assert observed(once, held, [word(1_600, outside)], T + 1_700) == DRAIN


def test_nobody_who_beats_is_nobody_to_wait_for():
    assert observed(DRAIN, 0, [], T + 1).phase is DrainPhase.DRAINED
    assert observed(DRAIN, 1, [], T + 1).phase is DrainPhase.DRAINING


def test_the_class_of_a_task_decides_at_the_deadline():
    def task(action: DrainAction) -> Task:
        return Task(task_id="t", state=TaskState.RUNNING, spec=TaskSpec(on_drain=action))

    for action in DrainAction:
        assert action_now(DRAIN, task(action), T + 9_999) is None
        assert action_now(DRAIN, task(action), T + 10_000) is action
    late = T + 10_000 + MAX_EXTENSION_MS
    assert action_now(DRAIN, task(DrainAction.EXTEND), late - 1) is DrainAction.EXTEND
    assert action_now(DRAIN, task(DrainAction.EXTEND), late) is DrainAction.REQUEUE
    assert action_now(DRAIN, task(DrainAction.FAIL), late) is DrainAction.FAIL


def test_what_the_drain_ended_did_not_end_by_itself():
    assert ended_by_themselves(DRAIN, 1) == 2
    assert ended_by_themselves(replace(DRAIN, requeued=1, failed=1), 0) == 1
    assert ended_by_themselves(replace(DRAIN, requeued=9), 0) == 0


def test_deadlines_and_reasons_have_bounds():
    for deadline_ms in (999, 86_400_001):
        with pytest.raises(InvalidArgument, match="deadline"):
            require_deadline(deadline_ms)
    require_deadline(1_000)
    require_deadline(86_400_000)
    with pytest.raises(InvalidArgument, match="reason"):
        require_reason("ä" * 257)
    require_reason("x" * 512)
