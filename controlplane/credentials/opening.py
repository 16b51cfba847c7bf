"""Opens what the settings name: the authority, the daemon's certificate, the issuer of tokens."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from controlplane.credentials.authority import FileAuthority, init
from controlplane.credentials.certificates import X509Reader
from controlplane.credentials.files import make_private_directory
from controlplane.credentials.jwks import IssuerKeys
from controlplane.credentials.jwks_sources import key_source
from controlplane.credentials.oidc import OidcVerifier
from controlplane.credentials.server_tls import (
    FileIdentity,
    ServerTls,
    SignedIdentity,
    TrustFile,
)
from controlplane.services.ports import Clock
from controlplane.settings import Settings

LOOK_SECONDS: Final = 1.0
"""How often it is looked whether files have changed."""

Loop = Callable[[], Coroutine[Any, Any, None]]

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_EVERY_ADDRESS: Final = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound

_log = logging.getLogger("fleetplane.credentials")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a daemon that authenticates stands on."""

    tls: ServerTls
    """For its ports."""
    authority: FileAuthority | None
    """Signs the certificates of agents."""
    reader: X509Reader
    """Reads client certificates."""
    verifier: OidcVerifier | None
    """Verifies the tokens of the identity provider."""
    bundle_file: Path | None
    """The roots that clients need to verify the daemon; None if the authority does not sign it."""
    loops: tuple[Loop, ...]
    """Keep all of this up to date; run them until the daemon ends."""


def open_credentials(settings: Settings, clock: Clock) -> Credentials | None:
    """Open everything; None if the daemon does not authenticate. Blocks: run it in a thread.

    With `secure` the authority is made if it is not there, by whichever process comes first.

    Raises:
        CredentialFileError: a file or directory cannot be used.
    """
    if not settings.authenticates:
        return None
    authority = _authority(settings)
    others = None if settings.trust_bundle is None else TrustFile(settings.trust_bundle)

    def own_roots() -> tuple[x509.Certificate, ...]:
        return () if authority is None else authority.trusted

    def client_roots() -> tuple[x509.Certificate, ...]:
        return (*own_roots(), *(() if others is None else others.current()))

    tls = ServerTls(_identity(settings, authority), client_roots)
    keys = None
    if settings.oidc_issuer:
        keys = IssuerKeys(key_source(settings.oidc_issuer, settings.oidc_jwks), clock)

    def look() -> None:
        if authority is not None:
            authority.refresh()
        tls.refresh()

    async def follow_files() -> None:
        while True:
            await clock.sleep(LOOK_SECONDS)
            await asyncio.to_thread(look)

    return Credentials(
        tls=tls,
        authority=authority,
        reader=X509Reader(own_roots),
        bundle_file=_published_bundle(settings, authority),
        verifier=None if keys is None else _verifier(settings, keys),
        loops=(follow_files,) if keys is None else (follow_files, keys.run),
    )


def _authority(settings: Settings) -> FileAuthority | None:
    """Return the built-in authority, if the settings want one or name its directory."""
    if not settings.secure and settings.ca_dir is None:
        return None
    if settings.secure and settings.ca_dir is None:
        make_private_directory(settings.data_dir)  # the authority's is inside
    if settings.secure and init(settings.authority_dir, settings.trust_domain):
        _log.info(
            "made a certificate authority",
            extra={
                "ca_dir": str(settings.authority_dir),
                "trust_domain": settings.trust_domain,
            },
        )
    return FileAuthority.open(
        settings.authority_dir,
        settings.trust_domain,
        settings.certificate_seconds,
        signs_daemon=settings.tls_cert is None,
    )


def _identity(settings: Settings, authority: FileAuthority | None) -> FileIdentity | SignedIdentity:
    if settings.tls_cert is not None and settings.tls_key is not None:
        return FileIdentity(settings.tls_cert, settings.tls_key)
    if authority is None:
        raise ValueError("settings that authenticate name a certificate or an authority")
    return SignedIdentity(authority, server_names(settings))


def _published_bundle(settings: Settings, authority: FileAuthority | None) -> Path | None:
    if authority is None or settings.tls_cert is not None:
        return None
    return authority.bundle_file if authority.bundle_file.exists() else None


def _verifier(settings: Settings, keys: IssuerKeys) -> OidcVerifier:
    return OidcVerifier(
        keys,
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=settings.accepted_algorithms,
        user_claim=settings.oidc_user_claim,
        groups_claim=settings.oidc_groups_claim,
        leeway_seconds=settings.oidc_leeway_seconds,
    )


def server_names(settings: Settings) -> tuple[str, ...]:
    """Return by which names and addresses this host is reached, as far as it knows."""
    listening = (settings.listen, settings.listen_mtls or "")
    hosts = [
        address.rpartition(":")[0].strip("[]")
        for address in listening
        if not address.startswith("unix:")
    ]
    found = (*_LOCAL_NAMES, *hosts, socket.gethostname(), *settings.further_names)
    return tuple(dict.fromkeys(name for name in found if _can_be_named(name)))


def _can_be_named(name: str) -> bool:
    return name not in _EVERY_ADDRESS and name.isascii()
