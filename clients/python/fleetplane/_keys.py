"""Keys and signing requests. The only module that needs the extra `identity`."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_MAX_COMMON_NAME = 64
"""Characters that X.509 allows in a common name."""


def new_key(agent_name: str) -> tuple[str, str]:
    """Make a key and a signing request for it.

    ECDSA P-256, because gRPC's TLS refuses Ed25519 keys of clients. The daemon takes nothing but
    the key from the request; the name in it is for people who read it.

    Args:
        agent_name: for whom.

    Returns:
        The private key (PKCS #8) and the request (PKCS #10), both in PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, agent_name[:_MAX_COMMON_NAME])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
    )
