"""Gets certificates: by a join token, or by the certificate before."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fleetplane._calls import Caller, is_final, jittered
from fleetplane._channel import ChannelConfig, TlsConfig, open_channel
from fleetplane._exceptions import FleetError, Unauthenticated
from fleetplane._identity_store import HeldIdentity, IdentityStore
from fleetplane.v1 import identity_service_pb2 as pb
from fleetplane.v1 import identity_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:  # the asynchronous stubs exist in the type stubs only
    from fleetplane._connected import Connection
    from fleetplane.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

_log: Final = logging.getLogger("fleetplane")

USABLE: Final = 0.02
"""Share of half its life that a certificate on disk must have left to be worth a connection."""


class Enroller:
    """Gets the certificates of one agent, one after the other, and keeps them on disk.

    Args:
        agent_name: name of the agent.
        join_token: the secret of a join token, or the file with it; may be empty.
        target: address of the port for TLS.
        ca: authorities in PEM, or the file with them; None: those of the system.
        store: where the identity is kept.

    Raises:
        ImportError: the extra `identity` is not installed.
    """

    def __init__(
        self,
        agent_name: str,
        *,
        join_token: str | Path,
        target: str,
        ca: bytes | Path | None,
        store: IdentityStore,
    ) -> None:
        self._new_key = _key_maker()
        self._agent_name = agent_name
        self._join_token = join_token
        self._target = target
        self._ca = ca
        self._store = store
        self._config = ChannelConfig()
        self.held: HeldIdentity | None = None
        """The present identity."""

    async def begin(self, config: ChannelConfig) -> ChannelConfig:
        """Find a certificate on disk that has not ended, or enrol; return the config with it.

        Another join token than the one that it was got with makes the agent enrol as well: it may
        be for another namespace, or another control plane in the place of the first.

        Raises:
            FleetError: the daemon refuses the join token, or is away.
            OSError: a file cannot be read or written.
        """
        self._config = config
        await asyncio.to_thread(self._store.prepare)  # before a use of the join token is spent
        self.held = await asyncio.to_thread(self._store.load)
        if self.held is None or not _usable(self.held):
            return await self.enrol()
        if await asyncio.to_thread(self._is_of_another_token, self.held):
            try:
                return await self.enrol()
            except FleetError as error:
                if not is_final(error):
                    raise
                _log.warning(
                    "the identity in %s is of another join token, and the present one is refused,"
                    " so that identity stays in use: %s",
                    self._store.path,
                    error,
                )
        return await self._config_with(self.held)

    async def enrol(self) -> ChannelConfig:
        """Exchange the join token for a certificate; return the config with it.

        Raises:
            FleetError: the daemon refuses the join token, or is away.
            OSError: a file cannot be read.
        """
        secret = await asyncio.to_thread(self._secret)
        if not secret:
            raise Unauthenticated(
                f"no valid certificate is in {self._store.path}, and there is no join token to get "
                "one with: make one with `fleetplane tokens join create`, and pass join_token=..."
            )
        roots = await asyncio.to_thread(self._roots)
        key, csr = await asyncio.to_thread(self._new_key, self._agent_name)
        config = replace(self._config, tls=TlsConfig(root_certificates=roots), token="")
        request = pb.EnrollRequest(join_token=secret, agent_name=self._agent_name, csr=csr)
        channel = open_channel(self._target, config)
        try:
            stub: IdentityServiceAsyncStub = pb_grpc.IdentityServiceStub(channel)
            response = await Caller(config)(stub.Enroll, request)
        finally:
            await channel.close(None)
        return await self._take(key, response.issued, response.namespace, _token_id(secret))

    async def renew(self, connection: "Connection", timeout: float) -> ChannelConfig:
        """Replace the certificate that a connection uses; return the config with the new one.

        Args:
            connection: to the port that demands certificates; nothing is exchanged on it.
            timeout: deadline in seconds over all attempts.

        Raises:
            FleetError: the daemon refuses, or is away.
        """
        key, csr = await asyncio.to_thread(self._new_key, self._agent_name)
        request = pb.RenewCertificateRequest(csr=csr)
        # A caller of its own: that of the connection would have this very renewal hurried.
        call = Caller(self._config)
        response = await call(connection.identity.RenewCertificate, request, timeout)
        held = self.held
        namespace, token_id = (held.namespace, held.join_token_id) if held else ("", "")
        return await self._take(key, response.issued, namespace, token_id)

    async def _take(
        self, key: str, issued: pb.IssuedCertificate, namespace: str, join_token_id: str
    ) -> ChannelConfig:
        renew_at, expires_at = _times(issued, time.time())
        self.held = HeldIdentity(
            private_key=key,
            certificate_chain=issued.certificate_chain,
            trust_bundle=issued.trust_bundle,
            namespace=namespace,
            spiffe_id=issued.spiffe_id,
            renew_at=renew_at,
            expires_at=expires_at,
            join_token_id=join_token_id,
        )
        try:
            await asyncio.to_thread(self._store.save, self.held)
        except OSError as error:  # it works all the same, until the next start
            _log.error("the identity of %s cannot be kept: %s", self._agent_name, error)
        return await self._config_with(self.held)

    async def _config_with(self, held: HeldIdentity) -> ChannelConfig:
        # A daemon whose certificate is of another authority sends no roots: those given stay.
        roots: bytes | None = held.trust_bundle.encode()
        if not roots:
            roots = await asyncio.to_thread(self._roots)
        tls = TlsConfig(
            root_certificates=roots,
            certificate_chain=held.certificate_chain.encode(),
            private_key=held.private_key.encode(),
        )
        return replace(self._config, tls=tls, token="")

    def _secret(self) -> str:
        token = self._join_token
        return token.read_text().strip() if isinstance(token, Path) else token

    def _is_of_another_token(self, held: HeldIdentity) -> bool:
        try:
            present = _token_id(self._secret())
        except OSError:  # whoever has an identity needs no join token
            return False
        return bool(present and held.join_token_id) and present != held.join_token_id

    def _roots(self) -> bytes | None:
        """Return what may vouch for the daemon: what was passed, and what it sent itself since."""
        given = self._ca.read_bytes() if isinstance(self._ca, Path) else self._ca
        sent = self.held.trust_bundle.encode() if self.held is not None else b""
        parts = [part for part in (given, sent) if part]
        return b"\n".join(dict.fromkeys(parts)) or None


def _token_id(secret: str) -> str:
    """Return the part of a join token that may be shown; empty if it has none."""
    token_id, dot, _ = secret.partition(".")
    return token_id if dot else ""


def _usable(held: HeldIdentity) -> bool:
    return held.expires_at - time.time() > USABLE * (held.expires_at - held.renew_at)


def _times(issued: pb.IssuedCertificate, now: float) -> tuple[float, float]:
    """Return when to renew a certificate that was just issued, and when it ends.

    Both as the daemon says, within the bounds that the span between them sets: a clock that differs
    from the daemon's must not make a process renew all the time, or never.
    """
    expires_at = issued.expires_at.seconds + issued.expires_at.nanos / 1e9
    renew_after = issued.renew_after.seconds + issued.renew_after.nanos / 1e9
    if not 0 < renew_after < expires_at:
        renew_after = (now + expires_at) / 2
    half = max(abs(expires_at - renew_after), 1e-3)
    wait = min(max(renew_after - now, half / 2), half * 1.5)
    return now + jittered(wait), min(max(expires_at, now + half), now + 4 * half)


def _key_maker() -> Callable[[str], tuple[str, str]]:
    try:
        from fleetplane._keys import new_key  # noqa: PLC0415  # cryptography is an optional extra
    except ImportError as error:
        raise ImportError(
            "an identity of an agent needs the package `cryptography`: "
            "pip install fleetplane-client[identity]"
        ) from error
    return new_key


def default_state_dir() -> Path:
    """Return where identities are kept unless told otherwise."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "fleetplane"
