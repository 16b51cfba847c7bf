"""Which ports are opened, with what: nothing that others can reach without TLS."""

import tempfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from controlplane.api.server import (
    AddressUnavailable,
    InsecureAddress,
    PortCredentials,
    ServerOptions,
    bind_ports,
)
from controlplane.credentials.server_tls import FileIdentity, ServerTls
from tests.fakes.pem import OtherAuthority

ANYWHERE = "0.0.0.0:0"


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    company = OtherAuthority()
    key, chain = company.server()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "cert.pem").write_bytes(chain)
    identity = FileIdentity(tmp_path / "cert.pem", tmp_path / "key.pem")
    return ServerTls(identity, lambda: [company.root])


def both(tls: ServerTls) -> PortCredentials:
    return PortCredentials(tls=tls.tls_credentials(), mtls=tls.mtls_credentials())


async def test_an_address_that_others_can_reach_needs_tls(tls):
    options = ServerOptions(address=ANYWHERE)
    with pytest.raises(InsecureAddress, match="--secure"):
        bind_ports(grpc.aio.server(), options, None)
    bound = bind_ports(grpc.aio.server(), options, both(tls))
    assert bound.address.startswith("0.0.0.0:")
    assert not bound.address.endswith(":0")
    assert bound.mtls_address is None


async def test_whoever_insists_is_warned(caplog):
    bind_ports(grpc.aio.server(), ServerOptions(address=ANYWHERE, insecure=True), None)
    assert "whoever connects is the local admin" in caplog.text


async def test_a_port_for_certificates_needs_tls(tls):
    options = ServerOptions(address="127.0.0.1:0", mtls_address="127.0.0.1:0")
    for given in (None, PortCredentials(tls=tls.tls_credentials())):
        with pytest.raises(ValueError, match="needs TLS"):
            bind_ports(grpc.aio.server(), options, given)


async def test_a_port_for_certificates_that_is_taken_is_named(tls):
    first = ServerOptions(address="127.0.0.1:0", mtls_address="127.0.0.1:0")
    server = grpc.aio.server(options=first.channel_arguments())
    taken = bind_ports(server, first, both(tls)).mtls_address
    again = ServerOptions(address="127.0.0.1:0", mtls_address=taken)
    second = grpc.aio.server(options=again.channel_arguments())
    with pytest.raises(AddressUnavailable, match=str(taken)):
        bind_ports(second, again, both(tls))


async def test_a_unix_socket_stays_plain_text(tls):
    with tempfile.TemporaryDirectory(prefix="fp-", dir="/tmp") as directory:
        address = f"unix:{directory}/s"
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(_answer)
        service = grpc.method_handlers_generic_handler("t", {"M": handler})
        server.add_generic_rpc_handlers((service,))
        assert bind_ports(server, ServerOptions(address=address), both(tls)).address == address
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/t/M")
            assert await call(b"", timeout=10) == b"yes"
        await server.stop(0)


async def _answer(_request: bytes, _context: object) -> bytes:
    return b"yes"


def test_connections_are_not_described_to_other_machines():
    assert ServerOptions(mtls_address="127.0.0.1:0").serves_channelz
    assert not ServerOptions(mtls_address=ANYWHERE).serves_channelz


async def test_one_port_may_have_several_addresses(tls):
    server = grpc.aio.server()
    assert bind_ports(server, ServerOptions(address="localhost:0"), both(tls)).address
