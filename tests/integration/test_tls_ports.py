"""The two TLS ports against grpc's own TLS: who gets in, and what is exchanged while they serve."""

import asyncio
import os
import ssl
from typing import Any

import grpc
import pytest

from controlplane.credentials import authority
from controlplane.credentials.authority import FileAuthority
from controlplane.credentials.files import CredentialFileError
from controlplane.credentials.roots import certificates_in, pem_of
from controlplane.credentials.server_tls import FileIdentity, ServerTls
from tests.fakes.pem import OtherAuthority, csr_pem, ec_key, key_pem
from tests.fakes.tls_ports import (
    AGENT,
    DOMAIN,
    Shown,
    TlsPorts,
    ask,
    channel_of,
    raw_exchange,
    refused,
    tls_ports,
    who_am_i,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def ca_dir(tmp_path):
    return tmp_path / "ca"


@pytest.fixture
async def ports(ca_dir):
    async with tls_ports(ca_dir) as running:
        yield running


async def test_the_plain_port_asks_for_no_certificate(ports):
    assert await who_am_i(ports.address, Shown(roots=ports.trust)) == ""


async def test_a_certificate_is_not_looked_at_on_the_plain_port(ports):
    assert await who_am_i(ports.address, ports.agent()) == ""


async def test_the_other_port_sees_the_identity_in_the_certificate(ports):
    assert await who_am_i(ports.mtls_address, ports.agent()) == AGENT


async def test_the_other_port_lets_nobody_in_without_a_certificate(ports):
    assert await refused(ports.mtls_address, Shown(roots=ports.trust)) is UNAVAILABLE


async def test_a_client_that_does_not_trust_the_authority_goes_away(ports):
    foreign = Shown(roots=OtherAuthority().root_pem)
    assert await refused(ports.address, foreign) is UNAVAILABLE


async def test_a_name_that_the_certificate_does_not_hold_is_not_accepted(ports):
    mine = Shown(roots=ports.trust)
    assert await refused(ports.address, mine, "localhost") is None
    assert await refused(ports.address, mine, "other.example") is UNAVAILABLE


async def test_a_certificate_of_a_foreign_authority_is_refused(ports):
    key, chain = OtherAuthority().identity(AGENT)
    foreign = Shown(roots=ports.trust, key=key, chain=chain)
    assert await refused(ports.mtls_address, foreign) is UNAVAILABLE


async def test_a_foreign_authority_with_our_root_s_name_is_refused(ports):
    other = OtherAuthority()
    other.name = ports.authority.trusted[0].subject
    key, chain = other.identity(AGENT)
    foreign = Shown(roots=ports.trust, key=key, chain=chain)
    assert await refused(ports.mtls_address, foreign) is UNAVAILABLE


async def test_an_expired_certificate_is_refused(ports, ca_dir):
    # The root was valid five minutes before it was made.
    past_seconds = ports.authority.trusted[0].not_valid_before_utc.timestamp() + 60
    past = FileAuthority.open(ca_dir, DOMAIN, 60.0, wall_clock=lambda: past_seconds)
    key = ec_key()
    issued = past.sign(csr_pem(key), AGENT)
    expired = Shown(roots=ports.trust, key=key_pem(key), chain=issued.chain_pem.encode())
    assert await refused(ports.mtls_address, expired) is UNAVAILABLE


async def test_authorities_in_the_trust_bundle_are_accepted_and_exchanged(ca_dir, tmp_path):
    one, another = OtherAuthority("One"), OtherAuthority("Another")
    path = tmp_path / "spire.pem"
    path.write_bytes(one.root_pem)
    async with tls_ports(ca_dir, trust_bundle=path) as ports:

        def shown(by: OtherAuthority) -> Shown:
            key, chain = by.identity("spiffe://prod.example/sa/writer")
            return Shown(roots=ports.trust, key=key, chain=chain)

        assert await who_am_i(ports.mtls_address, shown(one)) == "spiffe://prod.example/sa/writer"
        assert await refused(ports.mtls_address, shown(another)) is UNAVAILABLE
        path.write_bytes(another.root_pem)
        ports.refresh()
        assert await refused(ports.mtls_address, shown(another)) is None
        assert await refused(ports.mtls_address, shown(one)) is UNAVAILABLE
        assert await refused(ports.mtls_address, ports.agent()) is None


# --- rotation -------------------------------------------------------------------------------------


async def echo(stream: Any, message: bytes) -> None:
    async with asyncio.timeout(10):
        await stream.write(message)
        assert await stream.read() == message


async def test_a_rotation_is_one_step_for_whoever_is_ahead_or_behind(ports, ca_dir):
    old_trust, old_agent = ports.trust, ports.agent()
    async with channel_of(ports.mtls_address, old_agent) as channel:
        stream: Any = channel.stream_stream("/test.Ports/Echo")()
        await echo(stream, b"before")

        authority.rotate(ca_dir)
        behind = TlsPorts(ports.authority, ports.tls)  # has not looked at the files yet
        ahead = FileAuthority.open(ca_dir, DOMAIN, 3600.0)
        key = ec_key()
        issued = ahead.sign(csr_pem(key), AGENT)
        new_agent = Shown(
            roots=issued.bundle_pem.encode(), key=key_pem(key), chain=issued.chain_pem.encode()
        )
        # A replica with the old bundle accepts what a replica with the new root has signed.
        assert behind.trust == old_trust
        assert await who_am_i(ports.mtls_address, new_agent) == AGENT

        ports.refresh()
        new_root = pem_of(ahead.trusted[0])
        assert ports.trust == ahead.bundle_pem != old_trust
        # The server's certificate is the new root's: for all who know one of the two.
        for roots in (old_trust, new_root, ports.trust):
            assert await who_am_i(ports.address, Shown(roots=roots)) == ""
        # And it accepts the certificates of both.
        assert await who_am_i(ports.mtls_address, old_agent) == AGENT
        assert await who_am_i(ports.mtls_address, new_agent) == AGENT
        assert await who_am_i(ports.mtls_address, ports.agent(roots=old_trust)) == AGENT

        await echo(stream, b"after")
        await stream.done_writing()


async def test_two_rotations_in_a_row_lose_nobody(ports, ca_dir):
    old_trust, old_agent = ports.trust, ports.agent()
    for _ in range(2):
        authority.rotate(ca_dir)
        ports.refresh()
    assert len(ports.authority.trusted) == 3
    assert await who_am_i(ports.mtls_address, old_agent) == AGENT
    assert await who_am_i(ports.mtls_address, ports.agent(roots=old_trust)) == AGENT
    assert await who_am_i(ports.address, Shown(roots=pem_of(ports.authority.trusted[0]))) == ""


async def test_a_retired_root_ends_its_certificates_but_not_open_streams(ports, ca_dir):
    old_trust, old_agent = ports.trust, ports.agent()
    async with channel_of(ports.mtls_address, old_agent) as channel:
        stream: Any = channel.stream_stream("/test.Ports/Echo")()
        await echo(stream, b"before")
        authority.rotate(ca_dir)
        authority.retire(ca_dir)
        ports.refresh()
        assert await refused(ports.mtls_address, old_agent) is UNAVAILABLE
        # It can still verify the daemon, and enrol again.
        assert await refused(ports.address, Shown(roots=old_trust)) is None
        assert await refused(ports.mtls_address, ports.agent(roots=old_trust)) is None
        await echo(stream, b"after")
        await stream.done_writing()


# --- certificates in files ------------------------------------------------------------------------


def write_pair(directory, pair: tuple[bytes, bytes]) -> FileIdentity:
    key, chain = pair
    (directory / "key.pem").write_bytes(key)
    (directory / "key.pem").chmod(0o600)
    (directory / "cert.pem").write_bytes(chain)
    return FileIdentity(directory / "cert.pem", directory / "key.pem")


async def test_files_are_exchanged_without_a_restart_and_without_losing_a_stream(ca_dir, tmp_path):
    company, another = OtherAuthority("Company"), OtherAuthority("Another")
    identity = write_pair(tmp_path, company.server())
    async with tls_ports(ca_dir, identity=identity) as ports:
        old, new = Shown(roots=company.root_pem), Shown(roots=another.root_pem)
        async with channel_of(ports.address, old) as channel:
            stream: Any = channel.stream_stream("/test.Ports/Echo")()
            await echo(stream, b"before")
            assert await refused(ports.address, new) is UNAVAILABLE
            write_pair(tmp_path, another.server())
            ports.refresh()
            assert await refused(ports.address, new) is None
            assert await refused(ports.address, old) is UNAVAILABLE
            await echo(stream, b"after")
            assert await ask(channel) == ""
            await stream.done_writing()


async def test_files_that_do_not_fit_change_nothing_until_they_do(ca_dir, tmp_path, caplog):
    company = OtherAuthority("Company")
    identity = write_pair(tmp_path, company.server())
    async with tls_ports(ca_dir, identity=identity) as ports:
        shown = Shown(roots=company.root_pem)
        key, chain = OtherAuthority("Another").server()
        (tmp_path / "cert.pem").write_bytes(chain)
        ports.refresh()
        (complaint,) = [one for one in caplog.records if "goes on" in one.message]
        assert "does not belong to" in complaint.cause
        assert await refused(ports.address, shown) is None
        (tmp_path / "key.pem").write_bytes(key)
        ports.refresh()
        assert await refused(ports.address, shown) is UNAVAILABLE


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda d: (d / "key.pem").chmod(0o644), "open to others"),
        (lambda d: (d / "key.pem").write_bytes(b"x"), "not a private key"),
        (lambda d: (d / "cert.pem").write_bytes(b"x"), "no certificate"),
        (lambda d: (d / "cert.pem").write_bytes(BROKEN), "malformed certificate"),
        (lambda d: (d / "cert.pem").unlink(), "cannot read"),
        (lambda d: (d / "key.pem").write_bytes(key_pem(ec_key())), "does not belong"),
        (lambda d: (d / "cert.pem").write_bytes(b"x" * 2_000_000), "longer than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "files",
)
def test_files_that_cannot_be_used_are_refused_at_the_start(tmp_path, damage, why):
    write_pair(tmp_path, OtherAuthority().server())
    damage(tmp_path)
    with pytest.raises(CredentialFileError, match=why):
        FileIdentity(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_a_port_for_certificates_that_nobody_could_have_is_refused(tmp_path):
    identity = write_pair(tmp_path, OtherAuthority().server())
    with pytest.raises(CredentialFileError, match="needs an authority"):
        ServerTls(identity).mtls_credentials()


# --- what does not speak TLS ----------------------------------------------------------------------


def client_hello(version: bytes) -> bytes:
    """A greeting that speaks up to one version, with ciphers that any server of that time took."""
    ciphers = bytes.fromhex("c009 c00a c013 c014 002f 0035")
    body = version + os.urandom(32) + b"\x00"
    body += len(ciphers).to_bytes(2) + ciphers + b"\x01\x00"
    curves = bytes.fromhex("000a 0004 0002 0017  000b 0002 0100")
    body += len(curves).to_bytes(2) + curves
    handshake = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(handshake).to_bytes(2) + handshake


@pytest.mark.parametrize(
    "version", [b"\x03\x00", b"\x03\x01", b"\x03\x02"], ids=["3", "1.0", "1.1"]
)
async def test_versions_before_tls_1_2_are_refused(ports, version):
    for address in (ports.address, ports.mtls_address):
        answer = await raw_exchange(address, client_hello(version))
        assert answer[:1] in {b"", b"\x15"}, "an alert, or nothing"
        assert await refused(ports.address, Shown(roots=ports.trust)) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(ports, version):
    context = ssl.create_default_context(cadata=ports.trust.decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = ports.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert spoken.version() == version.name.replace("_", ".")
    assert spoken.selected_alpn_protocol() == "h2"
    writer.transport.abort()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 64,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\xff" * 1000,
        os.urandom(4096),
    ],
    ids=["zeros", "HTTP/1.1", "HTTP/2 in plain text", "a record without end", "noise"],
)
async def test_garbage_harms_nobody(ca_dir, sent):
    async with tls_ports(ca_dir, handshake_seconds=1.0) as ports:
        for address in (ports.address, ports.mtls_address):
            assert (await raw_exchange(address, sent))[:1] in {b"", b"\x15"}
        assert await refused(ports.address, Shown(roots=ports.trust)) is None
        assert await who_am_i(ports.mtls_address, ports.agent()) == AGENT


async def test_a_connection_that_never_speaks_is_closed(ca_dir):
    async with tls_ports(ca_dir, handshake_seconds=0.3) as ports:
        assert await raw_exchange(ports.address, b"") == b""


async def test_a_connection_without_calls_is_closed(ca_dir):
    async with tls_ports(ca_dir, idle_connection_seconds=0.3) as ports:
        shown = Shown(roots=ports.trust)
        async with channel_of(ports.address, shown) as channel:
            assert await ask(channel) == ""
            state = channel.get_state()
            async with asyncio.timeout(10):
                while state is grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state()
            assert await ask(channel) == "", "it connects again"


async def test_metadata_that_is_too_long_is_refused(ports):
    async with channel_of(ports.address, Shown(roots=ports.trust)) as channel:
        call: Any = channel.unary_unary("/test.Ports/Who")
        assert await call(b"", metadata=[("x-long", "x" * 12_000)], timeout=10) == b""
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call(b"", metadata=[("x-long", "x" * 17_000)], timeout=10)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_chain_of_an_issued_certificate_is_short(ports):
    chain = ports.agent().chain
    assert len(certificates_in(chain)) == 1
