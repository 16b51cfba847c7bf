"""Where credentials come from that do not stay as they are: files that are written anew."""

import asyncio
import logging
import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fleetplane._channel import ChannelConfig, TlsConfig

if TYPE_CHECKING:  # the connection is made by who uses this
    from fleetplane._connected import Connection

_log: Final = logging.getLogger("fleetplane")

CHECK: Final = 1.0
"""Seconds between looks at the files of credentials; a look costs a few microseconds."""

FilePath = str | os.PathLike[str]
"""Where a file is."""


class CredentialSource(Protocol):
    """Credentials that change while a client is open."""

    async def obtain(self, config: ChannelConfig) -> ChannelConfig:
        """Return the config with the credentials to begin with."""

    async def look(self) -> ChannelConfig | None:
        """Look for newer credentials than those handed out last; None: there are none."""

    async def keep(self, connection: "Connection") -> None:
        """Exchange the credentials of a connection in time; until cancelled."""


class CredentialFiles:
    """Credentials in files, which are read again when they change.

    A change counts once all files have stayed the same while they were read, and certificate and
    key belong together: who replaces them one after the other does no harm. Until then, and when
    files cannot be read, the last good ones stay in use.

    Args:
        token: bearer token, or the file with it.
        ca: authorities that may vouch for the daemon, in PEM, or the file with them.
        cert: file with the certificate chain of the client in PEM.
        key: file with its key in PEM, without a password.

    Raises:
        ValueError: only one of `cert` and `key` is given.
    """

    def __init__(
        self,
        *,
        token: str | os.PathLike[str] = "",
        ca: bytes | FilePath | None = None,
        cert: FilePath | None = None,
        key: FilePath | None = None,
    ) -> None:
        if (cert is None) != (key is None):
            raise ValueError("cert=... and key=... belong together")
        self._token = token if isinstance(token, str) else Path(token)
        self._ca = ca if isinstance(ca, bytes | None) else Path(ca)
        self._pair = None if cert is None or key is None else (Path(cert), Path(key))
        named = (self._token, self._ca, *(self._pair or ()))
        self._paths = tuple(one for one in named if isinstance(one, Path))
        self._seen: tuple[tuple[int, ...], ...] = ()
        self._config = ChannelConfig()
        self._complaint = ""

    async def obtain(self, config: ChannelConfig) -> ChannelConfig:
        """Read the files for the first time.

        Raises:
            OSError: a file cannot be read.
            ValueError: a token file is empty; certificate and key do not belong together.
        """
        stamps = await asyncio.to_thread(self._stamps)
        self._config = await asyncio.to_thread(self._read, config)
        self._seen = stamps
        return self._config

    async def look(self) -> ChannelConfig | None:
        """Read the files again if they have changed."""
        try:
            newer = await asyncio.to_thread(self._read_changed)
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:  # once is enough, as it is tried every second
                _log.warning("credentials cannot be read, the last ones stay in use: %s", error)
            self._complaint = str(error)
            return None
        if newer is None or newer == self._config:
            return None
        self._config, self._complaint = newer, ""
        return newer

    async def keep(self, connection: "Connection") -> None:
        """Look every second, as long as there are files."""
        while self._paths:
            await asyncio.sleep(CHECK)
            if (newer := await self.look()) is not None:
                connection.exchange(newer)

    def _stamps(self) -> tuple[tuple[int, ...], ...]:
        found = (path.stat() for path in self._paths)
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def _read_changed(self) -> ChannelConfig | None:
        before = self._stamps()
        if before == self._seen:
            return None
        newer = self._read(self._config)
        if self._stamps() != before:
            return None  # still being written
        self._seen = before
        return newer

    def _read(self, config: ChannelConfig) -> ChannelConfig:
        token = self._token
        if isinstance(token, Path):
            token = token.read_text().strip()
            if not token:
                raise ValueError(f"there is no token in {self._token}")
        tls = config.tls
        if self._ca is not None or self._pair is not None:
            roots = self._ca.read_bytes() if isinstance(self._ca, Path) else self._ca
            if roots is not None:
                _check_roots(roots, self._ca)
            tls = TlsConfig(
                root_certificates=roots,
                certificate_chain=None if self._pair is None else self._pair[0].read_bytes(),
                private_key=None if self._pair is None else self._pair[1].read_bytes(),
            )
            if self._pair is not None:
                _check_pair(*self._pair)
        return replace(config, tls=tls, token=token or config.token)


def _check_roots(pem: bytes, where: object) -> None:
    """Refuse what gRPC would take for a connection that never works."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        source = where if isinstance(where, Path) else "ca"
        raise ValueError(f"there are no certificates in PEM in {source}: {error}") from error


def _check_pair(cert: Path, key: Path) -> None:
    """Refuse a certificate with another one's key; the file may be about to be replaced, too."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        raise ValueError(f"{cert} and {key} are no certificate and its key: {error}") from error


def choose_credentials(
    config: ChannelConfig,
    identity: CredentialSource | None,
    *,
    token: str | os.PathLike[str],
    ca: bytes | FilePath | None,
    cert: FilePath | None,
    key: FilePath | None,
) -> CredentialSource | None:
    """Return where the credentials of a client come from; None: all of them are in its config.

    Raises:
        ValueError: two arguments say the same thing, or only half of one is there.
    """
    tls_files = [
        name for name, one in (("ca", ca), ("cert", cert), ("key", key)) if one is not None
    ]
    given = (["token"] if token else []) + tls_files
    if identity is not None:
        known = given + [name for name in ("tls", "token") if getattr(config, name)]
        if known:
            raise ValueError(f"identity=... has all credentials: leave out {', '.join(known)}")
        return identity
    if config.tls is not None and tls_files:
        raise ValueError(f"channel_config has tls already: leave out {', '.join(tls_files)}")
    if config.token and token:
        raise ValueError("channel_config has a token already: leave out token=...")
    return CredentialFiles(token=token, ca=ca, cert=cert, key=key) if given else None
