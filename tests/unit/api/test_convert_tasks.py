"""Tasks between the wire and the domain."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.convert.tasks import (
    delivery_to_proto,
    filter_from_proto,
    followed_from_proto,
    followed_to_proto,
    lease_from_proto,
    spec_from_proto,
    spec_to_proto,
    submission_from_proto,
    submissions_from_proto,
    task_to_proto,
)
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.tasks import DrainAction, Hop, Task, TaskReason, TaskSpec, TaskState
from controlplane.services.ports import Position
from controlplane.services.tasks.delivery import Assignment, Revocation
from controlplane.services.tasks.tasks import Submission
from fleetplane.v1 import task_service_pb2 as pb

SPECS = st.builds(
    TaskSpec,
    kind=st.text(max_size=20),
    agent_name=st.text(max_size=20),
    capabilities=st.lists(st.text(max_size=10), max_size=4).map(tuple),
    session_id=st.text(max_size=20),
    submitter=st.text(max_size=20),
    max_attempts=st.integers(1, 100),
    deadline_ms=st.just(0) | st.integers(1_000, 30 * 86_400_000),
    attempt_timeout_ms=st.just(0) | st.integers(1_000, 86_400_000),
    on_drain=st.sampled_from(DrainAction),
)

RUNNING = Task(
    task_id="tsk-1",
    spec=TaskSpec(agent_name="reader"),
    state=TaskState.RUNNING,
    attempts=2,
    epoch=3,
    agent_id="agt-1",
    instance_id="box-1",
    instance_generation=7,
    assigned_at_ms=3_000,
    started_at_ms=3_500,
    deadline_at_ms=60_000,
    progress=0.5,
    progress_message="half",
    checkpoint_bytes=12,
    payload_bytes=34,
    hops=(
        Hop(
            epoch=1,
            agent_id="agt-1",
            instance_id="box-0",
            assigned_at_ms=1_000,
            started_at_ms=0,
            ended_at_ms=2_000,
            reason=TaskReason.LEASE_LOST,
            detail="silent",
        ),
    ),
    hop_count=1,
    revision=9,
    created_at_ms=500,
)


def refused(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(InvalidArgument) as refusal:
        call()
    return [violation.field for violation in refusal.value.violations]


@given(SPECS)
def test_a_declaration_survives_the_round_trip(spec: TaskSpec):
    assert spec_from_proto(spec_to_proto(spec)) == spec


def test_what_is_not_said_has_the_defaults_of_the_contract():
    assert spec_from_proto(pb.TaskSpec(agent_name="a")) == TaskSpec(agent_name="a", max_attempts=3)


@pytest.mark.parametrize("seconds", [0, 30 * 86_400 + 1, -1])
def test_a_deadline_that_is_sent_is_within_its_bounds(seconds: int):
    spec = pb.TaskSpec(deadline=Duration(seconds=seconds), attempt_timeout=Duration())
    assert refused(lambda: spec_from_proto(spec, "tasks[2].spec")) == [
        "tasks[2].spec.deadline",
        "tasks[2].spec.attempt_timeout",
    ]


def test_every_wrong_field_of_a_submission_is_named_at_once():
    request = pb.SubmitTaskRequest(
        spec=pb.TaskSpec(kind="k" * 257, capabilities=["a", "b", ""]),
        payload=b"x" * (256 * 1024 + 1),
        request_id="r" * 129,
    )
    assert refused(lambda: submission_from_proto(request)) == [
        "spec.kind",
        "spec.capabilities[2]",
        "payload",
        "request_id",
    ]


def test_a_submission_needs_a_declaration():
    assert refused(lambda: submission_from_proto(pb.SubmitTaskRequest())) == ["spec"]


def test_entries_of_a_batch_are_refused_one_by_one():
    good = pb.SubmitTaskRequest(spec=pb.TaskSpec(agent_name="a"), payload=b"p")
    foreign = pb.SubmitTaskRequest(namespace="n", spec=pb.TaskSpec(agent_name="a"))
    request = pb.BatchSubmitTasksRequest(tasks=[good, foreign, pb.SubmitTaskRequest()])
    first, second, third = submissions_from_proto(request)
    assert first == Submission(spec=TaskSpec(agent_name="a"), payload=b"p")
    assert isinstance(second, InvalidArgument)
    assert second.violations[0].field == "namespace"
    assert isinstance(third, InvalidArgument)
    assert third.violations[0].field == "spec"


@pytest.mark.parametrize("size", [0, 501])
def test_a_batch_holds_1_to_500_tasks(size: int):
    request = pb.BatchSubmitTasksRequest(tasks=[pb.SubmitTaskRequest()] * size)
    assert refused(lambda: submissions_from_proto(request)) == ["tasks"]


def test_a_lease_is_named_completely():
    assert refused(lambda: lease_from_proto(pb.TaskLease(instance_id="box-1"))) == [
        "lease.task_id",
        "lease.epoch",
    ]


def test_an_unspecified_state_means_any():
    states = [pb.TASK_STATE_UNSPECIFIED]
    assert filter_from_proto(pb.ListTasksRequest(states=states)).states == frozenset(TaskState)
    assert filter_from_proto(pb.ListTasksRequest()).states == frozenset()


def test_an_unknown_state_is_refused():
    request = pb.ListTasksRequest(states=[pb.TASK_STATE_PENDING, 99])  # type: ignore[list-item]  # unknown here
    assert refused(lambda: filter_from_proto(request)) == ["states[1]"]


def test_followed_tasks_are_1_to_1_000_each_once():
    assert followed_from_proto(["a", "b", "a"]) == ("a", "b")
    assert refused(lambda: followed_from_proto([])) == ["task_ids"]
    assert refused(lambda: followed_from_proto(["a"] * 1_001)) == ["task_ids"]
    assert refused(lambda: followed_from_proto(["a", ""])) == ["task_ids[1]"]


def test_a_task_is_rendered_with_all_that_is_known():
    message = task_to_proto(RUNNING, "tenant")
    assert (message.task_id, message.namespace, message.epoch) == ("tsk-1", "tenant", 3)
    assert message.state == pb.TASK_STATE_RUNNING
    assert message.reason == pb.TASK_REASON_UNSPECIFIED
    assert message.started_at.ToMilliseconds() == 3_500
    assert not message.HasField("ended_at")
    assert not message.HasField("not_before")
    (hop,) = message.hops
    assert hop.reason == pb.TASK_REASON_LEASE_LOST
    assert not hop.HasField("started_at")
    assert (message.payload_bytes, message.checkpoint_bytes, message.hop_count) == (34, 12, 1)


@pytest.mark.parametrize("reason", TaskReason)
def test_every_reason_has_a_word_on_the_wire(reason: TaskReason):
    message = task_to_proto(replace(RUNNING, reason=reason), "tenant")
    name = pb.TaskReason.Name(message.reason).removeprefix("TASK_REASON_")
    assert name == (reason.value or "UNSPECIFIED")


def test_what_an_instance_is_told():
    position = Position("e", 4)
    assignment = Assignment(task=RUNNING, payload=b"p", checkpoint=b"c", resumed=True)
    revoked = Revocation(task_id="tsk-1", epoch=3, reason=TaskReason.CANCELLED)

    told = delivery_to_proto(assignment, "tenant").assignment
    assert (told.task.task_id, told.payload, told.checkpoint) == ("tsk-1", b"p", b"c")
    assert told.resumed
    ended = delivery_to_proto(revoked, "tenant").revoked
    assert (ended.task_id, ended.epoch) == ("tsk-1", 3)
    assert ended.reason == pb.TASK_REASON_CANCELLED
    assert delivery_to_proto(position, "tenant").bookmark.revision == 4


def test_what_a_submitter_is_told():
    assert followed_to_proto(RUNNING, "tenant").task.task_id == "tsk-1"
    assert followed_to_proto(Position("e", 4), "tenant").bookmark.epoch == "e"
