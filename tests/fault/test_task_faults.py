"""Agents that die, freeze and come back while they hold tasks; drains that outlive their daemon."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest

from fleetplane import FleetClient
from fleetplane.v1 import task_service_pb2 as pb
from fleetplane.v1 import task_service_pb2_grpc as pb_grpc
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import valkey_server
from tests.fakes.worker_process import Workers, workers

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("task faults"), pytest.mark.timeout(180)]

LEASE_SECONDS: Final = 2.0
"""`degraded_after` of the daemons here: how long an instance may be silent and keep its tasks."""

PULSE: Final = {
    "heartbeat_interval_seconds": 0.3,
    "degraded_after_seconds": LEASE_SECONDS,
    "lost_after_seconds": 30.0,
}


@dataclass
class Scene:
    """A daemon, a client and a crew."""

    daemon: Daemon
    client: FleetClient
    crew: Workers

    async def submit(self, seconds: float, *, steps: int = 1, **options: Any) -> pb.Task:
        payload = json.dumps({"seconds": seconds, "steps": steps}).encode()
        return await self.client.submit_task(agent_name="worker", payload=payload, **options)

    async def state(self, task: pb.Task) -> pb.Task:
        return (await self.client.get_task(task.task_id)).task

    async def runs(self, task: pb.Task, *, on: str = "") -> None:
        async def running() -> bool:
            now = await self.state(task)
            return now.state == pb.TASK_STATE_RUNNING and on in {"", now.instance_id}

        await eventually(f"{task.task_id} runs on {on or 'somebody'}", running)

    async def ends(self, task: pb.Task, within: float = 30.0) -> pb.Task:
        async def ended() -> bool:
            return bool((await self.state(task)).HasField("ended_at"))

        await eventually(f"{task.task_id} has ended", ended, within=within)
        return await self.state(task)


@asynccontextmanager
async def scene(store: str = "embedded") -> AsyncIterator[Scene]:
    with running_daemon(store=store, grace_seconds=1.0, **PULSE) as daemon:
        async with (
            FleetClient(daemon.address) as client,
            workers(daemon.address, "default", daemon.directory / "workers.log") as crew,
        ):
            yield Scene(daemon, client, crew)


async def test_tasks_of_a_killed_agent_go_on_elsewhere_within_the_lease() -> None:
    async with scene() as here:
        first = await here.crew.start("worker", "1.0.0", instance_id="first")
        task = await here.submit(20.0, steps=100)
        await here.runs(task, on="first")

        async def has_checkpoint() -> bool:
            return (await here.state(task)).checkpoint_bytes > 0

        await eventually("there is a checkpoint", has_checkpoint)
        second = await here.crew.start("worker", "1.0.0", instance_id="second")
        first.send(signal.SIGKILL)
        killed_at = time.monotonic()
        await here.runs(task, on="second")
        # The lease, one sweep, and what two busy cores add.
        assert time.monotonic() - killed_at < LEASE_SECONDS + 2.0
        (began,) = second.said("began")
        assert began["checkpoint"] > 0
        assert began["attempt"] == 2
        now = await here.state(task)
        assert [hop.instance_id for hop in now.hops] == ["first"]


async def test_late_writes_of_a_frozen_agent_are_fenced_and_the_successor_stands() -> None:
    async with scene() as here:
        first = await here.crew.start("worker", "1.0.0", instance_id="first")
        tasks = [await here.submit(2.0, steps=2) for _ in range(4)]
        for task in tasks:
            await here.runs(task, on="first")
        first.send(signal.SIGSTOP)
        second = await here.crew.start("worker", "1.0.1", instance_id="second")
        for task in tasks:
            ended = await here.ends(task)
            assert ended.state == pb.TASK_STATE_SUCCEEDED
            assert ended.instance_id == "second"
        before = {task.task_id: (await here.state(task)).revision for task in tasks}
        first.send(signal.SIGCONT)

        async def all_given_up() -> bool:
            return len(first.said("called off")) == len(tasks)

        await eventually("the frozen agent has learnt that its leases have ended", all_given_up)
        for task in tasks:
            await late_writes_are_fenced(here.daemon.address, task.task_id)
        assert {task.task_id: (await here.state(task)).revision for task in tasks} == before
        for task in tasks:
            contents = await here.client.get_task(task.task_id, include_data=True)
            assert contents.result == b"1.0.1:2"
        assert not first.said("finished")
        assert len(second.said("finished")) == len(tasks)


async def late_writes_are_fenced(address: str, task_id: str) -> None:
    """Say everything that a holder can say, with the lease of the frozen agent."""
    lease = pb.TaskLease(task_id=task_id, instance_id="first", epoch=1)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.TaskServiceStub(channel)
        for call in (
            stub.AcceptTask(pb.AcceptTaskRequest(lease=lease)),
            stub.ReportProgress(pb.ReportProgressRequest(lease=lease, checkpoint=b"late")),
            stub.CompleteTask(pb.CompleteTaskRequest(lease=lease, result=b"late")),
            stub.FailTask(pb.FailTaskRequest(lease=lease, detail="late")),
            stub.FailTask(pb.FailTaskRequest(lease=lease, release=True)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "has ended" in (refused.value.details() or "")


async def test_a_long_task_survives_a_deactivation_that_drains() -> None:
    async with scene() as here:
        await here.crew.start("worker", "1.0.0", instance_id="first")
        task = await here.submit(3.0)
        await here.runs(task)
        agent_id = (await here.state(task)).agent_id
        answer = await here.client.deactivate(agent_id, reason="replaced", drain_deadline=6.0)
        assert answer.agent.draining
        late = await here.submit(0.0, max_attempts=1)
        ended = await here.ends(task)
        assert ended.state == pb.TASK_STATE_SUCCEEDED
        assert ended.hop_count == 1

        async def inactive() -> bool:
            agent = await here.client.get_agent(agent_id)
            return agent.status_reason == "replaced"

        await eventually("the agent is inactive", inactive)
        refused = await here.ends(late)
        assert refused.state == pb.TASK_STATE_FAILED
        assert "replaced" in refused.detail


async def test_at_its_deadline_the_class_decides_and_another_daemon_carries_the_drain_on() -> None:
    async with valkey_server() as store, scene(store.url) as here:
        with running_daemon(store=store.url, grace_seconds=1.0, **PULSE) as other:
            target = f"ipv4:{here.daemon.address},{other.address}"
            log = here.daemon.directory / "pair.log"
            async with (
                FleetClient(other.address) as survivor,
                workers(target, "default", log) as crew,
            ):
                await crew.start("worker", "1.0.0", instance_id="first")
                kinds = {"requeue": 1, "fail": 2, "extend": 3}
                tasks = {
                    name: await here.submit(5.0, on_drain=number) for name, number in kinds.items()
                }
                for task in tasks.values():
                    await here.runs(task)
                agent_id = (await here.state(tasks["fail"])).agent_id
                await here.client.drain(agent_id, deadline=2.0, reason="going")
                await asyncio.to_thread(here.daemon.kill)

                async def now(kind: str) -> pb.Task:
                    return (await survivor.get_task(tasks[kind].task_id)).task

                async def decided() -> bool:
                    given_back = (await now("requeue")).state == pb.TASK_STATE_PENDING
                    return given_back and (await now("fail")).state == pb.TASK_STATE_FAILED

                await eventually("the classes have decided", decided)
                assert (await now("fail")).reason == pb.TASK_REASON_DRAINED
                assert (await now("extend")).state == pb.TASK_STATE_RUNNING

                async def drained() -> bool:
                    return bool((await survivor.get_drain(agent_id)).safe_to_stop)

                await eventually("it is safe to stop", drained)
                assert (await now("extend")).state == pb.TASK_STATE_SUCCEEDED
                report = await survivor.get_drain(agent_id)
                assert (report.forced, report.requeued, report.failed) == (True, 1, 1)


async def test_sigterm_drains_an_agent_and_its_work_goes_on_elsewhere() -> None:
    async with scene() as here:
        first = await here.crew.start("worker", "1.0.0", instance_id="first", drain_seconds=1.0)
        short, long = await here.submit(0.5), await here.submit(30.0, steps=300)
        await here.runs(short)
        await here.runs(long)
        await here.crew.start("worker", "1.0.0", instance_id="second")
        first.send(signal.SIGTERM)
        assert await first.ended() == 0
        assert (await here.ends(short)).hop_count == 1
        await here.runs(long, on="second")
        now = await here.state(long)
        # The plane or the agent, whoever is first at the deadline; neither counts as an attempt.
        assert now.hops[0].reason in {pb.TASK_REASON_RELEASED, pb.TASK_REASON_DRAINED}
        assert now.attempts == 1
