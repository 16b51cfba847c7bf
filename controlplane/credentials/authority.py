"""The built-in certificate authority: a directory that all replicas of a daemon share.

`ca.key` is the authority: the private key, its certificate, and what connects it to earlier roots,
in one file that is only ever replaced whole. Back up that one. The others are published from it:
`ca.pem` (the current root), `bundle.pem` (all roots to trust) and `chain.pem` (the current root
signed by earlier ones).

Replacing the root is one step, without an order in which anybody has to learn of it: who knows only
the old root accepts what the new one signs by way of `chain.pem`, which is part of every
certificate chain; and what the old one has signed is accepted as long as that root is in the
bundle.
"""

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from controlplane.credentials.files import (
    PRIVATE_FILE,
    PUBLIC_FILE,
    CredentialFileError,
    FileWatch,
    create_file,
    locked,
    make_private_directory,
    read_private,
    read_public,
    replace_file,
)
from controlplane.credentials.issuing import KeyPair, issue_identity, issue_server, key_of_request
from controlplane.credentials.roots import Roots, RootsUnusable, fingerprint_of, pem_of
from controlplane.services.access.ports import IssuedCertificate

KEY_FILE: Final = "ca.key"
ROOT_FILE: Final = "ca.pem"
BUNDLE_FILE: Final = "bundle.pem"
CHAIN_FILE: Final = "chain.pem"

SERVER_LIFE: Final = dt.timedelta(hours=24)
"""Life of the certificate that a daemon has signed for itself; it is renewed at half of it."""

WallClock = Callable[[], float]
"""Seconds since 1970 on this host, which is what certificates are judged by."""

_log = logging.getLogger("fleetplane.credentials")


class FileAuthority:
    """Signs certificates with the key in a directory. Implements `CertificateAuthority`."""

    def __init__(
        self,
        ca_dir: Path,
        *,
        trust_domain: str,
        certificate_seconds: float,
        signs_daemon: bool,
        wall_clock: WallClock,
    ) -> None:
        """Read an authority; see `open`."""
        self._dir = ca_dir
        self._trust_domain = trust_domain
        self._life = dt.timedelta(seconds=certificate_seconds)
        self._signs_daemon = signs_daemon
        self._wall_clock = wall_clock
        self._watch = FileWatch(ca_dir / KEY_FILE)
        self._complaint = ""
        self._roots = self._read()

    @classmethod
    def open(
        cls,
        ca_dir: Path,
        trust_domain: str,
        certificate_seconds: float,
        *,
        signs_daemon: bool = True,
        wall_clock: WallClock = time.time,
    ) -> Self:
        """Open the authority in a directory, and publish its certificates there.

        Args:
            ca_dir: Where `ca.key` is.
            trust_domain: SPIFFE trust domain; must be the one that the authority was made for.
            certificate_seconds: Life of what it signs for agents.
            signs_daemon: Whether the daemon's certificate is signed by it as well. If it is not,
                agents go on trusting what they trust: they are issued an empty bundle.
            wall_clock: Seconds since 1970.

        Raises:
            CredentialFileError: there is none, it is another domain's, it has expired, others can
                read its key, or the file is damaged.
        """
        authority = cls(
            ca_dir,
            trust_domain=trust_domain,
            certificate_seconds=certificate_seconds,
            signs_daemon=signs_daemon,
            wall_clock=wall_clock,
        )
        _publish(ca_dir)
        return authority

    @property
    def trust_domain(self) -> str:
        """SPIFFE trust domain of what it signs."""
        return self._trust_domain

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """The roots whose signatures are the authority's, the current one first."""
        return self._roots.trusted

    @property
    def bundle_pem(self) -> bytes:
        """The same as PEM."""
        return pem_of(*self._roots.trusted)

    @property
    def bundle_file(self) -> Path:
        """Where the roots are published."""
        return self._dir / BUNDLE_FILE

    def sign(self, csr_pem: str, spiffe_id: str) -> IssuedCertificate:
        """Sign the key in a CSR for an identity; whatever else the CSR says is ignored.

        Raises:
            InvalidArgument: field `csr`; malformed, not signed by its key, a weak or unknown key.
            ValueError: the identity is not of the trust domain.
        """
        if not spiffe_id.startswith(f"spiffe://{self._trust_domain}/"):
            raise ValueError(f"{spiffe_id!r} is not in the trust domain {self._trust_domain!r}")
        roots = self._roots
        key = key_of_request(csr_pem)
        certificate = issue_identity(roots, key, spiffe_id, now=self._now(), life=self._life)
        return IssuedCertificate(
            chain_pem=pem_of(certificate, *roots.chain).decode(),
            bundle_pem=pem_of(*roots.trusted).decode() if self._signs_daemon else "",
            fingerprint=fingerprint_of(certificate),
            not_after_ms=round(certificate.not_valid_after_utc.timestamp() * 1000),
        )

    def server_certificate(self, names: Iterable[str]) -> KeyPair:
        """Return a new key and certificate for a daemon that is reached by these names."""
        return issue_server(self._roots, names, now=self._now(), life=SERVER_LIFE)

    def refresh(self) -> bool:
        """Look whether the root was replaced; return whether another one signs from now on.

        A file that cannot be used changes nothing, and is tried again at every look; the log says
        so once.
        """
        if not self._watch.changed():
            return False
        try:
            roots = self._read()
            _publish(self._dir)
        except CredentialFileError as error:
            self._watch.look_again()
            if str(error) != self._complaint:
                _log.error(
                    "the certificate authority goes on with the key that it has",
                    extra={"cause": str(error)},
                )
            self._complaint = str(error)
            return False
        self._complaint = ""
        changed = roots.to_pem() != self._roots.to_pem()
        self._roots = roots
        if changed:
            _log.info(
                "the certificate authority has other roots",
                extra={"current": fingerprint_of(roots.current), "trusted": len(roots.trusted)},
            )
        return changed

    def _read(self) -> Roots:
        roots = read_roots(self._dir)
        if roots.trust_domain != self._trust_domain:
            raise CredentialFileError(
                f"{self._dir / KEY_FILE} is the authority of {roots.trust_domain!r}, and"
                f" trust_domain is {self._trust_domain!r}"
            )
        if roots.current.not_valid_after_utc <= self._now():
            raise CredentialFileError(
                f"the root in {self._dir / KEY_FILE} has expired: run fleetplane ca rotate"
            )
        return roots

    def _now(self) -> dt.datetime:
        return _moment(self._wall_clock)


def init(ca_dir: Path, trust_domain: str, *, wall_clock: WallClock = time.time) -> bool:
    """Make an authority in a directory, unless there is one; return whether this call did.

    Of several processes that try, exactly one gets True; all of them find the same authority.

    Raises:
        CredentialFileError: the directory cannot be used.
    """
    make_private_directory(ca_dir)
    if (ca_dir / KEY_FILE).exists():
        return False
    roots = Roots.first(trust_domain, _moment(wall_clock))
    try:
        made = create_file(ca_dir / KEY_FILE, roots.to_pem(), PRIVATE_FILE)
    except OSError as error:
        raise CredentialFileError(f"cannot write into {ca_dir}: {error.strerror}") from error
    _publish(ca_dir)
    return made


def read_roots(ca_dir: Path) -> Roots:
    """Return the roots of the authority in a directory.

    Raises:
        CredentialFileError: there is none, or it cannot be used.
    """
    path = ca_dir / KEY_FILE
    if not path.exists():
        raise CredentialFileError(
            f"there is no certificate authority in {ca_dir}: run fleetplane ca init"
        )
    try:
        return Roots.from_pem(read_private(path))
    except RootsUnusable as error:
        raise CredentialFileError(f"{path} cannot be used: {error}") from error


def rotate(ca_dir: Path, *, wall_clock: WallClock = time.time) -> Roots:
    """Make a new root, which the old one signs; daemons take it up within seconds.

    Raises:
        CredentialFileError: there is no authority, or the directory cannot be written.
    """
    return _replace(ca_dir, lambda roots: roots.next(_moment(wall_clock)))


def retire(ca_dir: Path) -> Roots:
    """Trust the current root only: certificates that earlier ones have signed end now.

    Raises:
        CredentialFileError: there is no authority, or the directory cannot be written.
    """
    return _replace(ca_dir, Roots.alone)


def _replace(ca_dir: Path, change: Callable[[Roots], Roots]) -> Roots:
    read_roots(ca_dir)  # says what is missing better than the lock would
    try:
        with locked(ca_dir):
            roots = change(read_roots(ca_dir))
            # The key comes last: a disk that is full meanwhile has then replaced nothing, and who
            # tries again does not push earlier roots out. Whoever opens the authority publishes
            # what its key says.
            _write_public(ca_dir, roots)
            replace_file(ca_dir / KEY_FILE, roots.to_pem(), PRIVATE_FILE)
    except OSError as error:
        raise CredentialFileError(f"cannot write into {ca_dir}: {error.strerror}") from error
    return roots


def _publish(ca_dir: Path) -> None:
    """Write the public files, unless they are right or the directory is not ours to write."""
    try:
        with locked(ca_dir):
            _write_public(ca_dir, read_roots(ca_dir))
    except OSError as error:
        _log.info(
            "the certificates of the authority are not published in its directory",
            extra={"ca_dir": str(ca_dir), "cause": error.strerror},
        )


def _write_public(ca_dir: Path, roots: Roots) -> None:
    files = {
        BUNDLE_FILE: roots.trusted,
        CHAIN_FILE: roots.chain,
        ROOT_FILE: (roots.current,),
    }
    for name, certificates in files.items():
        path, content = ca_dir / name, pem_of(*certificates)
        if not path.exists() or read_public(path) != content:
            replace_file(path, content, PUBLIC_FILE)


def _moment(wall_clock: WallClock) -> dt.datetime:
    return dt.datetime.fromtimestamp(wall_clock(), tz=dt.UTC)
