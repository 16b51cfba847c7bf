"""Who shows which credential: bearer tokens and client certificates.

Asked on every call, so what was verified is remembered: an API token until anything about rights or
credentials changes, a token of an identity provider until it expires, a certificate as long as it
is in use. A hit costs about a microsecond and returns the same `Caller` object.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from controlplane.domain.access.records import ApiToken
from controlplane.domain.access.refusals import (
    CredentialExpired,
    CredentialInvalid,
    CredentialRevoked,
)
from controlplane.domain.access.secrets import (
    SecretKind,
    is_addressed_to,
    same_digest,
    token_id_in,
)
from controlplane.domain.access.spiffe import AgentRule, own_agent, trust_domain_of
from controlplane.domain.access.subjects import GROUP, TOKEN, USER, check_subject
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import AgentIdentity, Caller, CallerKind
from controlplane.services.access.ports import (
    CertificateReader,
    PresentedCertificate,
    TokenVerifier,
    VerifiedToken,
)
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

REMEMBERED: Final = 8192
"""Bearer tokens, and certificates, that are remembered: 16 MiB of certificates at most. The oldest
makes room; whoever is forgotten is verified again, for 50-150 us."""

_BEARER: Final = "the bearer token"
_API_TOKEN: Final = "the API token"  # noqa: S105 - what refusals call it
_CERTIFICATE: Final = "the client certificate"

_Value = TypeVar("_Value")


@dataclass(slots=True)
class _Known:
    """A bearer token that was verified."""

    caller: Caller
    version: int
    """`AccessView.version` under which an API token was good; 0: it does not depend on it."""


class Authenticator:
    """Turns credentials into callers. Synchronous: answers from memory."""

    def __init__(
        self,
        read_model: ReadModel,
        clock: Clock,
        *,
        verifier: TokenVerifier | None,
        reader: CertificateReader | None,
        trust_domain: str,
        agent_identity: str = "",
        admins: frozenset[str] = frozenset(),
        on_token_use: Callable[[str], None] = lambda _token_id: None,
    ) -> None:
        """Recognise callers.

        Args:
            read_model: Where API tokens are looked up.
            clock: What expiry is measured with.
            verifier: Of OIDC tokens; None refuses them all.
            reader: Of client certificates; None refuses them all.
            trust_domain: Of the built-in authority.
            agent_identity: The `AgentRule` for certificates of other authorities; empty: none of
                them is an agent.
            admins: Subjects that are admin everywhere.
            on_token_use: Told the token_id of every API token that is shown. Called often: must
                neither block nor raise.

        Raises:
            ValueError: `agent_identity` is no rule, or one for our own trust domain.
        """
        self._read_model = read_model
        self._clock = clock
        self._verifier = verifier
        self._reader = reader
        self._trust_domain = trust_domain
        self._rule = AgentRule(agent_identity) if agent_identity else None
        if self._rule is not None and self._rule.trust_domain == trust_domain:
            raise ValueError(
                f"agent_identity is about {trust_domain!r}, where only the built-in authority signs"
            )
        self._admins = admins
        self._on_token_use = on_token_use
        self._bearers: dict[bytes, _Known] = {}
        """Digest of the token (`_key_of`) -> what it is; the token itself is not kept."""
        self._certificates: dict[bytes, Caller] = {}

    def by_bearer(self, token: str) -> Caller:
        """Return who shows a bearer token: an API token, or one of the identity provider.

        Raises:
            CredentialInvalid: it is neither.
            CredentialExpired: it has ended.
            CredentialRevoked: it is an API token that was revoked.
            NotReady: nothing is loaded yet, so API tokens are not known.
        """
        raw = token.encode("utf-8", "surrogatepass")
        key = _key_of(raw)
        known = self._bearers.get(key)
        if known is None or (known.version and known.version != self._read_model.access.version):
            known = self._verify_bearer(token, raw, key, known)
        caller = known.caller
        if caller.expires_at_ms and caller.expires_at_ms <= self._clock.store_ms():
            self._bearers.pop(key, None)
            raise CredentialExpired(_API_TOKEN if caller.token_id else _BEARER)
        if caller.token_id:
            self._on_token_use(caller.token_id)
        return caller

    def by_certificate(self, pem: bytes) -> Caller:
        """Return who shows a client certificate, in PEM, whose chain TLS has verified.

        Raises:
            CredentialInvalid: it says nobody, or somebody whom its authority cannot speak for.
            CredentialExpired: it has ended since the connection was made.
        """
        caller = self._certificates.get(pem)
        if caller is None:
            caller = self._read_certificate(pem)
            _remember(self._certificates, pem, caller)
        if caller.expires_at_ms <= self._clock.store_ms():
            self._certificates.pop(pem, None)
            raise CredentialExpired(_CERTIFICATE)
        return caller

    def _verify_bearer(self, token: str, raw: bytes, key: bytes, before: _Known | None) -> _Known:
        # Whatever comes out of this, what was known before no longer holds.
        self._bearers.pop(key, None)
        digest = hashlib.sha256(raw).hexdigest()
        if is_addressed_to(SecretKind.JOIN_TOKEN, token):
            raise CredentialInvalid(_BEARER, "a join token is good for Enroll only")
        if is_addressed_to(SecretKind.API_TOKEN, token):
            version = self._read_model.access.version
            record = self._api_token(token, digest)
            caller = self._caller_of(record)
            if before is not None and before.caller == caller:
                caller = before.caller
            known = _Known(caller, version)
        elif self._verifier is None:
            raise CredentialInvalid(_BEARER, "it is not an API token")
        else:
            known = _Known(self._user(self._verifier.verify(token), digest), 0)
        _remember(self._bearers, key, known)
        return known

    def _api_token(self, token: str, digest: str) -> ApiToken:
        token_id = token_id_in(SecretKind.API_TOKEN, token)
        if not token_id:
            raise CredentialInvalid(_API_TOKEN, "it is malformed")
        record = self._read_model.access.api_tokens.get(token_id)
        if not same_digest(record.digest if record is not None else None, digest) or record is None:
            # An unknown token and a wrong secret read the same: identities are not to be probed.
            raise CredentialInvalid(_API_TOKEN, "it is not known here")
        if record.revoked:
            raise CredentialRevoked(_API_TOKEN, token_id)
        return record

    def _caller_of(self, record: ApiToken) -> Caller:
        subject = f"{TOKEN}{record.token_id}"
        return Caller(
            name=subject,
            is_admin=subject in self._admins,
            kind=CallerKind.API_TOKEN,
            subjects=(subject,),
            credential=subject,
            token_id=record.token_id,
            expires_at_ms=record.expires_at_ms,
        )

    def _user(self, said: VerifiedToken, digest: str) -> Caller:
        if said.expires_at_ms <= 0:
            raise CredentialInvalid(_BEARER, "it has no end")  # 0 would mean never
        try:
            user = check_subject(f"{USER}{said.user}")
        except InvalidArgument:
            raise CredentialInvalid(_BEARER, "its user cannot be named in a binding") from None
        groups = [f"{GROUP}{group}" for group in said.groups]
        # A group that no binding can name gives nothing; its user is somebody all the same.
        subjects = (user, *dict.fromkeys(group for group in groups if _can_be_bound(group)))
        return Caller(
            name=user,
            is_admin=not self._admins.isdisjoint(subjects),
            kind=CallerKind.USER,
            subjects=subjects,
            credential=f"oidc:{digest}",
            expires_at_ms=said.expires_at_ms,
        )

    def _read_certificate(self, pem: bytes) -> Caller:
        if self._reader is None:
            raise CredentialInvalid(_CERTIFICATE, "certificates are not accepted here")
        shown = self._reader.read(pem)
        agent = self._agent(shown)
        subject = shown.spiffe_id
        return Caller(
            name=subject,
            is_admin=subject in self._admins,
            kind=CallerKind.WORKLOAD if agent is None else CallerKind.AGENT,
            subjects=(subject,),
            agent=agent,
            credential=f"cert:{shown.fingerprint}",
            expires_at_ms=shown.not_after_ms,
            valid_from_ms=shown.not_before_ms if shown.is_own and agent is not None else 0,
        )

    def _agent(self, shown: PresentedCertificate) -> AgentIdentity | None:
        domain = trust_domain_of(shown.spiffe_id)
        if domain is None:
            raise CredentialInvalid(_CERTIFICATE, "its name is not a SPIFFE id")
        if shown.is_own != (domain == self._trust_domain):
            raise CredentialInvalid(_CERTIFICATE, "its authority cannot speak for its trust domain")
        if shown.is_own:
            return own_agent(shown.spiffe_id, self._trust_domain)
        return None if self._rule is None else self._rule.agent_of(shown.spiffe_id)


def _key_of(token: bytes) -> bytes:
    """Return what a bearer token is remembered by.

    As safe as the SHA-256 that its record holds, and a part of its price when caches are cold:
    OpenSSL looks its algorithm up each time.
    """
    return hashlib.blake2b(token, digest_size=32).digest()


def _can_be_bound(subject: str) -> bool:
    try:
        check_subject(subject)
    except InvalidArgument:
        return False
    return True


def _remember(memory: dict[bytes, _Value], key: bytes, value: _Value) -> None:
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value
