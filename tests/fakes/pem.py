"""Keys, certificate requests and certificates of agents, other authorities and attackers."""

import datetime as dt
import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def key_pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def csr_pem(key: Any) -> str:
    """A request whose subject asks for more than it should get."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://other/admin")]),
        critical=False,
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class OtherAuthority:
    """An authority that is not the built-in one, such as SPIRE or a company's."""

    def __init__(self, name: str = "Other", *, life: dt.timedelta = dt.timedelta(hours=1)) -> None:
        self.life = life
        self.key = ec_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = self._signed(self.name, self.key.public_key(), [], ca=True)

    @property
    def root_pem(self) -> bytes:
        return self.root.public_bytes(Encoding.PEM)

    def identity(self, *uris: str) -> tuple[bytes, bytes]:
        """Return the key and the certificate of a client."""
        return self._leaf([x509.UniformResourceIdentifier(uri) for uri in uris])

    def server(self, *names: str) -> tuple[bytes, bytes]:
        """Return the key and the certificate of a server on loopback."""
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return self._leaf([loopback, *map(x509.DNSName, names)])

    def _leaf(self, names: list[x509.GeneralName]) -> tuple[bytes, bytes]:
        key = ec_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        certificate = self._signed(subject, key.public_key(), names, ca=False)
        return key_pem(key), certificate.public_bytes(Encoding.PEM)

    def _signed(
        self, subject: x509.Name, key: Any, names: list[x509.GeneralName], *, ca: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + self.life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())
