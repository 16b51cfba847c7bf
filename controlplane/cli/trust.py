"""The authority of a daemon by its fingerprint, for a first contact without its file.

A connection that trusts nobody yet shows the certificates of the daemon; nothing is sent over it.
The one whose fingerprint the operator was told, by another way, becomes the authority that the real
connection is verified with.
"""

import base64
import hashlib
import hmac
import socket
import ssl
import sys
import textwrap
from typing import Any, Final

from controlplane.cli.credentials import host_and_port, is_unix
from controlplane.cli.outcomes import UNREACHABLE, CommandFailed, WrongInput

SECONDS: Final = 10.0
"""How long the daemon may take to show its certificates."""

_ALGORITHM: Final = "sha256"
_HEX_DIGITS: Final = 64


def read_fingerprint(text: str) -> str:
    """Return the 64 hexadecimal digits of a SHA-256, however they are separated or written.

    Args:
        text: with or without `sha256:` before it.

    Raises:
        WrongInput: it is none.
    """
    digits = text.strip().lower().removeprefix(f"{_ALGORITHM}:").replace(":", "")
    if len(digits) != _HEX_DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise WrongInput(
            f"{text!r} is not a fingerprint such as sha256:9f86d081...",
            hint="`fleetplane ca show` prints that of the daemon's authority",
        )
    return digits


def fetch_authority(address: str, fingerprint: str, seconds: float = SECONDS) -> str:
    """Return, as PEM, the certificate that a daemon shows and that has a fingerprint.

    Args:
        address: where the daemon is.
        fingerprint: see `read_fingerprint`.
        seconds: how long it may take.

    Raises:
        WrongInput: the address has no TLS.
        CommandFailed: nobody answers, or not with TLS, or shows other certificates.
    """
    if is_unix(address):
        raise WrongInput("a unix socket has no certificate: leave --ca-fingerprint out")
    chain = _presented(address, seconds)
    for certificate in chain:
        if hmac.compare_digest(_digest(certificate), fingerprint):
            return to_pem(certificate)
    shown = ", ".join(f"{_ALGORITHM}:{_digest(one)}" for one in chain)
    raise CommandFailed(
        f"the daemon at {address} shows no certificate with that fingerprint, but {shown}",
        hint="nothing was sent to it; if it is the right one, --ca takes its bundle.pem",
    )


def to_pem(certificate: bytes) -> str:
    """Return a certificate in DER as PEM."""
    lines = textwrap.wrap(base64.b64encode(certificate).decode(), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _digest(certificate: bytes) -> str:
    return hashlib.new(_ALGORITHM, certificate).hexdigest()


def _presented(address: str, seconds: float) -> list[bytes]:
    """Return the certificates that a daemon shows, in DER; none of them is verified."""
    host, port = host_and_port(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint is what verifies
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            return _chain(secured)
    except ssl.SSLError as error:
        raise CommandFailed(f"{address} does not answer with TLS ({error.reason})") from error
    except OSError as error:
        raise CommandFailed(
            f"no daemon answers at {address} ({error.strerror or error})", code=UNREACHABLE
        ) from error


def _chain(secured: ssl.SSLSocket) -> list[bytes]:
    if sys.version_info >= (3, 13):
        return list(secured.get_unverified_chain())
    inner: Any = secured
    found = inner._sslobj.get_unverified_chain() or ()  # noqa: SLF001  # public from 3.13 on
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found]
