"""TLS of the daemon's ports, whose certificates and roots are exchanged while it serves.

gRPC asks for both at every handshake; open connections keep what they began with.
"""

import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from controlplane.credentials.authority import FileAuthority, WallClock
from controlplane.credentials.files import (
    CredentialFileError,
    FileWatch,
    read_private,
    read_public,
)
from controlplane.credentials.issuing import KeyPair
from controlplane.credentials.roots import certificates_in, pem_of, share_a_name

_log = logging.getLogger("fleetplane.credentials")


class ServerIdentity(Protocol):
    """Where the daemon's own certificate comes from."""

    def current(self) -> KeyPair:
        """Return the key and certificate to serve with.

        Raises:
            CredentialFileError: they cannot be used.
        """


class SignedIdentity:
    """A certificate by the built-in authority, with a key that never leaves this process."""

    def __init__(
        self, authority: FileAuthority, names: Sequence[str], wall_clock: WallClock = time.time
    ) -> None:
        """Serve with certificates for these host names and addresses."""
        self._authority = authority
        self._names = names
        self._wall_clock = wall_clock
        self._signed_by = authority.trusted
        self._pair = authority.server_certificate(names)

    def current(self) -> KeyPair:
        """Return the key and certificate, new ones at half their life or when the roots change."""
        now = dt.datetime.fromtimestamp(self._wall_clock(), tz=dt.UTC)
        signed_by = self._authority.trusted
        if signed_by != self._signed_by or self._pair.is_due(now):
            self._signed_by = signed_by
            self._pair = self._authority.server_certificate(self._names)
        return self._pair


class FileIdentity:
    """A certificate that somebody else puts into files, and exchanges when it must be."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Serve with a certificate chain and its key, both in PEM.

        Raises:
            CredentialFileError: they cannot be used.
        """
        self._certificate = certificate
        self._key = key
        self._watch = FileWatch(certificate, key)
        self._pair = self._read()

    def current(self) -> KeyPair:
        """Return the key and certificate, read again when one of the files has changed."""
        if self._watch.changed():
            try:
                self._pair = self._read()
            except CredentialFileError:
                self._watch.look_again()
                raise
        return self._pair

    def _read(self) -> KeyPair:
        key_pem = read_private(self._key)
        try:
            key = load_pem_private_key(key_pem, password=None)
        except TypeError as error:
            raise CredentialFileError(f"{self._key} is encrypted") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CredentialFileError(f"{self._key} is not a private key in PEM") from error
        chain = _certificates(self._certificate)
        if chain[0].public_key() != key.public_key():
            raise CredentialFileError(
                f"the first certificate in {self._certificate} does not belong to {self._key}"
            )
        first = chain[0]
        if not first.not_valid_before_utc <= dt.datetime.now(tz=dt.UTC) < first.not_valid_after_utc:
            _log.warning(
                "clients refuse the daemon's certificate: it is not valid at this time",
                extra={
                    "file": str(self._certificate),
                    "valid_from": first.not_valid_before_utc.isoformat(),
                    "valid_until": first.not_valid_after_utc.isoformat(),
                },
            )
        return KeyPair(
            key_pem=key_pem,
            chain_pem=pem_of(*chain),
            not_before=first.not_valid_before_utc,
            not_after=first.not_valid_after_utc,
        )


class TrustFile:
    """Roots of other authorities in a file that may be exchanged."""

    def __init__(self, path: Path) -> None:
        """Trust the authorities in a PEM file.

        Raises:
            CredentialFileError: it cannot be read, or holds no certificate.
        """
        self._path = path
        self._watch = FileWatch(path)
        self._roots = self._read()
        self._complaint = ""

    def current(self) -> tuple[x509.Certificate, ...]:
        """Return the roots, read again when the file has changed.

        A file that cannot be used any more changes nothing; the log says so once.
        """
        if self._watch.changed():
            try:
                self._roots = self._read()
            except CredentialFileError as error:
                self._watch.look_again()
                if str(error) != self._complaint:
                    _log.error(
                        "TLS goes on with the certificates that it has",
                        extra={"cause": str(error)},
                    )
                self._complaint = str(error)
            else:
                self._complaint = ""
        return self._roots

    def _read(self) -> tuple[x509.Certificate, ...]:
        roots = _certificates(self._path)
        if share_a_name(roots):
            _log.warning(
                "two authorities have the same subject name; TLS may try only one of them",
                extra={"file": str(self._path)},
            )
        return roots


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        found = certificates_in(read_public(path))
    except ValueError as error:
        raise CredentialFileError(f"{path} holds a malformed certificate") from error
    if not found:
        raise CredentialFileError(f"{path} holds no certificate in PEM")
    return found


class ServerTls:
    """What the ports of a daemon prove, and what they demand. TLS 1.2 and 1.3 are spoken."""

    def __init__(
        self,
        identity: ServerIdentity,
        client_roots: Callable[[], Sequence[x509.Certificate]] = tuple,
    ) -> None:
        """Serve as `identity`.

        Args:
            identity: Where the certificate comes from.
            client_roots: Whose client certificates are accepted where they are demanded.

        Raises:
            CredentialFileError: something cannot be used.
        """
        self._identity = identity
        self._client_roots = client_roots
        self._pair = identity.current()
        self._roots = pem_of(*client_roots())
        self._version = 0
        self._complaint = ""

    @property
    def roots(self) -> bytes:
        """Whose client certificates are accepted where they are demanded, as PEM."""
        return self._roots

    def tls_credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of one port, that asks for no client certificate."""
        return self._credentials(demanding=False)

    def mtls_credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of one port, that demands a client certificate.

        Raises:
            CredentialFileError: there is nobody whose certificates could be accepted.
        """
        if not self._roots:
            raise CredentialFileError(
                "listen_mtls needs an authority for client certificates: set secure, ca_dir or"
                " trust_bundle"
            )
        return self._credentials(demanding=True)

    def refresh(self) -> None:
        """Take up whatever has changed.

        A certificate that cannot be used is complained of once, and keeps no authority trusted.
        """
        pair, roots, complaint = self._pair, pem_of(*self._client_roots()), ""
        try:
            pair = self._identity.current()
        except CredentialFileError as error:
            complaint = str(error)
            if complaint != self._complaint:
                _log.error(
                    "TLS goes on with the certificates that it has",
                    extra={"cause": complaint},
                )
        self._complaint = complaint
        if (pair, roots) == (self._pair, self._roots):
            return
        self._pair, self._roots = pair, roots
        self._version += 1
        _log.info("TLS has other certificates", extra={"valid_until": pair.not_after.isoformat()})

    def _credentials(self, *, demanding: bool) -> grpc.ServerCredentials:
        used = self._version

        def configuration() -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(self._pair.key_pem, self._pair.chain_pem)], self._roots if demanding else None
            )

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Return what has changed since the last handshake; gRPC calls it on its threads."""
            nonlocal used
            if used == self._version:
                return None
            used = self._version
            return configuration()

        return grpc.dynamic_ssl_server_credentials(
            configuration(),
            fetch,  # type: ignore[arg-type]  # the stubs forget that None means: as before
            require_client_authentication=demanding,
        )
