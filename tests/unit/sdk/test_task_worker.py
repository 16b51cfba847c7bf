"""Agents that take tasks: what they run and report, and when they take none."""

import asyncio
import threading

import grpc
import pytest

from fleetplane import (
    Agent,
    AgentState,
    FleetClient,
    TaskContext,
    TaskRejected,
    TaskState,
)
from fleetplane.v1 import registry_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane, Refusal
from tests.fakes.fleet_tasks import TaskDesk

Command = registry_service_pb2.Command


def make_agent(client: FleetClient, *, slots: int = 4) -> Agent:
    return Agent("worker", "1.0.0", client=client, max_concurrency=slots, drain_timeout=5.0)


def reached(desk: TaskDesk, task_id: str, state: TaskState) -> bool:
    return desk.state(task_id) == state.value


async def ended(plane: Plane, desk: TaskDesk, task_id: str, state: TaskState) -> None:
    await plane.until(lambda: reached(desk, task_id, state))


async def test_handlers_get_their_kind_and_their_results_arrive(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    in_flight: list[int] = []

    @agent.task("shout")
    async def shout(task: TaskContext) -> str:
        in_flight.append(agent.work.in_flight)
        assert task.attempt == 1
        assert task.deadline is None
        return task.payload.decode().upper()

    @agent.task
    def count(task: TaskContext) -> dict[str, int]:
        assert threading.current_thread() is not threading.main_thread()
        return {task.kind: len(task.json())}

    async with agent:
        loud = desk.put("shout", b"hello")
        other = desk.put("other", b"[1, 2]")
        silent = desk.put("shout")
        for task_id in (loud, other, silent):
            await ended(plane, desk, task_id, TaskState.SUCCEEDED)
        await plane.until(lambda: plane.latest[agent.instance_id].completed == 3)
    assert desk.results == {loud: b"HELLO", other: b'{"other":2}', silent: b""}
    assert min(in_flight) >= 1
    assert agent.work.in_flight == 0
    assert desk.generations == [agent.generation]


async def test_a_handler_registered_while_the_agent_runs_begins_to_listen(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    async with make_agent(client) as agent:
        task_id = desk.put()
        assert not plane.opened["WatchTasks"]

        @agent.task
        async def handle(_: TaskContext) -> None:
            pass

        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
        with pytest.raises(ValueError, match="already"):
            agent.task(handle)


async def test_no_more_handlers_run_than_the_agent_declares(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client, slots=2)
    running, most, gate = 0, 0, asyncio.Event()

    @agent.task
    async def handle(_: TaskContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    async with agent:
        tasks = [desk.put() for _ in range(5)]  # this plane does not know the limit
        await plane.until(lambda: running == 2)
        gate.set()
        for task_id in tasks:
            await ended(plane, desk, task_id, TaskState.SUCCEEDED)
    assert most == 2


async def test_an_exception_is_retried_and_a_rejection_is_final(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    attempts: list[int] = []

    @agent.task("flaky")
    async def flaky(task: TaskContext) -> str:
        attempts.append(task.attempt)
        if task.attempt < 3:
            raise KeyError("x" * 3000)
        return "done"

    @agent.task("strict")
    async def strict(task: TaskContext) -> str:
        return str(task.json())

    @agent.task("odd")
    async def odd(_: TaskContext) -> object:
        return object()

    async with agent:
        first, second, third = desk.put("flaky"), desk.put("strict", b"{"), desk.put("odd")
        await ended(plane, desk, first, TaskState.SUCCEEDED)
        await ended(plane, desk, second, TaskState.FAILED)
        await ended(plane, desk, third, TaskState.FAILED)
        fourth = desk.put("nobody knows")
        await ended(plane, desk, fourth, TaskState.FAILED)
    assert attempts == [1, 2, 3]
    details = {one.lease.task_id: one for one in desk.failures}
    assert details[first].detail.startswith("KeyError: 'xxx")
    assert len(details[first].detail) == 1024
    assert not details[first].permanent
    assert details[second].permanent
    assert "payload is no JSON" in desk.tasks[second].detail
    assert "result cannot be sent" in desk.tasks[third].detail
    assert "no handler for tasks of kind" in desk.tasks[fourth].detail
    assert desk.tasks[fourth].attempts == 3, "another instance may know it"


async def test_progress_and_checkpoints_reach_the_successor(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(task: TaskContext) -> bytes:
        if not task.checkpoint:
            await task.progress(0.5, "half", checkpoint={"page": 3})
            raise RuntimeError("crash")
        await task.progress(0.9)
        return task.checkpoint

    @agent.task("thread")
    def blocking(task: TaskContext) -> str:
        task.progress_blocking(0.25, checkpoint="here")
        return "ok"

    async with agent:
        first, second = desk.put(), desk.put("thread")
        await ended(plane, desk, first, TaskState.SUCCEEDED)
        await ended(plane, desk, second, TaskState.SUCCEEDED)
    assert desk.results[first] == b'{"page":3}'
    assert desk.checkpoints[second] == b"here"
    reports = [one for one in desk.reports if one.lease.task_id == first]
    assert [one.progress for one in reports] == [0.5, 0.9]
    assert not reports[1].HasField("checkpoint")


async def test_a_completion_is_repeated_while_the_store_is_away(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> str:
        return "at last"

    plane.failures["AcceptTask"].append(UNAVAILABLE)
    plane.failures["CompleteTask"].extend([UNAVAILABLE] * 5)
    plane.failures["CompleteTask"].append(Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, ""))
    plane.failures["CompleteTask"].append(Refusal(grpc.StatusCode.UNAUTHENTICATED, ""))
    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
    assert desk.results[task_id] == b"at last"
    assert desk.accepted == [(task_id, 1)]


async def test_a_result_that_is_refused_fails_the_task_for_good(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> str:
        return "too large"

    plane.failures["CompleteTask"].append(
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "result has many bytes")
    )
    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.FAILED)
    assert desk.tasks[task_id].detail == "the result was refused: result has many bytes"


async def test_a_drain_by_the_plane_gives_back_and_a_resume_takes_again(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        pass

    async with agent:
        await plane.until(lambda: desk.listening)
        drain = Command(instance_id=agent.instance_id, kind=Command.KIND_DRAIN)
        plane.commands.append(drain)
        await plane.until(lambda: agent.state is AgentState.DRAINING)
        desk.draining.add(agent.instance_id)
        task_id = desk.put()
        desk.give(task_id, agent.instance_id)  # assigned before the plane knew of the drain
        await plane.until(lambda: desk.failures)
        assert desk.failures[0].release
        await client.cancel_drain(instance_id=agent.instance_id)
        await plane.until(lambda: agent.may_work)
        desk.assign()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)


async def test_an_agent_that_was_activated_again_takes_a_task_before_its_next_beat(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        pass

    async with agent:
        await plane.until(lambda: desk.listening)
        plane.outcomes[agent.instance_id] = registry_service_pb2.BeatResult.OUTCOME_INACTIVE
        await plane.until(lambda: agent.state is AgentState.INACTIVE)
        plane.interval = 30.0
        beats = len(plane.beats)
        await plane.until(lambda: len(plane.beats) > beats)
        plane.outcomes.clear()
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
    assert not desk.failures


async def test_a_fenced_agent_throws_its_work_away(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    cancelled = asyncio.Event()

    @agent.task
    async def handle(_: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.RUNNING)
        plane.instances[agent.instance_id].generation += 1
        async with asyncio.timeout(5):
            assert await agent.wait_ended() is AgentState.FENCED
            await cancelled.wait()
        await plane.until(lambda: not desk.listening)
    assert not desk.failures


async def test_a_rejection_says_why(client: FleetClient, plane: Plane, desk: TaskDesk) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        raise TaskRejected("not in this language")

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.FAILED)
    assert desk.tasks[task_id].detail == "not in this language"
