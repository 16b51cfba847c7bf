"""Who calls, by what the call shows: a bearer token, or the client certificate of its connection.

Nothing else proves anything; headers that name somebody are not looked at.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
import structlog

from controlplane.api.context import Call
from controlplane.api.handlers import metadata_of
from controlplane.api.limits.networks import network_of
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import (
    CredentialInvalid,
    CredentialMissing,
    Forbidden,
    NamespaceNotFound,
    Unauthenticated,
)
from controlplane.domain.errors import DomainError
from controlplane.domain.identity import ANONYMOUS, LOCAL_ADMIN, Caller, CallerKind
from controlplane.domain.token_bucket import TokenBuckets
from controlplane.telemetry.names import (
    FIELD_CALLER,
    FIELD_METHOD,
    FIELD_PEER,
    FIELD_REASON,
    FIELD_UNLOGGED,
    LOGGER_API,
)

METADATA_KEY: Final = "authorization"
"""Metadata in which a caller shows a token, as `Bearer <token>`."""

LOGGED_PER_SECOND: Final = 2.0
"""Refusals of one caller, or of one network of unknown callers, that are logged; ten seconds' worth
at once. An entry costs more than a refusal, and floods of them hide the others."""

MAX_LOGGED: Final = 1_000
"""Callers and networks that are told apart for that."""

_SCHEME: Final = "bearer"
_CERTIFICATE: Final = "x509_pem_cert"  # grpc's name for what TLS has verified
_HEADER: Final = "the authorization header"

_log: Any = structlog.get_logger(LOGGER_API)


class Authenticates(Protocol):
    """Knows credentials; `services.access.Authenticator` does."""

    def by_bearer(self, token: str) -> Caller:
        """Return who shows a token; refuse with Unauthenticated."""

    def by_certificate(self, pem: bytes) -> Caller:
        """Return who shows a certificate whose chain TLS has verified; refuse likewise."""


class Refusals:
    """Counts those who were refused for who they are; changes that were refused are logged.

    Of a flood, `LOGGED_PER_SECOND`.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Count; `now` says the time in seconds that never go back."""
        self.by_reason: Counter[str] = Counter()
        """`ErrorReason` without its prefix -> how many; for metrics."""
        self._now = now
        self._budgets = TokenBuckets(MAX_LOGGED)
        self._unlogged = 0

    def note(self, call: Call, error: BaseException | None) -> None:
        """Take note of how a call ended, if that was for want of rights."""
        if not isinstance(error, Unauthenticated | Forbidden | NamespaceNotFound):
            return
        self.by_reason[error.reason] += 1
        if call.method.is_change:
            self._log(call, error)

    def _log(self, call: Call, error: DomainError) -> None:
        caller, peer = call.caller, call.context.peer()
        who = network_of(peer) if caller.kind is CallerKind.ANONYMOUS else caller.name
        if self._budgets.spend(who, 1, LOGGED_PER_SECOND, self._now()):
            self._unlogged += 1
            return
        # Never the text of the error: some of it comes from the caller.
        fields: dict[str, object] = {
            FIELD_METHOD: call.method.name,
            FIELD_CALLER: caller.name,
            FIELD_PEER: peer,
            FIELD_REASON: error.reason,
        }
        if self._unlogged:
            fields[FIELD_UNLOGGED], self._unlogged = self._unlogged, 0
        _log.warning("change refused", **fields)


class Identification:
    """Says who makes a call. Synchronous.

    Attributes:
        refusals: Who was refused so far.
    """

    def __init__(self, authenticator: Authenticates | None, *, reads_certificates: bool) -> None:
        """Look for credentials and let `authenticator` judge them.

        Args:
            authenticator: None: nobody is authenticated, and everybody is the local administrator.
            reads_certificates: Whether there is a port that demands client certificates. Looking
                for one costs 6-20 us per call.
        """
        self._authenticator = authenticator
        self._reads_certificates = reads_certificates
        self.refusals = Refusals()

    @property
    def authenticates(self) -> bool:
        """Whether callers have to show who they are."""
        return self._authenticator is not None

    def __call__(self, call: Call) -> Caller:
        """Return who calls; for what needs no permission nobody is asked.

        A bearer token is looked at first: it says more than the certificate of the connection that
        somebody shares or that a proxy made.

        Raises:
            CredentialMissing: the call shows nothing.
            Unauthenticated: what it shows is not good.
            NotReady: tokens are not known yet.
        """
        authenticator = self._authenticator
        if authenticator is None:
            return LOCAL_ADMIN
        if call.method.permission is Permission.PUBLIC:
            return ANONYMOUS
        token = _bearer(call.context)
        if token is not None:
            return authenticator.by_bearer(token)
        pem = _certificate(call.context) if self._reads_certificates else None
        if pem is None:
            raise CredentialMissing
        return authenticator.by_certificate(pem)


def _bearer(context: "grpc.aio.ServicerContext[Any, Any]") -> str | None:
    """Return the token of a call, None if it shows none.

    Raises:
        CredentialInvalid: more than one header, or one that is not `Bearer <token>`.
    """
    shown: str | bytes | None = None
    for key, value in metadata_of(context):
        if key == METADATA_KEY:
            if shown is not None:
                raise CredentialInvalid(_HEADER, "there is more than one")
            shown = value
    if shown is None:
        return None
    scheme, _, token = str(shown).partition(" ")
    token = token.strip(" ")
    if scheme.lower() != _SCHEME or not token or " " in token:
        raise CredentialInvalid(_HEADER, "it is not of the form 'Bearer <token>'")
    return token


def _certificate(context: "grpc.aio.ServicerContext[Any, Any]") -> bytes | None:
    """Return the client certificate of a connection in PEM, None if it shows none."""
    chain = list(context.auth_context().get(_CERTIFICATE, ()))
    return chain[0] if chain else None
