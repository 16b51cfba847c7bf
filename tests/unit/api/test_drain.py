import asyncio
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as typed_health_pb
from grpc_health.v1 import health_pb2_grpc as typed_health

from controlplane.api.streams import StreamLimits
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import watch_pb2
from tests.fakes.echo_service import delta, echo, edge

# The published stubs know neither aio channels nor all of health.
health_pb2: Any = typed_health_pb
health_pb2_grpc: Any = typed_health


class Gate:
    """Holds calls until it is opened; knows how many came."""

    def __init__(self, expected: int) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self._missing = expected

    async def __call__(self, _request, _context):
        self._missing -= 1
        if self._missing == 0:
            self.entered.set()
        await self.opened.wait()
        response = pb.GetAgentResponse()
        response.agent.agent_id = "x" * 100_000
        return response


async def endless(_request):
    yield delta("first")
    await asyncio.Event().wait()


async def test_a_drain_loses_no_call_and_ends_streams_quickly_with_a_word():
    gate = Gate(60)
    async with edge(answer=gate, messages=endless) as it:
        it.health.set_ready(True)
        health = health_pb2_grpc.HealthStub(it.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await watch.read()
        calls = [asyncio.ensure_future(it.stub.GetAgent(pb.GetAgentRequest())) for _ in range(60)]
        await gate.entered.wait()

        started = time.monotonic()
        draining = asyncio.create_task(it.drain.run(it.server, it.health, 10))
        last = await watch.read()
        gate.opened.set()
        assert await draining is True
        assert time.monotonic() - started < 5, "streams and health watchers must not cost the grace"

        replies = await asyncio.gather(*calls)
        assert len(replies) == 60
        assert last.go_away.reason == watch_pb2.GoAway.Reason.REASON_DRAINING
        assert await watch.code() is grpc.StatusCode.OK
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await health.read() is grpc.aio.EOF


async def test_a_call_longer_than_the_grace_is_cancelled_and_unwound():
    entered, unwound = asyncio.Event(), asyncio.Event()

    async def answer(_request, _context):
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            unwound.set()

    async with edge(answer=answer) as it:
        call = it.stub.GetAgent(pb.GetAgentRequest())
        await entered.wait()
        assert await it.drain.run(it.server, it.health, 0.2) is False
        assert unwound.is_set()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_delay_lets_balancers_notice_before_calls_are_refused():
    async with edge(answer=echo) as it:
        it.health.set_ready(True)
        draining = asyncio.create_task(it.drain.run(it.server, it.health, 5, delay=0.3))
        stub = health_pb2_grpc.HealthStub(it.channel)
        response = await stub.Check(health_pb2.HealthCheckRequest())
        assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await it.stub.GetAgent(pb.GetAgentRequest())
        assert await draining is True


async def test_draining_twice_calls_a_stream_once():
    async with edge() as it:
        ended = []
        with it.drain.calling(lambda: ended.append(1)):
            it.drain.begin()
            it.drain.begin()
        with it.drain.calling(lambda: ended.append(2)):
            pass
        assert ended == [1, 2]


async def torrent(_request):
    while True:
        yield delta("x" * 60_000)


async def test_a_peer_that_does_not_read_is_not_waited_for():
    limits = StreamLimits(write_seconds=0.1)
    async with edge(messages=torrent, limits=limits) as it:
        watch = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await watch.read()
        async with asyncio.timeout(5):
            await it.drain.idle.wait()
        started = time.monotonic()
        assert await it.drain.run(it.server, it.health, 10) is True
        assert time.monotonic() - started < 5


async def test_a_cancelled_drain_still_stops_the_server():
    gate = Gate(1)
    async with edge(answer=gate) as it:
        call = it.stub.GetAgent(pb.GetAgentRequest())
        await gate.entered.wait()
        draining = asyncio.create_task(it.drain.run(it.server, it.health, 60))
        await it.drain.draining.wait()
        draining.cancel()
        async with asyncio.timeout(5):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.wait([draining])
        assert draining.cancelled()
