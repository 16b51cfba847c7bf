"""`fleetplane tasks` over a scripted daemon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from controlplane.cli.outcomes import WrongInput
from controlplane.cli.task_input import MAX_PAYLOAD, read_payload, readable
from fleetplane.v1 import task_service_pb2 as pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]


def task(task_id: str, state: pb.TaskState.ValueType, revision: int = 1, **fields: Any) -> pb.Task:
    spec = pb.TaskSpec(kind="summarize", agent_name="writer", max_attempts=3)
    return pb.Task(task_id=task_id, spec=spec, state=state, revision=revision, **fields)


PENDING = task("t1", pb.TASK_STATE_PENDING)
RUNNING = task("t1", pb.TASK_STATE_RUNNING, 2, instance_id="i1", progress=0.5)
DONE = task("t1", pb.TASK_STATE_SUCCEEDED, 3, instance_id="i1")
LOST = task(
    "t1", pb.TASK_STATE_FAILED, 3, reason=pb.TASK_REASON_ATTEMPTS_EXHAUSTED, detail="no idea"
)


def follows(*tasks: pb.Task) -> list[pb.FollowTasksResponse]:
    return [pb.FollowTasksResponse(task=one) for one in tasks]


def test_a_task_is_submitted_with_everything_that_was_said(
    daemon: ScriptedDaemon, run: Run
) -> None:
    daemon.says("SubmitTask", pb.SubmitTaskResponse(task=PENDING))
    options = "--kind k --agent writer -c a -c b --session s --submitter me --attempts 5"
    times = "--deadline 1h --attempt-timeout 90s --on-drain extend --request-id r1"
    result = run("tasks", "submit", *options.split(), *times.split(), "--payload", "a text")
    assert result.stdout == "t1\n"
    asked = daemon.last("SubmitTask")
    assert asked.spec == pb.TaskSpec(
        kind="k",
        agent_name="writer",
        capabilities=["a", "b"],
        session_id="s",
        submitter="me",
        max_attempts=5,
        deadline=Duration(seconds=3600),
        attempt_timeout=Duration(seconds=90),
        on_drain=pb.DRAIN_ACTION_EXTEND,
    )
    assert (asked.payload, asked.request_id) == (b"a text", "r1")


def test_a_payload_comes_from_a_file_or_a_pipe(
    daemon: ScriptedDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.says("SubmitTask", pb.SubmitTaskResponse(task=PENDING))
    file = tmp_path / "payload"
    file.write_bytes(b"\x00\xff")
    run("tasks", "submit", "-c", "a", "--payload", f"@{file}")
    assert daemon.last("SubmitTask").payload == b"\x00\xff"
    run("tasks", "submit", "-c", "a", "--payload", "-", input=b"piped")
    assert daemon.last("SubmitTask").payload == b"piped"


def test_a_payload_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="No such file"):
        read_payload(f"@{tmp_path / 'nothing'}")
    with pytest.raises(WrongInput, match="262,144 bytes"):
        read_payload("x" * (MAX_PAYLOAD + 1))


def test_a_wait_prints_the_result_as_it_came(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("SubmitTask", pb.SubmitTaskResponse(task=PENDING))
    daemon.streams("FollowTasks", follows(PENDING, RUNNING, DONE))
    daemon.says("GetTask", pb.GetTaskResponse(task=DONE, result=b"\xe2\x82\xac\xff"))
    result = run("tasks", "submit", "--agent", "writer", "--wait")
    assert result.stdout_bytes == b"\xe2\x82\xac\xff"


def test_a_wait_for_a_task_that_fails_is_1(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("SubmitTask", pb.SubmitTaskResponse(task=PENDING))
    daemon.streams("FollowTasks", follows(LOST))
    daemon.says("GetTask", pb.GetTaskResponse(task=LOST))
    result = run("tasks", "submit", "--agent", "writer", "--wait", code=1)
    assert "t1: FAILED (ATTEMPTS_EXHAUSTED: no idea)" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "--kind", "k"], "say who may take it"),
        (["submit", "--agent", "a", "--on-drain", "explode"], "is none of REQUEUE, FAIL, EXTEND"),
        (["submit", "--agent", "a", "--deadline", "soon"], "is not a duration"),
        (["list", "--state", "asleep"], "is none of PENDING, ASSIGNED, RUNNING"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    daemon: ScriptedDaemon, run: Run, arguments: list[str], message: str
) -> None:
    assert message in " ".join(run("tasks", *arguments, code=2).stderr.split())
    assert daemon.asked == []


def test_tasks_are_listed_page_by_page(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says(
        "ListTasks",
        pb.ListTasksResponse(tasks=[RUNNING], next_page_token="more", total_size=3),  # noqa: S106 - a page
        pb.ListTasksResponse(tasks=[LOST], total_size=3),
    )
    result = run("tasks", "list", "--state", "running", "--state", "failed", "--agent", "writer")
    assert "ATTEMPTS_EXHAUSTED: no idea" in result.stdout
    assert "2 of 3 tasks" in result.stderr
    asked = daemon.last("ListTasks")
    assert list(asked.states) == [pb.TASK_STATE_RUNNING, pb.TASK_STATE_FAILED]
    assert (asked.agent_name, asked.page_token) == ("writer", "more")


def test_nothing_found_is_no_error(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("ListTasks", pb.ListTasksResponse())
    assert "No task matches" in run("tasks", "list").stderr
    assert json.loads(run("tasks", "list", "-o", "json").stdout)["tasks"] == []


def test_a_task_is_shown_with_its_leases_and_what_it_carries(
    daemon: ScriptedDaemon, run: Run
) -> None:
    hops = [
        pb.TaskHop(
            epoch=1,
            instance_id="i0",
            assigned_at=Timestamp(seconds=1000),
            ended_at=Timestamp(seconds=1005),
            reason=pb.TASK_REASON_LEASE_LOST,
        ),
        pb.TaskHop(epoch=2, instance_id="i1", reason=pb.TASK_REASON_UNSPECIFIED),
    ]
    shown = task("t1", pb.TASK_STATE_SUCCEEDED, hops=hops, hop_count=4, payload_bytes=6)
    daemon.says("GetTask", pb.GetTaskResponse(task=shown, payload=b"a text", result=b"\xff"))
    text = run("tasks", "get", "t1", "--data").stdout
    for part in ("LEASE_LOST", "5.0s", "SUCCESS", "2 older leases", "PAYLOAD\na text", "not text"):
        assert part in text
    assert daemon.last("GetTask").include_data
    assert json.loads(run("tasks", "get", "t1", "-o", "json").stdout)["hop_count"] == 4


def test_content_cannot_steer_the_terminal() -> None:
    assert readable(b"two\nlines") == "two\nlines"
    assert readable(b"\x1b[2J") == "(4 bytes that are not printable)"


def test_tasks_are_followed_to_their_ends(daemon: ScriptedDaemon, run: Run) -> None:
    other = task("t2", pb.TASK_STATE_SUCCEEDED)
    daemon.streams("FollowTasks", follows(PENDING, other, RUNNING, DONE))
    lines = run("tasks", "follow", "t1", "t2", "t1").stdout.splitlines()
    assert [line.split()[1:3] for line in lines] == [
        ["PENDING", "t1"],
        ["SUCCEEDED", "t2"],
        ["RUNNING", "t1"],
        ["SUCCEEDED", "t1"],
    ]
    values = [
        json.loads(one)
        for one in run("tasks", "follow", "t1", "t2", "-o", "json").stdout.splitlines()
    ]
    assert [one["task_id"] for one in values] == ["t1", "t2", "t1", "t1"]
    assert list(daemon.last("FollowTasks").task_ids) == ["t1", "t2"]


def test_following_a_task_that_fails_is_1(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.streams("FollowTasks", follows(LOST))
    assert "1 of 1 tasks did not succeed" in run("tasks", "follow", "t1", code=1).stderr


def test_tasks_are_cancelled_each_for_itself(daemon: ScriptedDaemon, run: Run) -> None:
    gone = Refusal(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND", "there is no task t2")
    daemon.answers["CancelTask"] = lambda asked: (
        gone
        if asked.task_id == "t2"
        else pb.CancelTaskResponse(task=pb.Task(task_id=asked.task_id))
    )
    result = run("tasks", "cancel", "t1", "t2", "t3", "--reason", "enough", code=1)
    assert result.stdout == "t1 cancelled\nt3 cancelled\nt2 there is no task t2\n"
    assert "1 of 3 tasks" in result.stderr
    assert daemon.last("CancelTask").reason == "enough"
    assert "tasks list" in run("tasks", "cancel", "t2", code=1).stderr
