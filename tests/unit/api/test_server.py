import socket
import tempfile
from pathlib import Path

import grpc
import pytest

from controlplane.api.server import (
    AddressUnavailable,
    InsecureAddress,
    ServerOptions,
    bind,
    is_local,
)
from controlplane.api.streams import StreamLimits
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.echo_service import edge


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:0", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/tmp/x", "unix-abstract:x"],
)
def test_an_address_of_this_machine_is_local(address):
    assert is_local(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", ":1", "[x"]
)
def test_any_other_address_is_not(address):
    assert not is_local(address)


async def test_an_open_address_is_refused_with_advice():
    options = ServerOptions(address="0.0.0.0:0")
    with pytest.raises(InsecureAddress, match="--insecure"):
        bind(grpc.aio.server(), options)


async def test_a_second_daemon_on_the_same_port_is_refused():
    async with edge() as it:
        options = ServerOptions(address=it.address)
        second = grpc.aio.server(options=options.channel_arguments())
        with pytest.raises(AddressUnavailable, match="another daemon"):
            bind(second, options)


async def test_workers_may_share_a_port():
    shared = ServerOptions(address="127.0.0.1:0", share_port=True)
    async with edge(options=shared) as first:
        again = ServerOptions(address=first.address, share_port=True)
        async with edge(options=again) as second:
            assert second.address == first.address


async def test_a_unix_socket_serves():
    with tempfile.TemporaryDirectory(prefix="fp-", dir="/tmp") as directory:
        address = f"unix:{Path(directory) / 's'}"
        async with edge(options=ServerOptions(address=address)) as it:
            assert it.address == address
            assert await it.stub.GetAgent(pb.GetAgentRequest())


async def test_the_port_that_was_taken_is_reported():
    async with edge() as it:
        host, _, port = it.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=2):
            pass


async def test_a_message_beyond_the_limit_is_refused():
    options = ServerOptions(address="127.0.0.1:0", max_message_bytes=1000)
    async with edge(options=options) as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.GetAgent(pb.GetAgentRequest(agent_id="x" * 2000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_streams_end_before_their_connection_is_cut():
    assert StreamLimits().max_age_seconds < ServerOptions().connection_grace_seconds


def test_clients_that_ping_every_30_seconds_are_welcome():
    assert ServerOptions().min_ping_interval_seconds < 30
