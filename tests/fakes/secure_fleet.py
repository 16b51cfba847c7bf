# ruff: noqa: N802  # the names of the methods are those of the contract
"""The control plane in memory behind TLS: it enrols agents, renews certificates, ends them.

One port speaks TLS, the other one demands client certificates. Calls with a certificate that has
ended are refused, and streams are sent away when the certificate of their connection ends.
"""

import asyncio
import datetime as dt
import ipaddress
import math
import time
from collections import Counter
from types import TracebackType
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import timestamp_pb2

from fleetplane.v1 import identity_service_pb2, identity_service_pb2_grpc
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.fleet_registry import Service
from tests.fakes.fleet_server import FleetServer

_DAY = 86_400.0

SECRET = "jt-1.secret"  # noqa: S105  # the secret of the fake
"""Join token that the plane accepts."""


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Authority:
    """Signs certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        root = self._builder(self._name, self._key.public_key(), time.time() + _DAY)
        root = root.add_extension(constraints, critical=True)
        self.root = self._pem(root)

    def _builder(self, subject: x509.Name, key: Any, ends: float) -> x509.CertificateBuilder:
        start = dt.datetime.fromtimestamp(time.time() - 60, dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(dt.datetime.fromtimestamp(ends, dt.UTC))
        )

    def _pem(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(self, key: Any, *names: x509.GeneralName, ends: float) -> bytes:
        """Return the certificate of a public key, in PEM."""
        builder = self._builder(x509.Name([]), key, ends)
        return self._pem(builder.add_extension(x509.SubjectAlternativeName(names), critical=True))

    def pair(self, *names: x509.GeneralName, life: float = _DAY) -> tuple[bytes, bytes]:
        """Return a new key and its certificate, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return pem_of(key), self.sign(key.public_key(), *names, ends=time.time() + life)

    def server_pair(self) -> tuple[bytes, bytes]:
        """Return key and certificate of a server on this machine."""
        address = ipaddress.ip_address("127.0.0.1")
        return self.pair(x509.IPAddress(address), x509.DNSName("localhost"))


class IdentityFake(Service, identity_service_pb2_grpc.IdentityServiceServicer):
    """Enrols whoever has the join token, as often as it allows."""

    def __init__(self, plane: Plane, fleet: "SecureFleet") -> None:
        super().__init__(plane)
        self._fleet = fleet

    async def Enroll(self, request: Any, context: Any) -> Any:
        await self.enter("Enroll", context, request)
        namespace = self._fleet.secrets.get(request.join_token, "")
        if not namespace:
            await self._refuse(context, "CREDENTIAL_INVALID")
        if self._fleet.uses_left <= 0:
            await self._refuse(context, "CREDENTIAL_REVOKED")
        self._fleet.uses_left -= 1
        return identity_service_pb2.EnrollResponse(
            issued=self._fleet.issue(request.csr, request.agent_name), namespace=namespace
        )

    async def RenewCertificate(self, request: Any, context: Any) -> Any:
        await self.enter("RenewCertificate", context, request)
        held = certificate_of(context)
        if held is None:
            await self._refuse(context, "CREDENTIAL_MISSING")
            raise AssertionError("unreachable")
        name = spiffe_id_of(held).rpartition("/")[2]
        return identity_service_pb2.RenewCertificateResponse(
            issued=self._fleet.issue(request.csr, name)
        )

    async def WhoAmI(self, request: Any, context: Any) -> Any:
        await self.enter("WhoAmI", context, request)
        held = certificate_of(context)
        named = dict(context.invocation_metadata() or ())
        return identity_service_pb2.WhoAmIResponse(
            name=str(named.get("authorization", "")) if held is None else spiffe_id_of(held)
        )

    async def _refuse(self, context: Any, reason: str) -> None:
        await self.refuse(context, Refusal(grpc.StatusCode.UNAUTHENTICATED, reason))


def certificate_of(context: Any) -> x509.Certificate | None:
    """Return the certificate that a call is made with."""
    pem = context.auth_context().get("x509_pem_cert")
    return x509.load_pem_x509_certificate(pem[0]) if pem else None


def spiffe_id_of(certificate: x509.Certificate) -> str:
    """Return the identity in a certificate."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(names.get_values_for_type(x509.UniformResourceIdentifier)[0])


class SecureFleet(FleetServer):
    """Serves a plane on a port for TLS and on one that demands certificates.

    Attributes:
        life: seconds that certificates of agents live.
        uses_left: enrolments that the join tokens are good for together.
        secrets: join tokens that are accepted, and the namespace of each.
        refused: calls that were made with a certificate that had ended, by method.
        serials: certificates that calls were made with, by method.
    """

    def __init__(self, *, life: float = _DAY, uses_left: int = 1) -> None:
        super().__init__()
        self.authority = Authority("fleet 1")
        self.life = life
        self.uses_left = uses_left
        self.secrets = {SECRET: "research"}
        self.refused: Counter[str] = Counter()
        self.serials: dict[str, list[int]] = {}
        self.bundle = self.authority.root
        self.mtls_port = 0
        self._timers: list[asyncio.TimerHandle] = []
        self.plane.gate = self._gate

    @property
    def mtls_target(self) -> str:
        """Address of the port that demands certificates."""
        return f"127.0.0.1:{self.mtls_port}"

    def bind(self, server: grpc.aio.Server) -> None:
        """Open both ports."""
        identity_service_pb2_grpc.add_IdentityServiceServicer_to_server(
            IdentityFake(self.plane, self),  # type: ignore[abstract]  # the rest is not called
            server,
        )
        pair = self.authority.server_pair()
        self.port = server.add_secure_port(self.target, grpc.ssl_server_credentials([pair]))
        demanding = grpc.ssl_server_credentials(
            [pair], self.authority.root, require_client_auth=True
        )
        self.mtls_port = server.add_secure_port(self.mtls_target, demanding)

    def issue(self, csr: str, name: str) -> identity_service_pb2.IssuedCertificate:
        """Sign the key in a request, and send the streams away when the certificate ends."""
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        spiffe_id = f"spiffe://fleet/ns/research/agent/{name}"
        now = time.time()
        ends = math.ceil(now + self.life)  # X.509 knows whole seconds
        chain = self.authority.sign(
            request.public_key(), x509.UniformResourceIdentifier(spiffe_id), ends=ends
        )
        self._timers.append(asyncio.get_running_loop().call_later(ends - now, self._send_away))
        return identity_service_pb2.IssuedCertificate(
            certificate_chain=chain.decode(),
            trust_bundle=self.bundle.decode(),
            spiffe_id=spiffe_id,
            expires_at=_timestamp(ends),
            renew_after=_timestamp((now + ends) / 2),
        )

    def _send_away(self) -> None:
        self.plane.sent_away += 1
        self.plane.touch()

    def _gate(self, method: str, context: Any) -> Refusal | None:
        held = certificate_of(context)
        if held is None:
            return None
        self.serials.setdefault(method, []).append(held.serial_number)
        if held.not_valid_after_utc.timestamp() < time.time():
            self.refused[method] += 1
            return Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED")
        return None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        await self.stop()


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    whole = int(seconds)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))
