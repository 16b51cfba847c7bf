"""How the SDK talks to the control plane: addresses, security, keepalive, deadlines, retries."""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc

from fleetplane._version import __version__

DEFAULT_TARGET: Final = "127.0.0.1:50051"
"""Where `fleetplane serve` listens unless told otherwise."""

_MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Security of the connection."""

    root_certificates: bytes | None = None
    """PEM of the authorities that may vouch for the daemon. Default: those of the system."""
    certificate_chain: bytes | None = None
    """PEM of the client's certificate, for daemons that demand one (`--listen-mtls`)."""
    private_key: bytes | None = field(default=None, repr=False)
    """PEM of the client's key. Never shown."""

    def __post_init__(self) -> None:
        """Refuse half an identity.

        Raises:
            ValueError: only one of certificate and key was given.
        """
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("certificate_chain and private_key belong together")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a refused call is repeated.

    Calls that failed with UNAVAILABLE, or with any refusal that names a time to retry after, are
    repeated until the deadline of the call. Writes carry one `request_id` over all attempts, so
    that a repeated write happens once.
    """

    initial_backoff: float = 0.05
    """Upper bound of the first random wait, in seconds; it doubles with every attempt."""
    max_backoff: float = 2.0
    """Upper bound of every later wait, in seconds."""
    max_attempts: int = 100
    """Attempts in all, including the first; 1 never retries. The deadline usually comes first."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ValueError: a bound is not positive, or the bounds are in the wrong order.
        """
        if not 0 < self.initial_backoff <= self.max_backoff:
            raise ValueError("0 < initial_backoff <= max_backoff must hold")
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """Everything about the connection that is not its address. Immutable; share it freely."""

    tls: TlsConfig | None = None
    """Encrypt and authenticate. Default: plain text, which daemons accept on loopback only."""
    token: str = field(default="", repr=False)
    """Bearer token sent with every call. Only over TLS, loopback or a unix socket. Never shown."""
    authority: str = ""
    """Name expected in the daemon's certificate, if it differs from the address."""
    default_timeout: float = 10.0
    """Deadline of a unary call in seconds, retries included, when the call names none."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """When refused calls are repeated."""
    keepalive_time: float = 30.0
    """Seconds of silence after which the connection is probed. Daemons refuse less than 20."""
    keepalive_timeout: float = 10.0
    """Seconds to wait for the answer to a probe before the connection counts as dead."""
    keepalive_permit_without_calls: bool = True
    """Probe also while no call is in flight, so that the next one finds a live connection."""
    max_receive_bytes: int = 16 * _MEBIBYTE
    """Largest message accepted. A page of 1,000 large agents may exceed the daemon's own 4 MiB."""
    max_send_bytes: int = 4 * _MEBIBYTE
    """Largest message sent; the daemon accepts 4 MiB unless configured otherwise."""
    max_reconnect_backoff: float = 5.0
    """Longest pause in seconds between attempts to connect to a daemon that is away."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ValueError: a time or size is not positive.
        """
        for name in (
            "default_timeout",
            "keepalive_time",
            "keepalive_timeout",
            "max_receive_bytes",
            "max_send_bytes",
            "max_reconnect_backoff",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")

    def options(self) -> list[tuple[str, int | str]]:
        """Return these settings in gRPC's own vocabulary."""
        options: list[tuple[str, int | str]] = [
            ("grpc.keepalive_time_ms", _milliseconds(self.keepalive_time)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_timeout)),
            ("grpc.keepalive_permit_without_calls", int(self.keepalive_permit_without_calls)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", self.max_receive_bytes),
            ("grpc.max_send_message_length", self.max_send_bytes),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", _milliseconds(self.max_reconnect_backoff)),
            ("grpc.primary_user_agent", f"fleetplane-python/{__version__}"),
            # The SDK retries itself: it knows RetryInfo and request ids, gRPC's own loop does not.
            ("grpc.enable_retries", 0),
            ("grpc.service_config", _SERVICE_CONFIG),
        ]
        if self.authority:
            options.append(("grpc.default_authority", self.authority))
            options.append(("grpc.ssl_target_name_override", self.authority))
        return options

    def call_metadata(self) -> tuple[tuple[str, str], ...] | None:
        """Return what is sent with every call, or None."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else None


_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
"""Calls go to all addresses a name resolves to: replicas are identical."""


def open_channel(target: str, config: ChannelConfig) -> grpc.aio.Channel:
    """Open a channel within the running event loop; it connects at its first call.

    Args:
        target: `host:port`, `dns:///name:port` or `unix:/path`.
        config: everything else.

    Raises:
        ValueError: a token would travel in plain text to another machine.
    """
    options: Sequence[tuple[str, int | str]] = config.options()
    if config.tls is None:
        if config.token and not _is_local(target):
            raise ValueError(
                "a token needs TLS unless the daemon is on this machine: pass ca=..., or "
                "ChannelConfig(tls=TlsConfig()) to trust the authorities of this system"
            )
        return grpc.aio.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=config.tls.root_certificates,
        private_key=config.tls.private_key,
        certificate_chain=config.tls.certificate_chain,
    )
    return grpc.aio.secure_channel(target, credentials, options=options)


def _is_local(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.rpartition("/")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
