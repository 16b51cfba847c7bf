"""Submitting tasks and waiting for them, and the calls of operators."""

import asyncio
from datetime import timedelta

import pytest

from fleetplane import (
    Agent,
    AnalysisKind,
    DeadlineExceeded,
    DrainAction,
    FailedPrecondition,
    FleetClient,
    FleetError,
    InvalidArgument,
    NotFound,
    OnInconclusive,
    Reason,
    RolloutAnalysis,
    RolloutPhase,
    RolloutPlan,
    RolloutStep,
    TaskCancelled,
    TaskContext,
    TaskFailed,
    TaskReason,
    TaskRejected,
    TaskState,
    TaskSubmission,
)
from fleetplane.v1 import rollout_service_pb2, task_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane
from tests.fakes.fleet_server import FleetServer
from tests.fakes.fleet_tasks import TaskDesk


async def test_a_task_is_submitted_with_everything_that_was_said(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    plane.failures["SubmitTask"].append(UNAVAILABLE)
    task = await client.submit_task(
        "summarize",
        {"text": "ä"},
        capabilities="summarize",
        agent_name="worker",
        session_id="s",
        submitter="me",
        max_attempts=5,
        deadline=timedelta(minutes=1),
        attempt_timeout=2.5,
        on_drain=DrainAction.EXTEND,
    )
    spec = desk.tasks[task.task_id].spec
    assert (spec.kind, spec.agent_name, list(spec.capabilities)) == (
        "summarize",
        "worker",
        ["summarize"],
    )
    assert (spec.session_id, spec.submitter, spec.max_attempts) == ("s", "me", 5)
    assert (spec.deadline.seconds, spec.attempt_timeout.nanos) == (60, 500_000_000)
    assert spec.on_drain == task_service_pb2.DRAIN_ACTION_EXTEND
    assert desk.payloads[task.task_id] == '{"text":"ä"}'.encode()
    assert len(set(plane.request_ids)) == 1
    assert len(desk.tasks) == 1


async def test_a_field_that_a_task_does_not_have_is_refused(client: FleetClient) -> None:
    with pytest.raises(TypeError, match="no field priority"):
        await client.submit_task("x", priority=3)  # type: ignore[call-arg]  # the point
    with pytest.raises(InvalidArgument) as caught:
        await client.submit_task("x")
    assert caught.value.violations[0].field == "spec.agent_name"


async def test_each_task_of_a_batch_stands_for_itself(client: FleetClient, desk: TaskDesk) -> None:
    good, bad = await client.submit_tasks(
        [TaskSubmission(kind="a", agent_name="worker", payload=b"1"), TaskSubmission(kind="b")]
    )
    assert isinstance(good, task_service_pb2.Task)
    assert desk.payloads[good.task_id] == b"1"
    assert isinstance(bad, InvalidArgument)


async def test_a_task_is_run_to_its_result(client: FleetClient, plane: Plane) -> None:
    agent = Agent("worker", "1.0.0", client=client)

    @agent.task("double")
    async def double(task: TaskContext) -> int:
        return int(task.json()) * 2

    @agent.task("refuse")
    async def refuse(_: TaskContext) -> None:
        raise TaskRejected("never")

    @agent.task("hang")
    async def hang(_: TaskContext) -> None:
        await asyncio.Event().wait()

    async with agent:
        assert await client.run_task("double", 21, agent_name="worker") == b"42"
        with pytest.raises(TaskFailed) as failed:
            await client.run_task("refuse", agent_name="worker")
        assert failed.value.task_reason is TaskReason.AGENT_REFUSED
        assert failed.value.detail == "never"
        assert "failed with AGENT_REFUSED: never" in str(failed.value)
        with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.1 s"):
            await client.run_task("hang", agent_name="worker", wait=0.1, request_id="one")
        task = await client.submit_task("hang", agent_name="worker", request_id="one")
        waiting = asyncio.create_task(client.task_result(task.task_id))
        await plane.until(lambda: plane.streams["FollowTasks"])
        cancelled = await client.cancel_task(task.task_id, reason="enough")
        assert TaskState(cancelled.state) is TaskState.CANCELLED
        with pytest.raises(TaskCancelled) as gone:
            await waiting
        assert gone.value.detail == "enough"


async def test_following_survives_interruptions_and_ends_with_the_last_task(
    server: FleetServer, client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    first, second = desk.put(), desk.put()
    seen: list[tuple[str, TaskState]] = []
    async with asyncio.timeout(10), client.follow_tasks([first, second]) as watch:
        async for task in watch:
            seen.append((task.task_id, TaskState(task.state)))
            match len(seen):
                case 2:
                    desk.move(first, task_service_pb2.TASK_STATE_SUCCEEDED)
                case 3:
                    assert watch.pending == (second,)
                    plane.send_everybody_away()
                    desk.move(second, task_service_pb2.TASK_STATE_RUNNING)
                case 4:
                    await server.restart()
                    desk.move(second, task_service_pb2.TASK_STATE_FAILED)
    assert seen == [
        (first, TaskState.PENDING),
        (second, TaskState.PENDING),
        (first, TaskState.SUCCEEDED),
        (second, TaskState.RUNNING),
        (second, TaskState.FAILED),
    ]
    assert plane.opened["FollowTasks"] >= 2, "once more after the restart, at least"
    assert [task async for task in client.follow_tasks([])] == []
    with pytest.raises(NotFound) as caught:
        await anext(client.follow_tasks(["nobody"]))
    assert caught.value.reason is Reason.TASK_NOT_FOUND


async def test_tasks_are_read_and_listed_page_by_page(client: FleetClient, desk: TaskDesk) -> None:
    ids = [desk.put(payload=b"p") for _ in range(5)]
    desk.move(ids[0], task_service_pb2.TASK_STATE_FAILED)
    assert [task.task_id async for task in client.list_tasks(page_size=2)] == ids
    failed = [task.task_id async for task in client.list_tasks(states=[TaskState.FAILED])]
    assert failed == ids[:1]
    assert (await client.get_task(ids[1])).payload == b""
    assert (await client.get_task(ids[1], include_data=True)).payload == b"p"


async def test_operators_move_agents(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("a")
    assert (await client.deactivate("a", "night")).agent.status_reason == "night"
    assert (await client.activate("a", confirm_pending=True)).agent_id == "a"
    assert (await client.decommission("a", force=True)).instances_removed == 1
    drain = await client.drain(instance_id="i", deadline=30)
    assert drain.safe_to_stop
    assert (await client.get_drain(instance_id="i", wait=20)).instance_id == "i"
    assert (await client.cancel_drain(instance_id="i")).instance_id == "i"
    for call, reason in (
        (client.activate("nobody"), Reason.AGENT_NOT_FOUND),
        (client.get_drain(instance_id="j"), Reason.DRAIN_NOT_FOUND),
        (client.get_emergency_stop("s"), Reason.STOP_NOT_FOUND),
        (client.get_route("a"), Reason.ROUTE_NOT_FOUND),
        (client.get_rollout("r"), Reason.ROLLOUT_NOT_FOUND),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason is reason


async def test_routes_are_set_read_listed_and_removed(client: FleetClient) -> None:
    route = await client.set_route("a", {"2.0.0": 1_000, "1.0.0": 9_000}, reason="try")
    assert [(one.version, one.weight_bp) for one in route.shares] == [
        ("2.0.0", 1_000),
        ("1.0.0", 9_000),
    ]
    await client.set_route("b", {"1.0.0": 10_000})
    assert (await client.get_route("a")).reason == "try"
    assert [one.agent_name async for one in client.list_routes(page_size=1)] == ["a", "b"]
    assert await client.delete_route("a") == 9
    assert await client.delete_route("a") == 0


async def test_a_rollout_is_started_commanded_and_watched_to_its_end(
    server: FleetServer, client: FleetClient, plane: Plane
) -> None:
    plan = RolloutPlan(
        steps=[500, RolloutStep(weight_bp=10_000, pause_after=True)],
        analysis=RolloutAnalysis(kind=AnalysisKind.THRESHOLD, max_error_rate=0.1),
        observe=30,
        on_inconclusive=OnInconclusive.ROLLBACK,
    )
    started = await client.start_rollout("a", "2.0.0", plan=plan)
    rollout_id = started.rollout_id
    assert [one.weight_bp for one in started.plan.steps] == [500, 10_000]
    assert started.plan.steps[1].pause_after
    assert started.plan.observe.seconds == 30
    assert not started.plan.HasField("max_dwell")
    assert not started.plan.analysis.HasField("alpha")
    phases: list[RolloutPhase] = []
    async with asyncio.timeout(10):
        async for rollout in client.watch_rollout(agent_name="a"):
            phases.append(RolloutPhase(rollout.phase))
            match len(phases):
                case 1:
                    await client.pause_rollout(rollout_id, reason="wait")
                case 2:
                    await client.retry_rollout(rollout_id)  # by name it would be this one now
                    plane.send_everybody_away()
                    await client.resume_rollout(rollout_id)
                case 3:
                    done = rollout_service_pb2.ROLLOUT_PHASE_SUCCEEDED
                    server.rollouts.move(rollout_id, done)
    assert phases == [
        RolloutPhase.PENDING,
        RolloutPhase.PAUSED,
        RolloutPhase.PROGRESSING,
        RolloutPhase.SUCCEEDED,
    ]
    assert plane.opened["WatchRollout"] >= 2
    assert (await client.promote_rollout(rollout_id, expected_step_index=0)).step_index == 1
    aborted = await client.abort_rollout(rollout_id, reason="no")
    assert RolloutPhase(aborted.phase) is RolloutPhase.ABORTING
    assert (await client.get_rollout(agent_name="a")).retry_of == rollout_id
    listed = client.list_rollouts(phases=[RolloutPhase.ABORTING], page_size=1)
    assert [one.rollout_id async for one in listed] == [rollout_id]


async def test_discovery_passes_the_route_and_the_session_on(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("a")
    found = client.discover(route=True, session_id="s", include_draining=True)
    assert [one.agent_id async for one in found] == ["a"]
    request = plane.discovered[-1]
    assert (request.route, request.session_id, request.include_draining) == (True, "s", True)


def test_a_task_that_failed_is_a_fleet_error() -> None:
    error = TaskFailed(task_service_pb2.Task(task_id="t", state=task_service_pb2.TASK_STATE_FAILED))
    assert isinstance(error, FleetError)
    assert not isinstance(error, FailedPrecondition)
    assert str(error) == "task t failed with UNSPECIFIED"
