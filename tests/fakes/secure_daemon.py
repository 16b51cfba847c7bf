"""A daemon with security turned on, and callers of every kind."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleetplane.v1 import (
    identity_service_pb2,
    identity_service_pb2_grpc,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
)
from tests.fakes.daemon import Daemon, Setting, running_daemon

CALL_SECONDS: Final = 20.0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A client certificate with its key."""

    chain: bytes
    key: bytes
    roots: bytes

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.roots, self.key, self.chain)


def key_and_request(common_name: str = "agent", key: Any = None) -> tuple[bytes, str]:
    """Return a new private key and a signing request for it, in PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, request.public_bytes(serialization.Encoding.PEM).decode()


class SecureDaemon:
    """A running daemon, its administrator, and what it takes to call it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ca_dir = daemon.data_dir / "ca"
        self._first = self

    def shares_authority_with(self, other: "SecureDaemon") -> None:
        """Say that the authority and the administrator's token are those of another replica."""
        self.ca_dir = other.ca_dir
        self._first = other

    @property
    def address(self) -> str:
        """The port for tokens."""
        return self.daemon.address

    @property
    def mtls_address(self) -> str:
        """The port that demands a certificate."""
        announced = (self.daemon.directory / "announced").read_text(encoding="utf-8")
        address: str = json.loads(announced.splitlines()[0])["listen_mtls"]
        return address

    @property
    def roots(self) -> bytes:
        return (self.ca_dir / "bundle.pem").read_bytes()

    @property
    def admin_token(self) -> str:
        return (self._first.daemon.data_dir / "admin-token").read_text(encoding="utf-8").strip()

    def channel(self) -> grpc.Channel:
        """Return a channel to the port for tokens, without a credential."""
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.roots))

    def agent_channel(self, identity: Identity) -> grpc.Channel:
        """Return a channel to the port for certificates."""
        return grpc.secure_channel(self.mtls_address, identity.credentials)

    @contextlib.contextmanager
    def identities(self) -> Iterator[Any]:
        with self.channel() as channel:
            yield identity_service_pb2_grpc.IdentityServiceStub(channel)

    @property
    def as_admin(self) -> Any:
        return bearer(self.admin_token)

    def make_namespace(self, name: str, **quotas: int) -> None:
        with self.channel() as channel:
            stub: Any = namespace_service_pb2_grpc.NamespaceServiceStub(channel)
            stub.CreateNamespace(
                namespace_service_pb2.CreateNamespaceRequest(
                    name=name, quotas=namespace_service_pb2.Quotas(**quotas)
                ),
                metadata=self.as_admin,
                timeout=CALL_SECONDS,
            )

    def api_token(self, role: str, namespace: str, **fields: Any) -> tuple[str, str]:
        """Make a token; return its id and its secret."""
        with self.identities() as stub:
            made = stub.CreateApiToken(
                identity_service_pb2.CreateApiTokenRequest(
                    namespace=namespace, name=f"{role} of {namespace}", role=role, **fields
                ),
                metadata=self.as_admin,
                timeout=CALL_SECONDS,
            )
            return made.token.token_id, made.secret

    def join_token(self, namespace: str, **fields: Any) -> tuple[str, str]:
        """Make a join token; return its id and its secret."""
        with self.identities() as stub:
            made = stub.CreateJoinToken(
                identity_service_pb2.CreateJoinTokenRequest(namespace=namespace, **fields),
                metadata=self.as_admin,
                timeout=CALL_SECONDS,
            )
            return made.token.token_id, made.secret

    def enrol(self, namespace: str, agent_name: str) -> Identity:
        """Return a fresh identity of an agent."""
        _, secret = self.join_token(namespace)
        key, request = key_and_request()
        with self.identities() as stub:
            issued = stub.Enroll(
                identity_service_pb2.EnrollRequest(
                    join_token=secret, agent_name=agent_name, csr=request
                ),
                timeout=CALL_SECONDS,
            ).issued
        return Identity(
            chain=issued.certificate_chain.encode(), key=key, roots=issued.trust_bundle.encode()
        )


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a caller with a token."""
    return (("authorization", f"Bearer {token}"),)


@contextlib.contextmanager
def secure_daemon(**settings: Setting) -> Iterator[SecureDaemon]:
    """Run a daemon with the built-in authority on two free loopback ports."""
    chosen: dict[str, Setting] = {"secure": True, "listen_mtls": "127.0.0.1:0"}
    with running_daemon(**(chosen | settings)) as daemon:
        yield SecureDaemon(daemon)
