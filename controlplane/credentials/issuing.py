"""Certificates that the built-in authority signs: those of agents, and the daemon's own."""

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.credentials.roots import Roots, pem_of
from controlplane.domain.errors import InvalidArgument

BACKDATED: Final = dt.timedelta(seconds=30)
"""How long before its signing a certificate is valid: clocks of hosts differ."""

MAX_CSR_BYTES: Final = 16 * 1024
"""Longest certificate request; one with an RSA key of 4096 bits takes 2 KiB."""

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
"""Longer keys make a handshake a way to keep the daemon busy."""

_CSR: Final = "csr"

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A private key and the certificates that go with it."""

    key_pem: bytes = field(repr=False)
    """PKCS 8, not encrypted. Never shown."""
    chain_pem: bytes
    """The certificate first, then what joins it to the roots."""
    not_before: dt.datetime
    """From when on the certificate is valid."""
    not_after: dt.datetime
    """Until when."""

    def is_due(self, now: dt.datetime) -> bool:
        """Return whether half of its life is over, or `now` is not in it: clocks are set back."""
        return not self.not_before <= now < self.not_before + (self.not_after - self.not_before) / 2


def key_of_request(csr_pem: str) -> PublicKey:
    """Return the public key of a certificate request, whose private key its sender has.

    Raises:
        InvalidArgument: field `csr`; too long, malformed, not signed by its key, or a key that TLS
            does not take here: only ECDSA on P-256 or P-384, and RSA of 2048-4096 bits.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise InvalidArgument.of(_CSR, f"is longer than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidArgument.of(_CSR, "is not a certificate request in PEM") from None
    _check_strength(key)
    if not is_signed:
        raise InvalidArgument.of(_CSR, "is not signed by its own key")
    return key  # type: ignore[return-value]  # _check_strength lets no other kind pass


def _check_strength(key: object) -> None:
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return
        case rsa.RSAPublicKey() if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return
    raise InvalidArgument.of(
        _CSR,
        "its key must be ECDSA on P-256 or P-384, or RSA of"
        f" {MIN_RSA_BITS}-{MAX_RSA_BITS} bits: TLS takes no other here",
    )


def issue_identity(
    roots: Roots, key: PublicKey, spiffe_id: str, *, now: dt.datetime, life: dt.timedelta
) -> x509.Certificate:
    """Return a certificate with which the holder of a key can say that it is `spiffe_id`."""
    uri = x509.UniformResourceIdentifier(spiffe_id)
    return _issued(roots, key, [uri], ExtendedKeyUsageOID.CLIENT_AUTH, _validity(roots, now, life))


def issue_server(
    roots: Roots, names: Iterable[str], *, now: dt.datetime, life: dt.timedelta
) -> KeyPair:
    """Return a new key and a certificate for a server that is reached by these names.

    The root comes last in the chain: nobody trusts it for that, but who was told its fingerprint
    finds it there (`fleetplane login --ca-fingerprint`).

    Args:
        roots: Who signs.
        names: Host names and IP addresses.
        now: From when on it is valid, give or take half a minute.
        life: How long it is valid.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    validity = _validity(roots, now, life)
    certificate = _issued(
        roots,
        key.public_key(),
        [_general_name(name) for name in names],
        ExtendedKeyUsageOID.SERVER_AUTH,
        validity,
    )
    return KeyPair(
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        chain_pem=pem_of(certificate, *roots.chain, roots.current),
        not_before=validity[0],
        not_after=validity[1],
    )


def _validity(
    roots: Roots, now: dt.datetime, life: dt.timedelta
) -> tuple[dt.datetime, dt.datetime]:
    return now - BACKDATED, min(now + life, roots.current.not_valid_after_utc)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _issued(
    roots: Roots,
    key: PublicKey,
    names: Iterable[x509.GeneralName],
    use: x509.ObjectIdentifier,
    validity: tuple[dt.datetime, dt.datetime],
) -> x509.Certificate:
    """Sign a certificate that cannot sign others, with nothing in it but names and a use."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(roots.current.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USES[isinstance(key, rsa.RSAPublicKey)], critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        # The subject is empty, so this is where the name is; the standard then calls it critical.
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(roots.key.public_key()),
            critical=False,
        )
        .sign(roots.key, hashes.SHA256())
    )


def _key_usage(*, key_encipherment: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


_USES: Final = {True: _key_usage(key_encipherment=True), False: _key_usage(key_encipherment=False)}
"""By whether the key is RSA, which TLS 1.2 may also encrypt with."""
