import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # no py.typed
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.streams import SentAway, StreamLimits
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


class Ending:
    """Yields until it is told to wait, then waits for ever; keeps what ended it."""

    def __init__(self, messages: int = 1) -> None:
        self.messages = messages
        self.waiting = asyncio.Event()
        self.ended = asyncio.Event()
        self.by: type[BaseException] | None = None

    async def __call__(self, _request: Any) -> AsyncIterator[pb.WatchAgentsResponse]:
        try:
            for _ in range(self.messages):
                yield delta("x" * 60_000)
            self.waiting.set()
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        except BaseException as error:
            self.by = type(error)
            await asyncio.sleep(0)  # clean-up may wait
            raise
        finally:
            self.ended.set()


async def test_a_source_that_waits_is_not_cancelled_when_the_server_ends_its_stream():
    source = Ending()
    async with edge(messages=source) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        await source.waiting.wait()
        it.drain.begin()
        assert (await call.read()).go_away.reason == REASONS.REASON_DRAINING
        assert await call.read() is grpc.aio.EOF
    assert source.by is SentAway


async def test_a_source_that_is_read_from_is_closed_when_the_server_ends_its_stream():
    source = Ending(messages=1_000)
    async with edge(messages=source) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        it.drain.begin()
        await read_all(call)
    assert source.by is GeneratorExit


async def test_a_source_that_waits_is_cancelled_when_the_peer_disconnects():
    source = Ending()
    async with edge(messages=source) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        await source.waiting.wait()
        call.cancel()
        async with asyncio.timeout(2):
            await source.ended.wait()
    assert source.by is asyncio.CancelledError


async def test_a_source_is_cancelled_when_the_peer_disconnects_while_it_is_written_to():
    source = Ending(messages=1_000)
    async with edge(messages=source) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        call.cancel()
        async with asyncio.timeout(2):
            await source.ended.wait()
    assert source.by is asyncio.CancelledError


async def test_a_source_is_cancelled_when_its_reader_is_too_slow():
    source = Ending(messages=1_000)
    async with edge(messages=source, limits=IMPATIENT) as it:
        call = it.stub.WatchAgents(pb.WatchAgentsRequest())
        await call.read()
        async with asyncio.timeout(5):
            await source.ended.wait()
        assert await reason_of(call) == "SLOW_READER"
    assert source.by is asyncio.CancelledError


async def test_what_a_source_waits_for_reaches_it_with_its_own_failure():
    async def failing(_request):
        yield delta("first")
        broken = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(broken.set_exception, AgentNotFound("a"))
        try:
            await broken
        except AgentNotFound:
            yield delta("mended")

    async with edge(messages=failing) as it:
        replies = [r async for r in it.stub.WatchAgents(pb.WatchAgentsRequest())]
    assert replies == [delta("first"), delta("mended")]


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
