"""Drains and emergency stops between the wire and the domain."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.lifecycle import (
    drain_deadline_from_proto,
    drain_to_proto,
    drain_wait_from_proto,
    require_selector,
    short_reason_from_proto,
    status_reason_from_proto,
    stop_to_proto,
    stop_wait_from_proto,
    target_from_proto,
)
from controlplane.domain.drains import Drain, DrainPhase, DrainThen, EmergencyStop
from controlplane.domain.errors import InvalidArgument
from controlplane.services.lifecycle.drains import DrainReport
from controlplane.services.lifecycle.stop_answers import StopAnswer, StopOutcome, StopReport
from fleetplane.v1 import lifecycle_service_pb2 as pb


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        call()
    (violation,) = refusal.value.violations
    return violation.field


def test_a_drain_needs_an_agent_or_an_instance():
    assert target_from_proto(pb.DrainRequest(instance_id="box-1")) == ("", "box-1")
    assert refused(lambda: target_from_proto(pb.DrainRequest())) == "agent_id"


@pytest.mark.parametrize("reason", ["", "LOST", "STOPPED", "r" * 513])
def test_a_status_reason_is_said_short_and_not_one_of_the_planes_words(reason: str):
    assert refused(lambda: status_reason_from_proto(reason)) == "reason"


def test_a_reason_of_512_bytes_is_kept():
    assert status_reason_from_proto("r" * 512) == "r" * 512
    assert short_reason_from_proto("") == ""


@pytest.mark.parametrize("milliseconds", [0, 999, 86_400_001])
def test_a_drain_deadline_is_1_s_to_24_h(milliseconds: int):
    deadline = Duration()
    deadline.FromMilliseconds(milliseconds)
    assert refused(lambda: drain_deadline_from_proto(deadline, "drain_deadline")) == (
        "drain_deadline"
    )


def test_a_wait_for_a_drain_is_at_most_10_minutes():
    assert drain_wait_from_proto(pb.GetDrainRequest()) == 0
    assert drain_wait_from_proto(pb.GetDrainRequest(wait=Duration(seconds=600))) == 600_000
    late = pb.GetDrainRequest(wait=Duration(seconds=601))
    assert refused(lambda: drain_wait_from_proto(late)) == "wait"


def test_a_wait_for_acknowledgements_is_at_most_a_minute_and_10_s_unless_said():
    assert stop_wait_from_proto(pb.EmergencyStopRequest()) == 10_000
    assert stop_wait_from_proto(pb.EmergencyStopRequest(wait=Duration())) == 0
    late = pb.EmergencyStopRequest(wait=Duration(seconds=60, nanos=1))
    assert refused(lambda: stop_wait_from_proto(late)) == "wait"


def test_the_whole_namespace_is_stopped_by_that_word_only():
    require_selector({}, (), True)
    require_selector({"a": "b"}, (), False)
    assert refused(lambda: require_selector({}, (), False)) == "all"
    assert refused(lambda: require_selector({}, ("reader",), True)) == "all"


def test_a_drain_is_rendered_with_what_is_in_flight():
    drain = Drain(
        agent_id="agt-1",
        instance_id="box-1",
        then=DrainThen.DEACTIVATE,
        reason="upgrade",
        actor="ada",
        started_at_ms=1_000,
        deadline_at_ms=9_000,
        requeued=2,
        revision=7,
    )
    report = DrainReport(drain=drain, safe_to_stop=False, tasks_in_flight=3, other_in_flight=1)
    message = drain_to_proto(report)
    assert message.phase == pb.DRAIN_PHASE_DRAINING
    assert message.then_deactivate
    assert not message.HasField("ended_at")
    assert message.deadline_at.ToMilliseconds() == 9_000
    assert (message.tasks_in_flight, message.other_in_flight, message.requeued) == (3, 1, 2)
    assert (message.actor, message.reason, message.revision) == ("ada", "upgrade", 7)


@pytest.mark.parametrize("phase", DrainPhase)
def test_every_phase_has_a_word_on_the_wire(phase: DrainPhase):
    drain = Drain(agent_id="agt-1", phase=phase)
    report = DrainReport(drain=drain, safe_to_stop=True, tasks_in_flight=0, other_in_flight=0)
    assert pb.DrainPhase.Name(drain_to_proto(report).phase) == f"DRAIN_PHASE_{phase}"


def test_a_stop_says_who_answered_and_how_fast():
    answers = (
        StopAnswer(
            instance_id="box-2", agent_id="agt-1", outcome=StopOutcome.WAITING, after_ms=None
        ),
        StopAnswer(
            instance_id="box-1", agent_id="agt-1", outcome=StopOutcome.ACKNOWLEDGED, after_ms=0
        ),
    )
    report = StopReport(
        stop=EmergencyStop(stop_id="stp-1", agent_ids=("agt-1",), started_at_ms=1_000),
        answers=answers,
        acknowledged=1,
        waiting=1,
        last_after_ms=0,
    )
    message = stop_to_proto(report)
    waiting, acknowledged = message.answers
    assert waiting.outcome == pb.StopAnswer.OUTCOME_WAITING
    assert not waiting.HasField("after")
    assert acknowledged.HasField("after")
    assert message.HasField("last_acknowledged_after")
    assert (message.acknowledged, message.waiting) == (1, 1)
    assert list(message.agent_ids) == ["agt-1"]
