"""A certificate authority in memory, for tests of whom a client trusts."""

import hashlib
import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE: Final = timedelta(hours=1)


class SmallAuthority:
    """Signs certificates for servers on loopback and for clients.

    Args:
        name: common name of its root.
    """

    def __init__(self, name: str = "root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = _certificate(name, self._key.public_key(), None, self._key)
        self.pem = _pem(self._root)
        self.fingerprint = f"sha256:{_fingerprint(self._root)}"

    def issue(self, name: str = "localhost") -> tuple[bytes, bytes]:
        """Return key and certificate, in PEM, for `name` and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key.public_key(), self._root, self._key)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return private, _pem(certificate)

    def server(self, *, demands_clients: bool = False) -> grpc.ServerCredentials:
        """Return credentials of a server that shows its root too."""
        key, certificate = self.issue()
        return grpc.ssl_server_credentials(
            [(key, certificate + self.pem)],
            self.pem if demands_clients else None,
            demands_clients,
        )


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        names: list[x509.GeneralName] = [
            x509.DNSName(name),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
