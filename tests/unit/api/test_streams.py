import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # no py.typed
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.streams import StreamLimits
from controlplane.domain.errors import AgentNotFound
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import watch_pb2
from tests.fakes.echo_service import delta, edge

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors
REASONS = watch_pb2.GoAway.Reason
IMPATIENT = StreamLimits(write_seconds=0.2)
SHORT_LIVED = StreamLimits(max_age_seconds=0.05)


class Source:
    """Yields one message, then waits for ever; knows how it ended."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()

    async def __call__(self, _request: Any) -> AsyncIterator[pb.WatchAgentsResponse]:
        try:
            yield delta("first")
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()


class Torrent:
    """Yields 60 kB messages for ever and counts them."""

    def __init__(self) -> None:
        self.produced = 0

    async def __call__(self, _request: Any) -> AsyncIterator[bytes]:
        message = delta("x" * 60_000).SerializeToString()
        while True:
            self.produced += 1
            yield message


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def reason_of(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info = error_details_pb2.ErrorInfo()
    for packed in rpc_status.from_call(caught.value).details:
        if packed.Unpack(info):
            return str(info.metadata["go_away"])
    return ""


async def test_a_drained_watch_says_go_away_and_ends_well():
    source = Source()
    async with edge(messages=source) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        assert await call.read() == delta("first")
        await source.waiting.wait()
        it.drain.begin()
        last = await call.read()
        assert last.go_away.reason == REASONS.REASON_DRAINING
        assert last.go_away.retry_after.ToMilliseconds() > 0
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert source.closed.is_set()


async def test_a_watch_that_opens_while_draining_is_sent_away_at_once():
    async with edge(messages=Source()) as it:
        it.drain.begin()
        replies = [r async for r in it.stub.WatchAgents(pb.WatchAgentsRequest())]
    assert [r.go_away.reason for r in replies] == [REASONS.REASON_DRAINING]


async def test_an_old_watch_is_sent_away():
    async with edge(messages=Source(), limits=SHORT_LIVED) as it:
        replies = [r async for r in it.stub.WatchAgents(pb.WatchAgentsRequest())]
    assert replies[0] == delta("first")
    assert replies[1].go_away.reason == REASONS.REASON_MAX_AGE


async def test_a_watch_whose_source_fails_is_answered_with_its_error():
    async def failing(_request):
        yield delta("first")
        raise AgentNotFound("a")

    async with edge(messages=failing) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [r async for r in call]
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_client_that_leaves_a_watch_closes_its_source():
    source = Source()
    async with edge(messages=source) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        await source.waiting.wait()
        call.cancel()
        async with asyncio.timeout(2):
            await source.closed.wait()
            await it.drain.idle.wait()


async def test_a_slow_reader_stops_production_and_is_sent_away():
    torrent = Torrent()
    async with edge(messages=torrent, limits=IMPATIENT) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        async with asyncio.timeout(5):
            await it.drain.idle.wait()  # nobody waits for it any more
        produced = torrent.produced
        assert produced < 250, "60 kB each: what fits into the windows of HTTP/2, no more"
        assert await reason_of(call) == "SLOW_READER"
        assert torrent.produced == produced
