"""A TLS port in front of a server that speaks none, and the authorities that its peers trust.

What begins like a TLS handshake is decrypted; everything else is passed on as it is, because the
servers talk to each other through the same port.
"""

import contextlib
import datetime as dt
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HANDSHAKE: Final = b"\x16"
"""First byte of a TLS connection."""

_CHUNK_BYTES: Final = 64 * 1024
_DAY: Final = dt.timedelta(days=1)


class TestAuthority:
    """A root of its own; `file` holds its certificate."""

    __test__ = False

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = self._builder(self._subject, self._key)
        root = builder.add_extension(constraint, critical=True).add_extension(usage, critical=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(self._signed(root))

    def issue(self, name: str, *, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """Return the files of a certificate for an address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = self._builder(subject, key).add_extension(alternative, critical=False)
        chain = self._directory / f"{self._name}-{name}.pem"
        chain.write_bytes(self._signed(builder))
        secret = chain.with_suffix(".key")
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return chain, secret

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - _DAY).not_valid_after(now + _DAY)

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


def server_context(
    chain: Path, key: Path, *, clients_of: TestAuthority | None = None
) -> ssl.SSLContext:
    """Return what a server shows; with `clients_of` it demands a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    if clients_of is not None:
        context.load_verify_locations(cafile=clients_of.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextlib.contextmanager
def tls_front(port: int, behind: int, context: ssl.SSLContext) -> Iterator[None]:
    """Serve on a loopback port, in front of the server on the port `behind`.

    In threads: `asyncio` closes a connection whose handshake failed without telling the peer why,
    which servers do.
    """
    with socket.create_server(("127.0.0.1", port)) as listener, contextlib.ExitStack() as open_ones:
        threads = [threading.Thread(target=_accept, args=(listener, behind, context, open_ones))]
        threads[0].start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends accept()
            threads[0].join()


def _accept(
    listener: socket.socket, behind: int, context: ssl.SSLContext, open_ones: contextlib.ExitStack
) -> None:
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:  # the front was closed
            return
        thread = threading.Thread(target=_serve, args=(accepted, behind, context))
        open_ones.callback(thread.join)
        open_ones.callback(_end, accepted)
        thread.start()


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)


def _serve(accepted: socket.socket, behind: int, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError), accepted:  # also SSLError, of which the peer was told
        encrypted = accepted.recv(1, socket.MSG_PEEK) == _HANDSHAKE
        near = _shaken(accepted, context) if encrypted else accepted
        with near, socket.create_connection(("127.0.0.1", behind)) as far:
            while _pass_on(near, far):
                pass


def _shaken(accepted: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    near = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
    try:
        near.do_handshake()
    except ssl.SSLError:
        # Closing with something unread would reset the connection, and take the reason with it.
        with socket.socket(fileno=near.detach()) as refused:
            refused.shutdown(socket.SHUT_WR)
            while refused.recv(_CHUNK_BYTES):
                pass
        raise
    return near


def _pass_on(near: socket.socket, far: socket.socket) -> bool:
    """Copy what there is in either direction; return False when one side has ended."""
    waiting = isinstance(near, ssl.SSLSocket) and near.pending()
    ready = [near] if waiting else select.select([near, far], [], [])[0]
    for source in ready:
        data = source.recv(_CHUNK_BYTES)
        if not data:
            return False
        (far if source is near else near).sendall(data)
    return True
