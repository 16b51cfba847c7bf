"""What refused callers see, and what they cost, through a real server."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # no py.typed
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.methods import METHODS, RateClass
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.eventually import eventually
from tests.fakes.limited_edge import WHO, LimitedEdge, limited_edge

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors
ANN = ((WHO, "ann"),)
BEN = ((WHO, "ben"),)
BURST = 50
KEPT_BYTES = 100_000
"""What may stay after ten thousand refused calls: ten bytes of each, less than any object has."""


@pytest.fixture
async def it() -> AsyncIterator[LimitedEdge]:
    async with limited_edge() as running:
        yield running


async def get(it: LimitedEdge, who: Any = ANN, namespace: str = "") -> Any:
    return await it.stub.GetAgent(pb.GetAgentRequest(namespace=namespace), metadata=who, timeout=10)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str], float]:
    """Return code, reason, metadata and the seconds to wait of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in rpc_status.from_call(caught.value).details:
        detail.Unpack(info)
        detail.Unpack(retry)
    delay = retry.retry_delay.ToMilliseconds() / 1000
    return caught.value.code(), info.reason, dict(info.metadata), delay


async def test_a_caller_beyond_its_rate_is_told_so_and_when_to_come_back(it):
    for _ in range(BURST):
        await get(it)
    code, reason, metadata, delay = await refusal(get(it))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert metadata == {"limit": "5", "per": "identity"}
    assert 0.2 <= delay <= 0.221
    await get(it, BEN)
    it.clock.shift(delay)
    await get(it)


async def test_a_namespace_beyond_its_quota_is_refused_and_its_neighbour_is_not(it):
    it.quotas.allow("small", calls_per_second=1)
    for _ in range(10):
        await get(it, ANN, "small")
    _, reason, metadata, _ = await refusal(get(it, BEN, "small"))
    assert (reason, metadata["per"]) == ("RATE_LIMITED", "namespace")
    await get(it, BEN, "large")


async def test_a_stream_that_ends_makes_room_however_it_ends(it):
    request = pb.WatchAgentsRequest()
    ended = it.stub.WatchAgents(request, metadata=ANN, timeout=10)
    assert len([one async for one in ended]) == 2
    assert it.limits.open_streams == 0
    cut = it.stub.Heartbeat(metadata=ANN, timeout=10)
    await cut.write(pb.HeartbeatRequest(batch=1))
    await cut.read()
    assert it.limits.streams_of("default") == 1
    cut.cancel()
    await eventually("the stream is given back", lambda: it.limits.open_streams == 0)
    assert it.limits.streams_of("default") == 0


async def test_a_caller_with_too_many_streams_is_refused_another(it):
    held = [it.stub.Heartbeat(metadata=ANN, timeout=10) for _ in range(3)]
    for stream in held:
        await stream.write(pb.HeartbeatRequest(batch=1))
        await stream.read()
    _, reason, metadata, delay = await refusal(
        it.stub.WatchAgents(pb.WatchAgentsRequest(), metadata=ANN, timeout=10).read()
    )
    assert (reason, metadata) == ("RATE_LIMITED", {"limit": "3", "per": "identity"})
    assert delay >= 5
    for stream in held:
        stream.cancel()
    await eventually("the stream is given back", lambda: it.limits.open_streams == 0)


async def test_a_stream_that_beats_too_fast_is_ended_and_others_beat_on(it):
    calm, hasty = (it.stub.Heartbeat(metadata=who, timeout=10) for who in (ANN, BEN))
    beats = [pb.Beat(instance_id="i")] * 60
    await hasty.write(pb.HeartbeatRequest(batch=1, beats=beats))
    await hasty.read()
    await hasty.write(pb.HeartbeatRequest(batch=2, beats=beats))
    code, reason, metadata, delay = await refusal(hasty.read())
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert metadata == {"limit": "10", "per": "stream"}
    assert 2 <= delay <= 2.3
    await calm.write(pb.HeartbeatRequest(batch=7))
    assert (await calm.read()).batch == 7
    assert it.limits.refused_messages == 1
    calm.cancel()


async def test_in_overload_heartbeats_are_answered_and_others_sent_away(it):
    open_before = it.stub.Heartbeat(metadata=ANN, timeout=10)
    it.lag.seconds = 100.0
    code, reason, _, delay = await refusal(get(it))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
    assert 1 <= delay <= 2
    for stream in (open_before, it.stub.Heartbeat(metadata=BEN, timeout=10)):
        await stream.write(pb.HeartbeatRequest(batch=3))
        assert (await stream.read()).batch == 3
        stream.cancel()
    it.lag.seconds = 0.0
    await get(it)
    assert it.admission.refused_by_class[RateClass.READ] == 1


async def test_memory_after_ten_thousand_refused_calls_is_what_it_was(it):
    for _ in range(BURST):
        await get(it)

    async def refused(calls: int) -> None:
        for _ in range(calls):
            with pytest.raises(grpc.aio.AioRpcError):
                await get(it)

    async def many(calls: int) -> None:
        """Half of them for the rate, half for the lag."""
        for it.lag.seconds in (0.0, 100.0):
            await asyncio.gather(*(refused(calls // 40) for _ in range(20)))

    await many(1_000)  # whatever is made once
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await many(10_000)
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert it.limits.refused_by_class[RateClass.READ] == 5_500
    assert it.admission.refused_by_class[RateClass.READ] == 5_500
    assert left < KEPT_BYTES, f"{left} bytes stayed"


def test_streams_of_agents_are_those_that_report():
    streams = {
        name.rpartition("/")[2]: row.permission.value
        for name, row in METHODS.items()
        if row.rate_class is RateClass.STREAM and row.max_deadline_seconds is None
    }
    of_agents = {name for name, permission in streams.items() if permission == "report"}
    assert of_agents == {"Heartbeat", "WatchTasks"}
    assert set(streams.values()) == {"report", "read", "audit"}, "the others are watches"
