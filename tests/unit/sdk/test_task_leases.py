"""Leases of tasks: fenced, revoked, resumed; nothing is run twice, nothing stale is written."""

import asyncio
import threading

import grpc

from fleetplane import (
    Agent,
    FleetClient,
    LeaseFenced,
    TaskContext,
    TaskState,
)
from fleetplane.v1 import task_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane, Refusal
from tests.fakes.fleet_server import FleetServer
from tests.fakes.fleet_tasks import TaskDesk


def make_agent(client: FleetClient) -> Agent:
    return Agent("worker", "1.0.0", client=client, max_concurrency=4, drain_timeout=5.0)


def reached(desk: TaskDesk, task_id: str, state: TaskState) -> bool:
    return desk.state(task_id) == state.value


async def ended(plane: Plane, desk: TaskDesk, task_id: str, state: TaskState) -> None:
    await plane.until(lambda: reached(desk, task_id, state))


async def test_a_lease_that_is_fenced_cancels_the_handler_and_nothing_is_written(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    cancelled, fenced = asyncio.Event(), asyncio.Event()
    refused: list[str] = []

    @agent.task
    async def handle(task: TaskContext) -> str:
        try:
            while True:
                try:
                    await task.progress(0.1)
                except LeaseFenced as error:
                    refused.append(error.metadata["task_id"])
                    fenced.set()
                    await asyncio.Event().wait()  # a stubborn handler is cancelled all the same
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with agent:
        task_id = desk.put()
        await plane.until(lambda: desk.reports)
        desk.fence(task_id)
        async with asyncio.timeout(5):
            await fenced.wait()
            await cancelled.wait()
        await plane.until(lambda: plane.latest[agent.instance_id].in_flight == 0)
    assert not desk.failures
    assert not desk.results
    assert agent.work.failed == 0
    assert refused == [task_id]


async def test_a_result_after_the_lease_has_ended_is_thrown_away(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    finish = asyncio.Event()

    @agent.task
    async def handle(_: TaskContext) -> str:
        await finish.wait()
        return "too late"

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.RUNNING)
        desk.fence(task_id)
        finish.set()
        await plane.until(lambda: plane.calls["CompleteTask"] == 1)
    assert not desk.results
    assert plane.calls["FailTask"] == 0


async def test_a_revoked_task_is_cancelled(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    seen: list[TaskContext] = []
    looked = threading.Event()

    @agent.task
    async def handle(task: TaskContext) -> None:
        seen.append(task)
        await asyncio.Event().wait()

    @agent.task("thread")
    def blocking(task: TaskContext) -> str:
        seen.append(task)
        while not task.cancelled.is_set():
            looked.wait(0.01)
        return "ended by looking"

    async with agent:
        tasks = [desk.put(), desk.put("thread")]
        await plane.until(lambda: len(seen) == 2)
        for task_id in tasks:
            desk.revoke(task_id)
        await plane.until(lambda: plane.latest[agent.instance_id].in_flight == 0)
        assert all(task.cancelled.is_set() for task in seen)
    assert not desk.results
    assert not desk.failures


async def test_a_reconnect_neither_repeats_nor_loses_a_task(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    finish, begun = asyncio.Event(), 0

    @agent.task
    async def handle(_: TaskContext) -> str:
        nonlocal begun
        begun += 1
        await finish.wait()
        return "once"

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.RUNNING)
        plane.send_everybody_away()
        await plane.until(lambda: plane.opened["WatchTasks"] == 2 and desk.listening)
        another = desk.put()
        await ended(plane, desk, another, TaskState.RUNNING)
        finish.set()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
        await ended(plane, desk, another, TaskState.SUCCEEDED)
    assert begun == 2
    assert not desk.failures


async def test_a_lease_that_was_lost_during_an_interruption_is_called_off(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    cancelled: list[str] = []

    @agent.task
    async def handle(task: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(task.task_id)
            raise

    async with agent:
        lost, held = desk.put(), desk.put()
        await ended(plane, desk, lost, TaskState.RUNNING)
        await ended(plane, desk, held, TaskState.RUNNING)
        desk.fence(lost)  # it hears of this neither on the old stream nor on the new one
        plane.send_everybody_away()
        await plane.until(lambda: cancelled)
        assert cancelled == [lost]
        assert agent.work.in_flight == 1
        assert not desk.failures


async def test_a_task_resumes_after_the_plane_was_away(
    server: FleetServer, client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    finish, begun = asyncio.Event(), 0

    @agent.task
    async def handle(_: TaskContext) -> str:
        nonlocal begun
        begun += 1
        await finish.wait()
        return "survived"

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.RUNNING)
        await server.stop()
        finish.set()
        await server.start()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
    assert begun == 1


async def test_a_resumed_task_that_does_not_run_here_is_given_back(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    async def handle(_: TaskContext) -> str:
        return "by the successor"

    task_id = desk.put()
    desk.assigning = False
    desk.give(task_id, "the-instance")
    desk.tasks[task_id].attempts = 1
    desk.move(task_id, task_service_pb2.TASK_STATE_RUNNING)
    async with Agent("worker", "1.0.0", client=client, instance_id="the-instance") as agent:
        agent.task(handle)
        await plane.until(lambda: desk.failures)
        assert desk.failures[0].release
        assert not desk.accepted
        desk.assigning = True
        desk.assign()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)


async def test_a_task_that_comes_back_waits_for_its_old_handler(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)
    running = most = 0
    release = asyncio.Event()

    @agent.task
    async def handle(task: TaskContext) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            if task.task.epoch == 1:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
            raise
        finally:
            running -= 1
        return "second lease"

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.RUNNING)
        desk.revoke(task_id, task_service_pb2.TASK_STATE_PENDING)
        await plane.until(lambda: reached(desk, task_id, TaskState.ASSIGNED))
        release.set()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
    assert most == 1


async def test_an_instance_that_registers_again_listens_with_its_new_generation(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        pass

    async with agent:
        await plane.until(lambda: desk.listening)
        plane.instances.clear()
        await plane.until(lambda: len(desk.generations) == 2)
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
        assert desk.generations[1] == agent.generation > desk.generations[0]


async def test_a_replica_that_does_not_know_the_instance_yet_is_asked_again(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    missing = Refusal(grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")
    plane.failures["WatchTasks"].extend([missing, UNAVAILABLE])
    agent = make_agent(client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        pass

    async with agent:
        task_id = desk.put()
        await ended(plane, desk, task_id, TaskState.SUCCEEDED)
    assert plane.calls["WatchTasks"] == 3
