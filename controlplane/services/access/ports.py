"""What rights and credentials need from the outside, as Protocols; `credentials/` implements them.

All of it is synchronous and answers from memory: it is asked while a call waits.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """What a token of an identity provider says, after every check."""

    user: str
    """Value of the user claim."""
    groups: tuple[str, ...]
    """Values of the groups claim."""
    expires_at_ms: int
    """Until when it is accepted, the tolerance for clocks included, in ms since 1970."""


class TokenVerifier(Protocol):
    """Verifies OIDC tokens: signature, algorithm, issuer, audience, times."""

    def verify(self, token: str) -> VerifiedToken:
        """Return what a token says.

        Raises:
            Unauthenticated: CredentialInvalid or CredentialExpired; the text never repeats any part
                of the token.
            NotReady: it cannot be told yet, for want of the issuer's keys.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedCertificate:
    """What a client certificate says; TLS has verified its chain."""

    spiffe_id: str
    """The one URI among its names."""
    is_own: bool
    """Whether the built-in authority signed it; else one of the trust bundle did."""
    fingerprint: str
    """SHA-256 of the certificate in hexadecimal."""
    not_before_ms: int
    """From when on it is valid, in ms since 1970."""
    not_after_ms: int
    """Until when it is valid, in ms since 1970."""


class CertificateReader(Protocol):
    """Reads client certificates."""

    def read(self, pem: bytes) -> PresentedCertificate:
        """Return what a certificate in PEM says.

        Raises:
            CredentialInvalid: no certificate, or not exactly one SPIFFE id in it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate with all that is needed to use it."""

    chain_pem: str
    """The certificate first, then what joins it to the roots."""
    bundle_pem: str
    """The roots to trust from now on."""
    fingerprint: str
    """SHA-256 of the certificate in hexadecimal."""
    not_after_ms: int
    """Until when it is valid, in ms since 1970."""


class CertificateAuthority(Protocol):
    """Signs the certificates of agents."""

    @property
    def trust_domain(self) -> str:
        """SPIFFE trust domain of what it signs."""

    def sign(self, csr_pem: str, spiffe_id: str) -> IssuedCertificate:
        """Sign the key in a CSR for an identity; whatever else the CSR says is ignored.

        Raises:
            InvalidArgument: field `csr`; malformed, not signed by its key, a weak or unknown key.
        """
