"""A server with the daemon's two TLS ports, and clients with whatever they have to show."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from controlplane.api.server import PortCredentials, ServerOptions, bind_ports
from controlplane.credentials import authority
from controlplane.credentials.authority import FileAuthority
from controlplane.credentials.server_tls import ServerIdentity, ServerTls, SignedIdentity, TrustFile
from tests.fakes.pem import csr_pem, ec_key, key_pem

DOMAIN = "fleet.example"
AGENT = f"spiffe://{DOMAIN}/ns/default/agent/writer"
LOOPBACK = "127.0.0.1:0"
CALL_SECONDS = 10.0

_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a client trusts and shows."""

    roots: bytes
    key: bytes | None = None
    chain: bytes | None = None


class TlsPorts:
    """The ports of one replica."""

    def __init__(self, authority: FileAuthority, tls: ServerTls) -> None:
        self.authority = authority
        self.tls = tls
        self.address = ""
        self.mtls_address = ""

    @property
    def trust(self) -> bytes:
        return self.authority.bundle_pem

    def refresh(self) -> None:
        """Look at the files, as the daemon does every second."""
        self.authority.refresh()
        self.tls.refresh()

    def agent(self, roots: bytes | None = None) -> Shown:
        """Return what an agent has that enrols now."""
        key = ec_key()
        issued = self.authority.sign(csr_pem(key), AGENT)
        return Shown(
            roots=issued.bundle_pem.encode() if roots is None else roots,
            key=key_pem(key),
            chain=issued.chain_pem.encode(),
        )


@asynccontextmanager
async def tls_ports(
    ca_dir: Path,
    *,
    identity: ServerIdentity | None = None,
    trust_bundle: Path | None = None,
    **options: Any,
) -> AsyncIterator[TlsPorts]:
    """Serve both ports on loopback with the authority in a directory, which is made if need be."""
    authority.init(ca_dir, DOMAIN)
    own = FileAuthority.open(ca_dir, DOMAIN, 3600.0)
    others = None if trust_bundle is None else TrustFile(trust_bundle)
    tls = ServerTls(
        identity or SignedIdentity(own, ["localhost", "127.0.0.1"]),
        lambda: (*own.trusted, *(() if others is None else others.current())),
    )
    ports = TlsPorts(own, tls)
    chosen = ServerOptions(address=LOOPBACK, mtls_address=LOOPBACK, **options)
    server = grpc.aio.server(options=chosen.channel_arguments())
    handlers: dict[str, Any] = {
        "Who": grpc.unary_unary_rpc_method_handler(_who),
        "Echo": grpc.stream_stream_rpc_method_handler(_echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Ports", handlers),))
    bound = bind_ports(
        server,
        chosen,
        PortCredentials(tls=tls.tls_credentials(), mtls=tls.mtls_credentials()),
    )
    ports.address, ports.mtls_address = bound.address, bound.mtls_address or ""
    await server.start()
    try:
        yield ports
    finally:
        await server.stop(0)


async def _who(_request: bytes, context: Any) -> bytes:
    """Return the identity in the client's certificate; empty without one."""
    uris = context.auth_context().get("peer_spiffe_id") or [b""]
    return bytes(uris[0])


async def _echo(_requests: Any, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


@asynccontextmanager
async def channel_of(address: str, shown: Shown, name: str = "") -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(shown.roots, shown.key, shown.chain)
    options = [*_OWN_CONNECTION]
    if name:
        options.append(("grpc.ssl_target_name_override", name))  # type: ignore[arg-type]  # a text
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        yield channel


async def ask(channel: grpc.aio.Channel) -> str:
    """Return which identity the server saw."""
    call: Any = channel.unary_unary("/test.Ports/Who")
    reply: bytes = await call(b"", timeout=CALL_SECONDS)
    return reply.decode()


async def who_am_i(address: str, shown: Shown, name: str = "") -> str:
    """Return which identity the server saw on a new connection."""
    async with channel_of(address, shown, name) as channel:
        return await ask(channel)


async def refused(address: str, shown: Shown, name: str = "") -> grpc.StatusCode | None:
    """Return with which status a new connection fails; None if it does not."""
    try:
        await who_am_i(address, shown, name)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def raw_exchange(address: str, sent: bytes) -> bytes:
    """Send bytes on a plain connection; return all that comes back until the server closes it."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(CALL_SECONDS):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
