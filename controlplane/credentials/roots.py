"""The roots of the built-in authority: how one is made, how the next one follows.

Each root has a key and a subject name of its own: with equal names, verifiers try only one of two
roots. A new root is also signed by the one before. That certificate is sent along with everything
the new root signs, so whoever knows only the old root accepts it.
"""

import datetime as dt
import itertools
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

ROOT_LIFE: Final = dt.timedelta(days=3650)
"""Ten years: replacing a root is for the operator to decide, not for a date."""

ROOT_BACKDATED: Final = dt.timedelta(minutes=5)
"""How long before its making a root is valid; more than what it signs is backdated."""

KEPT_ROOTS: Final = 2
"""Roots before the current one that stay trusted: enough for two rotations within the life of one
certificate."""

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


class RootsUnusable(Exception):
    """A text is not the key and the certificates of an authority; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The current root with its key, and what connects it to those before."""

    key: ec.EllipticCurvePrivateKey
    """Of the current root."""
    current: x509.Certificate
    """Signs."""
    chain: tuple[x509.Certificate, ...]
    """The current root signed by the one before, that one signed by the one before it, ..."""
    earlier: tuple[x509.Certificate, ...]
    """Roots before that are still trusted, the latest first."""

    @classmethod
    def first(cls, trust_domain: str, now: dt.datetime) -> Self:
        """Make the root of a new authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        current = _signed(_root_name(trust_domain), key, trust_domain, now, now + ROOT_LIFE)
        return cls(key=key, current=current, chain=(), earlier=())

    def next(self, now: dt.datetime) -> Self:
        """Make the root that follows this one, and is trusted by whoever trusts this one.

        A root that has expired is followed all the same, but nobody trusts it any more: then the
        new one stands alone.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name, domain = _root_name(self.trust_domain), self.trust_domain
        current = _signed(name, key, domain, now, now + ROOT_LIFE)
        until = self.current.not_valid_after_utc
        if until <= now:
            return replace(self, key=key, current=current, chain=(), earlier=())
        joined = _signed(name, key, domain, now, until, (self.current, self.key))
        earlier = (self.current, *self.earlier)[:KEPT_ROOTS]
        return replace(
            self,
            key=key,
            current=current,
            chain=(joined, *self.chain)[:KEPT_ROOTS],
            earlier=tuple(one for one in earlier if one.not_valid_after_utc > now),
        )

    def alone(self) -> Self:
        """Return the current root as the only one that is trusted.

        What joins it to earlier ones is still sent along: those who know only them can go on to
        verify the daemon.
        """
        return replace(self, earlier=())

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """The current root and those before that are still trusted."""
        return (self.current, *self.earlier)

    @property
    def trust_domain(self) -> str:
        """SPIFFE trust domain that the roots are for."""
        return trust_domain_in(self.current)

    def to_pem(self) -> bytes:
        """Return everything as one text, the key first."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + pem_of(self.current, *self.chain, *self.earlier)

    @classmethod
    def from_pem(cls, text: bytes) -> Self:
        """Read what `to_pem` has written.

        Raises:
            RootsUnusable: something is missing, malformed, or does not belong together.
        """
        try:
            key = load_pem_private_key(text, password=None)
            certificates = certificates_in(text)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RootsUnusable("it is not a private key followed by certificates") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(
            key.curve, ec.SECP256R1 | ec.SECP384R1
        ):
            raise RootsUnusable("its key is not an ECDSA key on P-256 or P-384")
        if not certificates or certificates[0].public_key() != key.public_key():
            raise RootsUnusable("its first certificate does not belong to its key")
        current, *others = certificates
        if not is_signed_by(current, current):
            raise RootsUnusable("its first certificate is not self-signed")
        roots = cls(
            key=key,
            current=current,
            chain=tuple(one for one in others if one.issuer != one.subject),
            earlier=tuple(one for one in others if one.issuer == one.subject),
        )
        if not roots.trust_domain:
            raise RootsUnusable("its first certificate names no SPIFFE trust domain")
        return roots


def certificates_in(text: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a PEM text, whatever else it holds.

    Raises:
        ValueError: one of them is malformed.
    """
    return tuple(x509.load_pem_x509_certificate(one) for one in _CERTIFICATE.findall(text))


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Return certificates as one PEM text."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Return whether the key of `root` has signed `certificate`, and is named as its issuer."""
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def share_a_name(certificates: Sequence[x509.Certificate]) -> bool:
    """Return whether two different certificates have one subject name."""
    return any(
        one.subject == other.subject and one != other
        for one, other in itertools.combinations(certificates, 2)
    )


def uris_in(certificate: x509.Certificate) -> list[str]:
    """Return the URIs among the names of a certificate.

    Raises:
        ValueError: its extensions are malformed.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def trust_domain_in(root: x509.Certificate) -> str:
    """Return the SPIFFE trust domain that a root is for; empty if it says none."""
    try:
        (uri,) = uris_in(root)
    except ValueError:
        return ""
    return uri.removeprefix("spiffe://") if uri.startswith("spiffe://") else ""


def _root_name(trust_domain: str) -> x509.Name:
    """Return a subject name that no other root has."""
    number = secrets.token_hex(8)
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Fleetplane"),
            # 64 characters is what X.509 allows a common name.
            x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain[:40]} root {number}"),
        ]
    )


def _signed(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    trust_domain: str,
    now: dt.datetime,
    until: dt.datetime,
    by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
) -> x509.Certificate:
    """Return the certificate of a root, signed by itself or by another one."""
    issuer, signer = (name, key) if by is None else (by[0].subject, by[1])
    uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - ROOT_BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=KEPT_ROOTS), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )


_SIGNS_CERTIFICATES: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
