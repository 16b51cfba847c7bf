"""The heartbeat stream, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.concerns import standard_concerns
from controlplane.api.drain import Drain
from controlplane.api.pipeline import Pipeline
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.api.streams import StreamKeeper, StreamLimits
from controlplane.api.v1.heartbeat import HeartbeatStream
from controlplane.api.wire import varint
from controlplane.domain.agents import AgentStatus, InstanceState
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc
from fleetplane.v1 import watch_pb2
from tests.fakes.fleet import Fleet

pytestmark = pytest.mark.timeout(20)

Reason = watch_pb2.GoAway.Reason
Outcome = pb.BeatResult.Outcome


class HeartbeatOnly(pb_grpc.RegistryServiceServicer):
    """A registry that answers heartbeats and nothing else."""

    def __init__(self, heartbeat: HeartbeatStream) -> None:
        self._heartbeat = heartbeat
        self.ended = asyncio.Event()

    async def Heartbeat(self, requests, context):  # type: ignore[override]  # noqa: N802 - writer style
        try:
            await self._heartbeat.run(requests, context)
        finally:
            self.ended.set()


@dataclass
class Edge:
    fleet: Fleet
    drain: Drain
    stub: Any
    servicer: HeartbeatOnly

    def open(self) -> Any:
        return self.stub.Heartbeat()


@asynccontextmanager
async def serving(limits: StreamLimits) -> AsyncIterator[Edge]:
    fleet, drain = Fleet(), Drain()
    replica = fleet.replica
    heartbeat = HeartbeatStream(
        replica.intake,
        replica.liveness,
        replica.read_model,
        fleet.settings,
        StreamKeeper(drain=drain, limits=limits),
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
        yield Edge(fleet, drain, pb_grpc.RegistryServiceStub(channel), servicer)
    await server.stop(0)


@pytest.fixture
async def edge():
    async with serving(StreamLimits()) as served:
        yield served


def message(batch: int, *beats: tuple[str, int], **fields: Any) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(
        batch=batch,
        beats=[pb.Beat(instance_id=name, generation=g, **fields) for name, g in beats],
    )


async def exchange(call: Any, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
    await call.write(request)
    reply: pb.HeartbeatResponse = await call.read()
    return reply


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Return the code and the field that the message names."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code(), (caught.value.details() or "").partition(":")[0]


async def test_an_answer_names_the_batch_the_pace_and_the_head(edge):
    generation = (await edge.fleet.register("a", "i"))["i"]
    call = edge.open()
    await exchange(call, message(300, ("i", generation)))
    await edge.fleet.replica.follow()
    reply = await exchange(call, message(2**40, ("i", generation), in_flight=3))
    assert reply.batch == 2**40
    assert reply.next_interval.ToMilliseconds() == 10_000
    assert reply.ttl.ToMilliseconds() == 30_000
    assert reply.head.revision == edge.fleet.revision
    assert reply.head.epoch
    assert not reply.results
    assert edge.fleet.replica.view.instances["i"].in_flight == 3
    assert (await edge.fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_the_shortest_grant_on_the_stream_sets_the_pace(edge):
    one = await edge.fleet.register("a", "i")
    two = await edge.fleet.register("b", "j", degraded_after_ms=3_000, lost_after_ms=9_000)
    call = edge.open()
    reply = await exchange(call, message(1, ("i", one["i"])))
    assert reply.ttl.ToMilliseconds() == 30_000
    reply = await exchange(call, message(2, ("j", two["j"])))
    assert (reply.ttl.ToMilliseconds(), reply.next_interval.ToMilliseconds()) == (3_000, 1_000)
    reply = await exchange(call, message(3, ("i", one["i"])))
    assert reply.ttl.ToMilliseconds() == 3_000


async def test_only_beats_that_were_not_accepted_are_listed(edge):
    generations = await edge.fleet.register("a", "i", "j")
    call = edge.open()
    beats = [("i", generations["i"]), ("ghost", 1), ("j", generations["j"] - 1)]
    reply = await exchange(call, message(1, *beats))
    assert {result.instance_id: result.outcome for result in reply.results} == {
        "ghost": Outcome.OUTCOME_UNKNOWN,
        "j": Outcome.OUTCOME_FENCED,
    }


async def test_every_outcome_has_its_number_in_the_contract(edge):
    generations = await edge.fleet.register("a", "i", "j")
    await edge.fleet.change_agent("a", status=AgentStatus.INACTIVE, status_reason="maintenance")
    call = edge.open()
    (result,) = (await exchange(call, message(1, ("i", generations["i"])))).results
    assert (result.outcome, result.detail) == (Outcome.OUTCOME_INACTIVE, "maintenance")
    await edge.fleet.replica.follow()
    goodbye = message(2, ("j", generations["j"]), goodbye=True)
    (result,) = (await exchange(call, goodbye)).results
    assert result.outcome == Outcome.OUTCOME_REMOVED


async def test_a_message_without_beats_is_answered(edge):
    await edge.fleet.register("a")
    assert (await exchange(edge.open(), message(7))).batch == 7


async def test_the_end_of_a_stream_means_nothing_to_its_instances(edge):
    generation = (await edge.fleet.register("a", "i"))["i"]
    call = edge.open()
    await exchange(call, message(1, ("i", generation)))
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    instance = await edge.fleet.instance("i")
    assert instance is not None
    assert instance.state is InstanceState.FRESH


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.HeartbeatRequest(batch=1, namespace="Not A Namespace"), "namespace"),
        (pb.HeartbeatRequest(), "batch"),
        (pb.HeartbeatRequest(batch=1, beats=[pb.Beat()] * 1001), "beats"),
    ],
)
async def test_a_malformed_message_ends_the_stream(edge, wrong, field):
    call = edge.open()
    await call.write(wrong)
    assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_beats_before_a_malformed_message_count(edge):
    generation = (await edge.fleet.register("a", "i"))["i"]
    call = edge.open()
    await exchange(call, message(1, ("i", generation), in_flight=5))
    await call.write(pb.HeartbeatRequest())
    assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "batch")
    assert edge.fleet.replica.view.instances["i"].in_flight == 5


async def test_a_draining_replica_sends_its_streams_away_and_ends_them_well(edge):
    generation = (await edge.fleet.register("a", "i"))["i"]
    idle, used = edge.open(), edge.open()
    await exchange(idle, message(1))
    await exchange(used, message(1, ("i", generation)))
    edge.drain.begin()
    for call in (idle, used):
        reply = await call.read()
        assert reply.go_away.reason == Reason.REASON_DRAINING
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_message_that_is_being_answered_is_finished_before_the_farewell(edge):
    generation = (await edge.fleet.register("a", "i"))["i"]
    ledger = edge.fleet.replica.ledger
    commit, committing, go_on = ledger.commit, asyncio.Event(), asyncio.Event()

    async def slow(transaction):
        committing.set()
        await go_on.wait()
        return await commit(transaction)

    ledger.commit = slow
    call = edge.open()
    await call.write(message(1, ("i", generation)))
    await committing.wait()
    edge.drain.begin()
    go_on.set()
    assert (await call.read()).batch == 1
    assert (await call.read()).go_away.reason == Reason.REASON_DRAINING
    assert await call.code() is grpc.StatusCode.OK
    assert (await edge.fleet.agent("a")).status is AgentStatus.ACTIVE


async def test_an_old_stream_is_sent_away():
    async with serving(StreamLimits(max_age_seconds=0.05)) as edge:
        call = edge.open()
        await exchange(call, message(1))
        assert (await call.read()).go_away.reason == Reason.REASON_MAX_AGE
        assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_the_client_cancels_ends_its_handler(edge):
    call = edge.open()
    await exchange(call, message(1))
    assert not edge.servicer.ended.is_set()
    call.cancel()
    async with asyncio.timeout(5):
        await edge.servicer.ended.wait()


@given(st.integers(1, 2**64 - 1))
def test_batches_are_written_as_protobuf_does(number):
    assert b"\x08" + varint(number) == pb.HeartbeatResponse(batch=number).SerializeToString()
