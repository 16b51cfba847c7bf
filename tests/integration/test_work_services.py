"""Lifecycle, tasks, routing and rollouts through a real channel, over a whole replica in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status as typed_rpc_status

from controlplane.services.ports import Collection
from fleetplane.v1 import lifecycle_service_pb2 as lifecycle_pb
from fleetplane.v1 import registry_service_pb2 as registry_pb
from fleetplane.v1 import rollout_service_pb2 as rollout_pb
from fleetplane.v1 import routing_service_pb2 as routing_pb
from fleetplane.v1 import task_service_pb2 as pb
from fleetplane.v1 import watch_pb2
from tests.fakes.eventually import eventually
from tests.fakes.memory_replica import MemoryReplica, memory_replica

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors


@pytest.fixture
async def replica() -> AsyncIterator[MemoryReplica]:
    async with memory_replica() as replica:
        yield replica


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    for packed in rpc_status.from_call(error).details:
        if packed.Unpack(info):
            return str(info.reason)
    return ""


async def submitted(replica: MemoryReplica, **spec: Any) -> pb.Task:
    request = pb.SubmitTaskRequest(spec=pb.TaskSpec(**spec), payload=b"payload")
    task: pb.Task = (await replica.tasks.SubmitTask(request)).task
    return task


def watching(replica: MemoryReplica, instance: Any) -> Any:
    return replica.tasks.WatchTasks(
        pb.WatchTasksRequest(instance_id=instance.instance_id, generation=instance.generation)
    )


async def assigned(stream: Any) -> pb.TaskAssignment:
    """Return the next assignment."""
    while not (message := await stream.read()).HasField("assignment"):
        assert message.HasField("bookmark")
    assignment: pb.TaskAssignment = message.assignment
    return assignment


def streams(replica: MemoryReplica) -> int:
    """How many instances are given tasks."""
    return len(replica.store.namespaces["default"].records[Collection.TASK_STREAMS])


async def test_a_task_goes_from_its_submitter_to_an_instance_and_back(replica: MemoryReplica):
    instance = await replica.working("reader")
    stream = watching(replica, instance)
    task = await submitted(replica, agent_name="reader")
    following = replica.tasks.FollowTasks(pb.FollowTasksRequest(task_ids=[task.task_id]))
    assignment = await assigned(stream)
    assert (assignment.task.task_id, assignment.payload) == (task.task_id, b"payload")
    lease = pb.TaskLease(
        task_id=task.task_id, instance_id=instance.instance_id, epoch=assignment.task.epoch
    )
    await replica.tasks.AcceptTask(pb.AcceptTaskRequest(lease=lease))
    agent = await replica.registry.GetAgent(registry_pb.GetAgentRequest(agent_id="reader-1.0.0"))
    assert agent.agent.instances[0].tasks_held == 1
    await replica.tasks.CompleteTask(pb.CompleteTaskRequest(lease=lease, result=b"result"))
    states = [event.task.state async for event in following]
    assert states[-1] == pb.TASK_STATE_SUCCEEDED
    read = await replica.tasks.GetTask(pb.GetTaskRequest(task_id=task.task_id, include_data=True))
    assert (read.payload, read.result) == (b"payload", b"result")
    assert read.task.spec.submitter == "local-admin"
    stream.cancel()


async def test_an_instance_that_ends_its_stream_is_given_no_more_tasks(replica: MemoryReplica):
    stream = watching(replica, await replica.working("reader"))
    await eventually("the stream is open", lambda: streams(replica) == 1)
    stream.cancel()
    await eventually("the stream is closed", lambda: streams(replica) == 0)
    task = await submitted(replica, agent_name="reader")
    read = await replica.tasks.GetTask(pb.GetTaskRequest(task_id=task.task_id))
    assert read.task.state == pb.TASK_STATE_PENDING


async def test_an_instance_that_is_sent_away_keeps_being_given_tasks(replica: MemoryReplica):
    stream = watching(replica, await replica.working("reader"))
    await eventually("the stream is open", lambda: streams(replica) == 1)
    assert (await stream.read()).HasField("bookmark")
    replica.shutdown.begin()
    assert (await stream.read()).go_away.reason == watch_pb2.GoAway.REASON_DRAINING
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK
    assert streams(replica) == 1


async def test_a_fenced_instance_learns_it_from_its_stream(replica: MemoryReplica):
    old = await replica.working("reader")
    await replica.working("reader")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watching(replica, old).read()
    assert reason_of(refused.value) == "INSTANCE_FENCED"


async def test_watches_of_tasks_and_rollouts_are_sent_away(replica: MemoryReplica):
    await replica.working("reader")
    task = await submitted(replica, agent_name="nobody")
    await replica.rollouts.StartRollout(
        rollout_pb.StartRolloutRequest(agent_name="reader", to_version="2.0.0")
    )
    following = replica.tasks.FollowTasks(pb.FollowTasksRequest(task_ids=[task.task_id]))
    watching = replica.rollouts.WatchRollout(rollout_pb.WatchRolloutRequest(agent_name="reader"))
    assert (await following.read()).task.task_id == task.task_id
    assert (await watching.read()).rollout.phase == rollout_pb.ROLLOUT_PHASE_PENDING
    replica.shutdown.begin()
    for call in (following, watching):
        last = await call.read()
        while last.WhichOneof("event") != "go_away":  # what came before
            last = await call.read()
        assert last.go_away.reason == watch_pb2.GoAway.REASON_DRAINING
        assert await call.read() is grpc.aio.EOF


async def test_a_wait_for_a_drain_ends_with_its_replica(replica: MemoryReplica):
    await replica.working("reader")
    await replica.lifecycle.Drain(lifecycle_pb.DrainRequest(agent_id="reader-1.0.0"))
    waiting = asyncio.ensure_future(
        replica.lifecycle.GetDrain(
            lifecycle_pb.GetDrainRequest(agent_id="reader-1.0.0", wait=Duration(seconds=60))
        )
    )
    await eventually("the call has arrived", lambda: replica.shutdown.in_flight > 0)
    replica.shutdown.begin()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await waiting
    assert reason_of(refused.value) == "DRAINING"


async def test_a_wait_for_a_drain_is_answered_within_the_callers_deadline(replica: MemoryReplica):
    await replica.working("reader")
    await replica.lifecycle.Drain(lifecycle_pb.DrainRequest(agent_id="reader-1.0.0"))
    wait = lifecycle_pb.GetDrainRequest(agent_id="reader-1.0.0", wait=Duration(seconds=60))
    answer = await replica.lifecycle.GetDrain(wait, timeout=1.0)
    assert answer.drain.phase == lifecycle_pb.DRAIN_PHASE_DRAINING
    assert not answer.drain.safe_to_stop
    agent = await replica.registry.GetAgent(registry_pb.GetAgentRequest(agent_id="reader-1.0.0"))
    assert agent.agent.draining


async def routed(replica: MemoryReplica, *shares: tuple[str, int]) -> None:
    await replica.routing.SetRoute(
        routing_pb.SetRouteRequest(
            agent_name="reader",
            shares=[routing_pb.RouteShare(version=v, weight_bp=w) for v, w in shares],
        )
    )


async def found(replica: MemoryReplica, session_id: str = "") -> registry_pb.FindBestAgentResponse:
    answer: registry_pb.FindBestAgentResponse = await replica.registry.FindBestAgent(
        registry_pb.FindBestAgentRequest(session_id=session_id)
    )
    return answer


async def test_calls_without_a_session_are_dealt_out_anew(replica: MemoryReplica):
    await replica.working("reader", "1.0.0")
    await replica.working("reader", "2.0.0")
    await routed(replica, ("2.0.0", 2_500), ("1.0.0", 7_500))
    best = Counter([(await found(replica)).agent.agent_id for _ in range(40)])
    assert 8 <= best["reader-2.0.0"] <= 12
    request = registry_pb.DiscoverRequest(route=True)
    pages = [(await replica.registry.Discover(request)).agents for _ in range(40)]
    assert {len(page) for page in pages} == {1}
    assert len({page[0].agent_id for page in pages}) == 2


async def test_a_remembered_answer_follows_the_route(replica: MemoryReplica):
    await replica.working("reader", "1.0.0")
    await replica.working("reader", "2.0.0")
    for version, other in (("1.0.0", "2.0.0"), ("2.0.0", "1.0.0")):
        await routed(replica, (version, 10_000), (other, 0))
        for _ in range(2):
            answer = await found(replica, "ada")
            assert answer.agent.agent_id == f"reader-{version}"
            assert answer.route.rule == registry_pb.RouteDecision.RULE_WEIGHT
            assert answer.rejected[0].reason == registry_pb.REJECTION_REASON_ROUTE


async def test_draining_agents_are_found_by_those_who_ask_for_them(replica: MemoryReplica):
    await replica.working("reader")
    ask = registry_pb.DiscoverRequest()
    assert len((await replica.registry.Discover(ask)).agents) == 1
    await replica.lifecycle.Drain(lifecycle_pb.DrainRequest(agent_id="reader-1.0.0"))
    assert not (await replica.registry.Discover(ask)).agents
    ask = registry_pb.DiscoverRequest(include_draining=True)
    (agent,) = (await replica.registry.Discover(ask)).agents
    assert agent.draining
