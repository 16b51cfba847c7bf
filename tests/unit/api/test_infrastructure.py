import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2
from grpc_channelz.v1 import channelz_pb2_grpc as typed_channelz
from grpc_health.v1 import health_pb2 as typed_health_pb
from grpc_health.v1 import health_pb2_grpc as typed_health
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha import reflection_pb2_grpc as typed_reflection

from controlplane.api.server import ServerOptions
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.echo_service import edge

# The published stubs know neither aio channels nor all of health.
health_pb2: Any = typed_health_pb
health_pb2_grpc: Any = typed_health
reflection_pb2_grpc: Any = typed_reflection
channelz_pb2_grpc: Any = typed_channelz

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
REGISTRY = "fleetplane.v1.RegistryService"
BUF = Path(__file__).parents[3] / ".venv/bin/buf"


@pytest.mark.parametrize("service", ["", REGISTRY, "grpc.health.v1.Health"])
async def test_health_follows_readiness(service):
    async with edge() as it:
        stub = health_pb2_grpc.HealthStub(it.channel)
        request = health_pb2.HealthCheckRequest(service=service)
        assert (await stub.Check(request)).status == NOT_SERVING
        it.health.set_ready(True)
        assert (await stub.Check(request)).status == SERVING


async def test_health_of_a_stranger_is_not_found():
    async with edge() as it:
        stub = health_pb2_grpc.HealthStub(it.channel)
        request = health_pb2.HealthCheckRequest(service="no.Such")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert (await stub.Watch(request).read()).status == UNKNOWN


async def test_health_lists_every_service():
    async with edge() as it:
        it.health.set_ready(True)
        stub = health_pb2_grpc.HealthStub(it.channel)
        statuses = (await stub.List(health_pb2.HealthListRequest())).statuses
    assert {name: answer.status for name, answer in statuses.items()} == {
        "": SERVING,
        REGISTRY: SERVING,
        "grpc.health.v1.Health": SERVING,
    }


async def test_a_health_watch_tells_changes_until_shutdown():
    async with edge() as it:
        call = health_pb2_grpc.HealthStub(it.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == NOT_SERVING
        it.health.set_ready(True)
        assert (await call.read()).status == SERVING
        it.health.enter_graceful_shutdown()
        it.health.set_ready(True)
        assert (await call.read()).status == NOT_SERVING
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes(version):
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services="*"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{REGISTRY}.GetAgent"),
    ]
    async with edge() as it:
        if version == "v1alpha":
            call = reflection_pb2_grpc.ServerReflectionStub(it.channel).ServerReflectionInfo
        else:
            call = it.channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
        listed, described = [r async for r in call(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {REGISTRY, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_reflection_can_be_switched_off():
    options = ServerOptions(address="127.0.0.1:0", reflection=False)
    async with edge(options=options) as it:
        stub = reflection_pb2_grpc.ServerReflectionStub(it.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(stub.ServerReflectionInfo(iter([]))))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_channelz_shows_the_server_on_loopback():
    async with edge() as it:
        stub = channelz_pb2_grpc.ChannelzStub(it.channel)
        servers = (await stub.GetServers(channelz_pb2.GetServersRequest())).server
        assert servers
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=2**40))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_channelz_is_absent_where_others_can_reach_it():
    options = ServerOptions(address="0.0.0.0:0", insecure=True)
    async with edge(options=options) as it:
        port = it.address.rpartition(":")[2]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = channelz_pb2_grpc.ChannelzStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetServers(channelz_pb2.GetServersRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.skipif(not BUF.exists(), reason="buf is installed with the development tools")
@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
async def test_a_tool_without_protos_can_call(version):
    async with edge() as it:
        process = await asyncio.create_subprocess_exec(
            *(BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("--reflect-protocol", version, "-d", '{"agentId": "a-1"}'),
            f"http://{it.address}/{REGISTRY}/GetAgent",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err
    assert b'"agentId": "a-1"' in out


async def test_a_real_request_is_still_answered_beside_a_health_watcher_that_does_not_read():
    async with edge() as it:
        watcher = health_pb2_grpc.HealthStub(it.channel).Watch(health_pb2.HealthCheckRequest())
        await watcher.read()
        for n in range(200):
            it.health.set_ready(n % 2 == 0)
        assert await it.stub.GetAgent(pb.GetAgentRequest())
