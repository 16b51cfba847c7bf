"""Agents that leave: without losing work when they may take their time, at once when they must."""

import asyncio
import os
import signal
import sys
import threading

import pytest

from fleetplane import Agent, AgentState, ChannelConfig, FleetClient, TaskContext, TaskState
from fleetplane.v1 import registry_service_pb2, task_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane
from tests.fakes.fleet_server import FleetServer
from tests.fakes.fleet_tasks import TaskDesk

WORKER = """
import asyncio, sys
from fleetplane import Agent, TaskContext

agent = Agent("worker", "1.0.0", target=sys.argv[1])
listening = asyncio.Event()

@agent.task
async def handle(task: TaskContext) -> str:
    await listening.wait()
    print("begun", flush=True)
    while not task.payload:
        await asyncio.sleep(0.01)
        if agent.state == "draining":
            return "finished while draining"

async def main() -> None:
    async with agent:
        stopping = asyncio.create_task(agent.run_until_stopped())
        await asyncio.sleep(0)  # from here on it hears signals
        listening.set()
        print("ended by", (await stopping).name, flush=True)

asyncio.run(main())
"""


async def running(plane: Plane, desk: TaskDesk, task_id: str) -> None:
    await plane.until(lambda: desk.state(task_id) == TaskState.RUNNING.value)


async def test_leaving_lets_tasks_finish_and_waits_for_the_word_of_the_plane(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    finish, states = asyncio.Event(), list[AgentState]()
    agent = Agent("worker", "1.0.0", client=client, on_state=lambda one, _: states.append(one))

    @agent.task
    async def handle(_: TaskContext) -> str:
        await finish.wait()
        return "in peace"

    async with agent:
        task_id = desk.put()
        await running(plane, desk, task_id)
        leaving = asyncio.create_task(agent.drain())
        await plane.until(lambda: agent.instance_id in desk.draining)
        assert not agent.may_work
        late = desk.put()
        finish.set()
        await leaving
    assert desk.results == {task_id: b"in peace"}
    assert desk.state(late) == TaskState.PENDING.value
    assert states[-2:] == [AgentState.DRAINING, AgentState.CLOSED]
    assert plane.calls["Drain"] == plane.calls["GetDrain"] == 1
    assert plane.beats[-1].goodbye


async def test_an_agent_without_handlers_just_says_goodbye(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("worker", "1.0.0", client=client):
        pass
    assert plane.calls["Drain"] == 0
    assert plane.beats[-1].goodbye


async def test_what_is_not_done_at_the_deadline_is_given_back_by_its_class(
    client: FleetClient, plane: Plane, desk: TaskDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetplane._leaving.DECISION", 0.05)
    agent = Agent("worker", "1.0.0", client=client, max_concurrency=2, drain_timeout=0.05)

    @agent.task
    async def handle(task: TaskContext) -> None:
        await task.progress(0.5, checkpoint="half")
        await asyncio.Event().wait()

    async with agent:
        again = desk.put()
        never = desk.put(on_drain=task_service_pb2.DRAIN_ACTION_FAIL)
        await plane.until(lambda: len(desk.checkpoints) == 2)
    assert desk.state(again) == TaskState.PENDING.value
    assert desk.checkpoints[again] == b"half"
    assert desk.tasks[again].attempts == 0
    assert desk.state(never) == TaskState.FAILED.value, "it must not be started twice"
    assert agent.work.in_flight == 0


async def test_a_task_that_has_not_begun_is_given_back_whatever_its_class(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = Agent("worker", "1.0.0", client=client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        raise AssertionError("it was never accepted")

    async with agent:
        plane.failures["AcceptTask"].extend([UNAVAILABLE] * 1000)
        task_id = desk.put(on_drain=task_service_pb2.DRAIN_ACTION_FAIL)
        await plane.until(lambda: plane.calls["AcceptTask"])
        desk.assigning = False
        await agent.drain(0.0)
    assert desk.state(task_id) == TaskState.PENDING.value


async def test_an_exception_gives_everything_back_at_once(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = Agent("worker", "1.0.0", client=client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        await asyncio.Event().wait()

    async def crash() -> None:
        async with agent:
            await running(plane, desk, desk.put())
            raise KeyError("defect")

    with pytest.raises(KeyError):
        await crash()
    assert desk.failures[0].release
    assert plane.calls["Drain"] == 0
    assert plane.beats[-1].goodbye


async def test_a_result_that_comes_in_spite_of_the_end_is_not_lost(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = Agent("worker", "1.0.0", client=client)

    @agent.task
    def handle(task: TaskContext) -> str:
        pause = threading.Event()
        while not task.cancelled.is_set():
            pause.wait(0.01)
        return "what there is"

    async with agent:
        task_id = desk.put()
        await plane.until(lambda: agent.work.in_flight)
        await agent.drain(0.0)
    assert desk.results[task_id] == b"what there is"


async def test_an_agent_drains_by_itself_while_the_plane_is_away(
    server: FleetServer, plane: Plane, desk: TaskDesk
) -> None:
    agent = Agent(
        "worker",
        "1.0.0",
        target=server.target,
        channel_config=ChannelConfig(default_timeout=0.2, max_reconnect_backoff=0.2),
        stop_timeout=0.2,
    )
    finish = asyncio.Event()

    @agent.task
    async def handle(_: TaskContext) -> str:
        await finish.wait()
        return "after all"

    async with agent:
        task_id = desk.put()
        await running(plane, desk, task_id)
        await server.stop()
        leaving = asyncio.create_task(agent.drain())
        finish.set()
        await asyncio.sleep(0)
        await server.start()
        async with asyncio.timeout(10):
            await leaving
    assert desk.results[task_id] == b"after all"


async def test_a_second_signal_gives_back_what_still_runs(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = Agent("worker", "1.0.0", client=client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        await asyncio.Event().wait()

    async with agent:
        task_id = desk.put()
        await running(plane, desk, task_id)
        stopping = asyncio.create_task(agent.run_until_stopped(signal.SIGUSR1))
        await asyncio.sleep(0)  # it has to begin before it hears anything
        os.kill(os.getpid(), signal.SIGUSR1)
        await plane.until(lambda: plane.calls["Drain"])
        assert not desk.failures
        os.kill(os.getpid(), signal.SIGUSR1)
        async with asyncio.timeout(5):
            assert await stopping is signal.SIGUSR1
    assert desk.failures[0].release


async def test_a_handler_that_does_not_end_is_waited_for_once(
    client: FleetClient, plane: Plane, desk: TaskDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fleetplane._leaving.DECISION", "fleetplane._leaving.RELEASE"):
        monkeypatch.setattr(name, 0.05)
    monkeypatch.setattr("fleetplane._task_worker.WIND_DOWN", 0.05)
    agent = Agent("worker", "1.0.0", client=client, drain_timeout=0.05)
    may_end = threading.Event()

    @agent.task
    def handle(_: TaskContext) -> None:
        may_end.wait(10)

    async with agent:
        await running(plane, desk, desk.put())
        await plane.until(lambda: agent.work.in_flight)
        stopping = asyncio.create_task(agent.run_until_stopped(signal.SIGUSR1))
        await asyncio.sleep(0)  # it has to begin before it hears anything
        os.kill(os.getpid(), signal.SIGUSR1)
        async with asyncio.timeout(5):
            await stopping
    left = [one for one in asyncio.all_tasks() if one.get_name().startswith("fleetplane-task")]
    may_end.set()
    await asyncio.wait(left, timeout=5)
    assert plane.calls["Drain"] == 1
    assert plane.beats[-1].goodbye


async def test_a_signal_does_afterwards_what_it_did_before(client: FleetClient) -> None:
    def own(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGUSR1, own)
    try:
        async with Agent("worker", "1.0.0", client=client) as agent:
            stopping = asyncio.create_task(agent.run_until_signal(signal.SIGUSR1))
            await asyncio.sleep(0)  # it has to begin before it hears anything
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await stopping is signal.SIGUSR1
        assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_running_until_stopped_ends_with_the_agent(client: FleetClient, plane: Plane) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        plane.outcomes[agent.instance_id] = registry_service_pb2.BeatResult.OUTCOME_GONE
        async with asyncio.timeout(5):
            assert await agent.run_until_stopped() is AgentState.GONE


async def test_a_process_that_is_told_to_terminate_finishes_its_task_first(
    server: FleetServer, plane: Plane, desk: TaskDesk
) -> None:
    task_id = desk.put()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, server.target, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"begun\n"
            process.send_signal(signal.SIGTERM)
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert out == b"ended by SIGTERM\n"
    assert desk.results[task_id] == b"finished while draining"
    assert plane.calls["Drain"] == 1
    assert plane.beats[-1].goodbye
    assert not plane.instances


async def test_an_emergency_stop_is_acknowledged_once_nothing_runs(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    plane.interval = 0.2
    agent = Agent("worker", "1.0.0", client=client, max_concurrency=2)
    cancelled, may_end = asyncio.Event(), asyncio.Event()

    @agent.task
    async def handle(_: TaskContext) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            await may_end.wait()
        return "nobody wants this"

    async with agent:
        task_id = desk.put()
        await running(plane, desk, task_id)
        stopping = asyncio.create_task(client.emergency_stop("runaway", all=True))
        async with asyncio.timeout(5):
            await cancelled.wait()
        beats = len(plane.beats)
        await plane.until(lambda: len(plane.beats) >= beats + 2)
        assert not any(beat.acknowledged_stop for beat in plane.beats)
        assert agent.state is AgentState.INACTIVE
        assert agent.detail in {"says the fake", "runaway"}
        may_end.set()
        stop = await stopping
        assert stop.acknowledged == 1
        assert not agent.may_work
        assert not desk.results
        assert not desk.failures
        plane.outcomes.clear()  # an operator activates it again
        await plane.until(lambda: agent.may_work)
        await plane.until(lambda: not plane.latest[agent.instance_id].acknowledged_stop)


async def test_an_idle_agent_acknowledges_an_emergency_stop_at_once(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        with agent.task():
            stopping = asyncio.create_task(client.emergency_stop("runaway", all=True))
            await plane.until(lambda: agent.state is AgentState.INACTIVE)
            assert not stopping.done(), "work of its own is work, too"
            plane.interval = 60.0
            beats = len(plane.beats)
            await plane.until(lambda: len(plane.beats) > beats)
        async with asyncio.timeout(5):
            assert (await stopping).stop_id == "stop-1"


async def test_a_stop_without_a_number_is_final_and_gives_tasks_back(
    client: FleetClient, plane: Plane, desk: TaskDesk
) -> None:
    agent = Agent("worker", "1.0.0", client=client)

    @agent.task
    async def handle(_: TaskContext) -> None:
        await asyncio.Event().wait()

    async with agent:
        task_id = desk.put()
        await running(plane, desk, task_id)
        kind = registry_service_pb2.Command.KIND_STOP
        plane.commands.append(
            registry_service_pb2.Command(instance_id=agent.instance_id, kind=kind)
        )
        async with asyncio.timeout(5):
            assert await agent.wait_ended() is AgentState.STOPPED
        await plane.until(lambda: desk.failures)
        assert desk.failures[0].release
