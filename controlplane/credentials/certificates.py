"""Reads client certificates: which identity they state, and whether we have signed it ourselves."""

from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509

from controlplane.credentials.roots import fingerprint_of, is_signed_by, uris_in
from controlplane.domain.access.refusals import CredentialInvalid
from controlplane.services.access.ports import PresentedCertificate

MAX_PEM_BYTES: Final = 64 * 1024
"""Longest certificate that is looked at; what TLS accepts is shorter."""

_WHAT: Final = "the client certificate"


class X509Reader:
    """Implements `CertificateReader`. A certificate takes about 200 us: remember what it says."""

    def __init__(self, own_roots: Callable[[], Sequence[x509.Certificate]]) -> None:
        """Read certificates.

        Args:
            own_roots: The roots of the built-in authority at this moment; empty without one. What
                no key of theirs has signed is another authority's, whatever names it bears.
        """
        self._own_roots = own_roots

    def read(self, pem: bytes) -> PresentedCertificate:
        """Return what a certificate in PEM says.

        Raises:
            CredentialInvalid: no certificate, or not exactly one SPIFFE id in it.
        """
        if len(pem) > MAX_PEM_BYTES:
            raise CredentialInvalid(_WHAT, "it is too long")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            uris = uris_in(certificate)
        except ValueError:
            raise CredentialInvalid(_WHAT, "it is malformed") from None
        if len(uris) != 1 or not uris[0].startswith("spiffe://"):
            raise CredentialInvalid(_WHAT, "it does not hold exactly one SPIFFE id")
        return PresentedCertificate(
            spiffe_id=uris[0],
            is_own=any(is_signed_by(certificate, root) for root in self._own_roots()),
            fingerprint=fingerprint_of(certificate),
            not_before_ms=round(certificate.not_valid_before_utc.timestamp() * 1000),
            not_after_ms=round(certificate.not_valid_after_utc.timestamp() * 1000),
        )
