"""Builds the gRPC server: its options, its services behind the pipeline, its ports."""

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from controlplane.api.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from controlplane.api.health import Health
from controlplane.api.pipeline import Pipeline, Registrar
from controlplane.api.reflection import add_reflection

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
MEBIBYTE: Final = 1024 * 1024
KIBIBYTE: Final = 1024

_log = logging.getLogger("fleetplane.server")


class ListenError(Exception):
    """The daemon cannot listen on the address it was given."""


class InsecureAddress(ListenError):
    """The address can be reached from other machines, and nothing would protect it."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address} can be reached from other machines, and this daemon has neither TLS nor"
            " authentication there: anybody could change your agents. Pass --secure, or listen on"
            " loopback (127.0.0.1:50051) or a unix socket, or pass --insecure if a network policy"
            " or a proxy protects it"
        )
        self.address = address


class AddressUnavailable(ListenError):
    """The port is taken, the socket's directory does not exist, or the host is not ours."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"cannot listen on {address}: is another daemon running there?"
            " Choose another port, or port 0 for a free one"
        )
        self.address = address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server listens and how it keeps connections.

    Attributes:
        address: `host:port`, `[ipv6]:port`, `unix:/path` or `unix-abstract:name`. Port 0 takes a
            free one. Default `127.0.0.1:50051`.
        mtls_address: `host:port` of a second port, where a client certificate is demanded; None for
            no such port. Default None.
        insecure: Allow an address that other machines can reach, without TLS and authentication.
            Default False.
        share_port: Let several worker processes bind the same port; the kernel spreads connections.
            Default False: a second daemon on the same port would silently take half the traffic.
        reflection: Describe the services to tools. Default True.
        channelz: Show the daemon's connections and sockets; only served when listening on loopback
            or a unix socket. Default True.
        max_message_bytes: Longest request, and longest reply. Default 4 MiB.
        max_pending_calls: Calls that may wait to be accepted. Default 20,000: with grpc's own 1,000
            the streams of a fleet that comes back together are refused at random, as CANCELLED.
        keepalive_seconds: Silence on a connection after which the server pings the peer. Default
            60; clients ping every 30 s, so this finds peers that died with their ping.
        keepalive_timeout_seconds: How long the peer may take to answer. Default 10.
        min_ping_interval_seconds: Peers that ping more often are disconnected. Default 10, well
            below the 30 s of our clients.
        connection_age_seconds: Age at which a connection is asked to be replaced, so that load
            spreads over replicas; grpc takes 10 % off or adds them at random. Default 30 min.
        connection_grace_seconds: How long calls on such a connection may go on. Default 25 min:
            longer than the maximum age of a stream, so that no stream is cut.
        max_metadata_bytes: Longest metadata of a request; longer ones are refused. Default 16 KiB,
            which holds any token.
        handshake_seconds: How long a connection may take until it speaks HTTP/2. Default 10.
        idle_connection_seconds: A connection without calls is closed after so long. Default 600.
        max_connection_streams: Calls and streams at once on one connection; more of them wait in
            the client. Default 21,000: a gateway may bring all 20,000 streams of a replica on one.
    """

    address: str = DEFAULT_ADDRESS
    mtls_address: str | None = None
    insecure: bool = False
    share_port: bool = False
    reflection: bool = True
    channelz: bool = True
    max_message_bytes: int = 4 * MEBIBYTE
    max_pending_calls: int = 20_000
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 10.0
    min_ping_interval_seconds: float = 10.0
    connection_age_seconds: float = 1800.0
    connection_grace_seconds: float = 1500.0
    max_metadata_bytes: int = 16 * KIBIBYTE
    handshake_seconds: float = 10.0
    idle_connection_seconds: float = 600.0
    max_connection_streams: int = 21_000

    def channel_arguments(self) -> tuple[tuple[str, int], ...]:
        """Return the options as grpc's core knows them."""
        return (
            ("grpc.so_reuseport", int(self.share_port)),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.server.max_pending_requests", self.max_pending_calls),
            ("grpc.server.max_pending_requests_hard_limit", self.max_pending_calls),
            ("grpc.keepalive_time_ms", _milliseconds(self.keepalive_seconds)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_timeout_seconds)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # the default 2 stops pings on idle streams
            (
                "grpc.http2.min_ping_interval_without_data_ms",
                _milliseconds(self.min_ping_interval_seconds),
            ),
            ("grpc.max_connection_age_ms", _milliseconds(self.connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.connection_grace_seconds)),
            ("grpc.max_connection_idle_ms", _milliseconds(self.idle_connection_seconds)),
            ("grpc.server_handshake_timeout_ms", _milliseconds(self.handshake_seconds)),
            # Between the soft and the hard limit grpc refuses at random.
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_concurrent_streams", self.max_connection_streams),
            ("grpc.enable_channelz", int(self.serves_channelz)),
        )

    @property
    def serves_channelz(self) -> bool:
        """Whether channelz is wanted and all addresses are private to this machine."""
        return (
            self.channelz
            and is_local(self.address)
            and (self.mtls_address is None or is_local(self.mtls_address))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortCredentials:
    """TLS of the ports."""

    tls: grpc.ServerCredentials
    """Of the port that asks for no client certificate."""
    mtls: grpc.ServerCredentials | None = None
    """Of the port that demands one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The addresses that were taken, with their ports."""

    address: str
    """Such as `127.0.0.1:50051`."""
    mtls_address: str | None
    """Of the port that demands a client certificate; None if there is none."""


def create_server(
    options: ServerOptions,
    pipeline: Pipeline,
    add_services: Callable[[grpc.aio.Server], None],
) -> tuple[grpc.aio.Server, Health]:
    """Return a server with the given services, health, reflection and channelz, not yet bound.

    Args:
        options: How it keeps connections, and what it serves besides.
        pipeline: Wraps every handler, also those of health, reflection and channelz.
        add_services: Adds the services: calls the generated `add_*Servicer_to_server(servicer,
            server)` with the server it is given, which wraps the handlers and passes them on.

    Returns:
        The server, and its health service, which says NOT_SERVING until `set_ready(True)`.

    Raises:
        RegistrationError: a handler has no row in `METHODS`, or is not asynchronous.
    """
    server = grpc.aio.server(options=options.channel_arguments())
    registrar = pipeline.registrar(server)
    add_services(registrar.server)
    health = Health((*registrar.services, HEALTH_SERVICE_NAME))
    health_pb2_grpc.add_HealthServicer_to_server(health, registrar.server)
    if options.serves_channelz:
        _add_channelz(registrar)
    if options.reflection:
        add_reflection(registrar.services, registrar)
    registrar.seal()
    return server, health


def bind(server: grpc.aio.Server, options: ServerOptions) -> str:
    """Open the one port of a server without TLS; see `bind_ports`.

    Returns:
        The address with the port that was taken, such as `127.0.0.1:50051`.
    """
    return bind_ports(server, options, None).address


def bind_ports(
    server: grpc.aio.Server, options: ServerOptions, credentials: PortCredentials | None
) -> Bound:
    """Open the ports. Call `server.start()` next.

    Args:
        server: Whose ports they are.
        options: Where it listens.
        credentials: TLS of the ports; None for plain text. Unix sockets are always plain text:
            nobody can listen in on them.

    Raises:
        InsecureAddress: other machines can reach the address, there is no TLS, and `insecure` is
            False.
        AddressUnavailable: an address is taken or not ours.
        ValueError: there is an `mtls_address` and no TLS for it.
    """
    if options.mtls_address is not None and (credentials is None or credentials.mtls is None):
        raise ValueError("a port that demands client certificates needs TLS")
    address = options.address
    if credentials is None and not is_local(address):
        if not options.insecure:
            raise InsecureAddress(address)
        _log.warning(
            "serving without TLS and authentication where other machines can reach it: whoever"
            " connects is the local admin",
            extra={"address": address},
        )
    tls = None if credentials is None or _is_unix(address) else credentials.tls
    taken = _bind_one(server, address, tls)
    mtls_taken = None
    if options.mtls_address is not None and credentials is not None:
        mtls_taken = _bind_one(server, options.mtls_address, credentials.mtls)
    return Bound(address=taken, mtls_address=mtls_taken)


def _bind_one(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> str:
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise AddressUnavailable(address) from error
    if _is_unix(address):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def is_local(address: str) -> bool:
    """Return whether only this machine can reach `address`; False if it cannot be told."""
    if _is_unix(address):
        return True
    try:
        host = urlsplit(f"//{address}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_unix(address: str) -> bool:
    return address.startswith(("unix:", "unix-abstract:"))


def _add_channelz(registrar: Registrar) -> None:
    channelz_pb2_grpc.add_ChannelzServicer_to_server(
        channelz.aio.ChannelzServicer(), registrar.server
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
