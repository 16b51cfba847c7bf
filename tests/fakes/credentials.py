"""Credentials without cryptography: what `services/access/ports.py` promises, and no more."""

import hashlib
import itertools
from dataclasses import dataclass, field

from controlplane.domain.access.refusals import CredentialInvalid
from controlplane.domain.errors import InvalidArgument
from controlplane.services.access.ports import (
    IssuedCertificate,
    PresentedCertificate,
    VerifiedToken,
)
from controlplane.services.ports import Clock

TRUST_DOMAIN = "fleetplane.local"

GOOD_CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"


@dataclass
class FakeAuthority:
    """Signs every CSR that looks like one, and notes for whom."""

    clock: Clock
    life_ms: int = 3_600_000
    trust_domain: str = TRUST_DOMAIN
    signed: list[str] = field(default_factory=list)
    _serials: "itertools.count[int]" = field(default_factory=itertools.count)

    def sign(self, csr_pem: str, spiffe_id: str) -> IssuedCertificate:
        if not csr_pem.startswith("-----BEGIN CERTIFICATE REQUEST-----"):
            raise InvalidArgument.of("csr", "is not a certificate signing request in PEM")
        self.signed.append(spiffe_id)
        pem = f"certificate {next(self._serials)} of {spiffe_id}"
        return IssuedCertificate(
            chain_pem=pem,
            bundle_pem="roots",
            fingerprint=hashlib.sha256(pem.encode()).hexdigest(),
            not_after_ms=self.clock.store_ms() + self.life_ms,
        )


@dataclass
class FakeReader:
    """Knows the certificates it was told of."""

    known: dict[bytes, PresentedCertificate] = field(default_factory=dict)
    reads: int = 0

    def add(
        self,
        spiffe_id: str,
        *,
        own: bool = True,
        not_before_ms: int = 0,
        not_after_ms: int = 2**53,
        serial: int = 0,
    ) -> bytes:
        """Return the PEM of a certificate that says so."""
        pem = f"{'own' if own else 'foreign'} {serial} {spiffe_id}".encode()
        self.known[pem] = PresentedCertificate(
            spiffe_id=spiffe_id,
            is_own=own,
            fingerprint=hashlib.sha256(pem).hexdigest(),
            not_before_ms=not_before_ms,
            not_after_ms=not_after_ms,
        )
        return pem

    def read(self, pem: bytes) -> PresentedCertificate:
        self.reads += 1
        if pem not in self.known:
            raise CredentialInvalid("the client certificate", "it cannot be read")
        return self.known[pem]


@dataclass
class FakeVerifier:
    """Knows the tokens it was told of."""

    known: dict[str, VerifiedToken] = field(default_factory=dict)
    calls: int = 0

    def verify(self, token: str) -> VerifiedToken:
        self.calls += 1
        if token not in self.known:
            raise CredentialInvalid("the bearer token", "its signature does not fit")
        return self.known[token]
