"""Commands on heartbeat streams: in answers, pushed between them, and acknowledged."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from controlplane.api.concerns import standard_concerns
from controlplane.api.drain import Drain
from controlplane.api.pipeline import Pipeline
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.api.streams import StreamKeeper
from controlplane.api.v1.heartbeat import HeartbeatStream
from controlplane.services.lifecycle.commands import Commands
from controlplane.services.lifecycle.emergency_stops import StopOutcome
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc
from tests.fakes.fleet import NAMESPACE
from tests.fakes.lifecycle_plane import LifecyclePlane, Operations

pytestmark = pytest.mark.timeout(20)

KIND = pb.Command


class HeartbeatOnly(pb_grpc.RegistryServiceServicer):
    def __init__(self, heartbeat: HeartbeatStream) -> None:
        self._heartbeat = heartbeat

    async def Heartbeat(self, requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802 - writes by itself; gRPC's name
        await self._heartbeat.run(requests, context)


@dataclass
class Edge:
    """A plane with operators, and one replica of it that serves heartbeats."""

    plane: LifecyclePlane
    ops: Operations
    commands: Commands
    drain: Drain
    stub: Any

    def open(self) -> Any:
        return self.stub.Heartbeat()


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    plane, drain = LifecyclePlane(), Drain()
    replica, ops = plane.replica, plane.ops
    commands = Commands(replica.read_model, plane.clock)
    heartbeat = HeartbeatStream(
        replica.intake,
        replica.liveness,
        replica.read_model,
        plane.settings,
        StreamKeeper(drain=drain),
        commands=commands,
        stops=ops.stops,
    )
    servicer = HeartbeatOnly(heartbeat)  # type: ignore[abstract]  # the others are not there
    options = ServerOptions(address="127.0.0.1:0")
    server, _ = create_server(
        options,
        Pipeline(standard_concerns(drain)),
        lambda target: pb_grpc.add_RegistryServiceServicer_to_server(servicer, target),
    )
    address = bind(server, options)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield Edge(plane, ops, commands, drain, pb_grpc.RegistryServiceStub(channel))
    await server.stop(0)


def message(batch: int, generations: dict[str, int], **fields: Any) -> pb.HeartbeatRequest:
    beats = [pb.Beat(instance_id=n, generation=g, **fields) for n, g in generations.items()]
    return pb.HeartbeatRequest(batch=batch, beats=beats)


async def read(call: Any) -> pb.HeartbeatResponse:
    async with asyncio.timeout(5):
        reply: pb.HeartbeatResponse = await call.read()
    return reply


async def exchange(call: Any, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
    await call.write(request)
    return await read(call)


def told(reply: pb.HeartbeatResponse) -> dict[str, int]:
    return {command.instance_id: command.kind for command in reply.commands}


async def test_an_ordinary_answer_commands_nothing(edge):
    generations = await edge.plane.active("a", "i")
    reply = await exchange(edge.open(), message(1, generations))
    assert not reply.commands
    assert reply.next_interval.ToMilliseconds() == 10_000


async def test_a_drain_is_pushed_and_repeated_in_answers(edge):
    generations = await edge.plane.active("a", "i", "j")
    await edge.plane.active("b", "k")
    call = edge.open()
    await exchange(call, message(1, generations))
    report = await edge.ops.drain(deadline_ms=60_000)
    pushed = await read(call)
    assert (pushed.batch, told(pushed)) == (0, {"i": KIND.KIND_DRAIN, "j": KIND.KIND_DRAIN})
    assert pushed.commands[0].reason == "new release"
    assert pushed.commands[0].deadline.ToMilliseconds() == report.drain.deadline_at_ms
    assert pushed.next_interval.ToMilliseconds() == 1_000
    assert pushed.ttl.ToMilliseconds() == 30_000
    answer = await exchange(call, message(2, generations))
    assert (answer.batch, told(answer)) == (2, told(pushed))
    assert answer.next_interval.ToMilliseconds() == 1_000


async def test_an_instance_that_joins_an_old_stream_is_told_at_once_as_well(edge):
    generations = await edge.plane.active("a", "i")
    call = edge.open()
    for batch in (1, 2):
        await exchange(call, message(batch, generations))
    late = await edge.plane.register("b", "k")
    await edge.plane.replica.follow()
    await exchange(call, message(3, generations | late))
    await edge.plane.replica.follow()
    await edge.ops.stop(names=("b",))
    assert told(await read(call)) == {"k": KIND.KIND_STOP}


async def test_work_comes_again_with_the_ordinary_pace(edge):
    generations = await edge.plane.active("a", "i")
    call = edge.open()
    await exchange(call, message(1, generations))
    await edge.ops.drain()
    await read(call)
    await edge.ops.cancel()
    pushed = await read(call)
    assert told(pushed) == {"i": KIND.KIND_RESUME}
    assert pushed.next_interval.ToMilliseconds() == 10_000


async def test_a_stop_is_told_until_it_is_acknowledged(edge):
    generations = await edge.plane.active("a", "i")
    call = edge.open()
    await exchange(call, message(1, generations))
    stop = (await edge.ops.stop(everything=True)).stop
    pushed = await read(call)
    assert told(pushed) == {"i": KIND.KIND_STOP}
    assert (pushed.commands[0].stop_id, pushed.commands[0].reason) == (stop.stop_id, "incident")
    again = await exchange(call, message(2, generations))
    assert told(again) == {"i": KIND.KIND_STOP}
    assert again.results[0].outcome == pb.BeatResult.OUTCOME_INACTIVE
    assert again.next_interval.ToMilliseconds() == 1_000
    edge.plane.clock.shift(2)
    done = await exchange(call, message(3, generations, acknowledged_stop=stop.stop_id))
    assert not done.commands
    report = await edge.ops.stops.get(NAMESPACE, stop.stop_id)
    assert [(one.outcome, one.after_ms) for one in report.answers] == [
        (StopOutcome.ACKNOWLEDGED, 2_000)
    ]
    done = await exchange(call, message(4, generations, acknowledged_stop=stop.stop_id))
    assert not done.commands
    assert done.next_interval.ToMilliseconds() == 10_000


async def test_an_acknowledgement_counts_although_the_agent_was_activated_again(edge):
    generations = await edge.plane.active("a", "i")
    call = edge.open()
    await exchange(call, message(1, generations))
    stop = (await edge.ops.stop(everything=True)).stop
    await read(call)
    await edge.ops.activate("a")
    await exchange(call, message(2, generations, acknowledged_stop=stop.stop_id))
    report = await edge.ops.stops.get(NAMESPACE, stop.stop_id)
    assert report.acknowledged == 1


async def test_whoever_joins_a_commanded_fleet_hears_it_in_the_first_answer(edge):
    generations = await edge.plane.active("a", "i")
    await edge.ops.drain()
    assert told(await exchange(edge.open(), message(1, generations))) == {"i": KIND.KIND_DRAIN}


async def test_a_command_of_another_replica_is_pushed_here(edge):
    generations = await edge.plane.active("a", "i")
    other = await edge.plane.another("two")
    call = edge.open()
    await exchange(call, message(1, generations))
    await other.stop(everything=True)
    await edge.plane.replica.follow()
    assert told(await read(call)) == {"i": KIND.KIND_STOP}


async def test_a_thousand_instances_of_one_stream_are_told_and_acknowledge(edge):
    generations = await edge.plane.active("a", *(f"i{n}" for n in range(1_000)))
    call = edge.open()
    await exchange(call, message(1, generations))
    stop = (await edge.ops.stop(everything=True)).stop
    assert len(told(await read(call))) == 1_000
    await exchange(call, message(2, generations, acknowledged_stop=stop.stop_id))
    report = await edge.ops.stops.get(NAMESPACE, stop.stop_id)
    assert (report.acknowledged, report.waiting) == (1_000, 0)


async def test_a_stream_that_ends_is_told_nothing_more(edge):
    generations = await edge.plane.active("a", "i")
    call = edge.open()
    await exchange(call, message(1, generations))
    hub = edge.plane.replica.read_model.hub
    assert hub.listener_count == 1
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert hub.listener_count == 0
    await edge.ops.drain()


async def test_a_replica_that_shuts_down_says_so_behind_its_last_push(edge):
    generations = await edge.plane.active("a", "i")
    call = edge.open()
    await exchange(call, message(1, generations))
    await edge.ops.drain()
    edge.drain.begin()
    assert told(await read(call)) == {"i": KIND.KIND_DRAIN}
    assert (await read(call)).HasField("go_away")
    assert await call.read() is grpc.aio.EOF


async def test_pushes_and_answers_never_get_in_each_others_way(edge):
    generations = await edge.plane.active("a", *(f"i{n}" for n in range(50)))
    call = edge.open()
    await exchange(call, message(1, generations))

    async def decide() -> None:
        for _ in range(40):
            await edge.ops.drain()
            await asyncio.sleep(0)
            await edge.ops.cancel()
        await edge.ops.drain()

    async def beat() -> None:
        for batch in range(2, 60):
            await call.write(message(batch, generations))
        await call.done_writing()

    replies: list[pb.HeartbeatResponse] = []

    async def listen() -> None:
        while (reply := await call.read()) is not grpc.aio.EOF:
            replies.append(reply)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for task in (decide(), beat(), listen()):
            group.create_task(task)
    answered = [reply.batch for reply in replies if reply.batch]
    assert answered == list(range(2, 60))
    assert await call.code() is grpc.StatusCode.OK
