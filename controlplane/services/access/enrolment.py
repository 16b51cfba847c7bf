"""Enrolment: a join token and a CSR for the identity of an agent; and the renewal of it.

Nothing is handed out unless its commit succeeded, on condition that everything it rested on still
holds: the token is not revoked, the name not banned, the namespace not on its way out, and there
are uses left.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from secrets import SystemRandom
from typing import Final

from controlplane.domain.access.decision import has_ended, predates
from controlplane.domain.access.name_patterns import check_agent_name, matches_name
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import (
    SYSTEM_NAMESPACE,
    JoinToken,
    ban_key,
    uses_counter,
)
from controlplane.domain.access.refusals import (
    AgentBanned,
    CredentialExpired,
    CredentialInvalid,
    CredentialMissing,
    CredentialRevoked,
    EarlierNamespace,
    NoCertificateAuthority,
    PermissionDenied,
)
from controlplane.domain.access.secrets import SecretKind, digest_of, same_digest, token_id_in
from controlplane.domain.access.spiffe import agent_spiffe_id
from controlplane.domain.errors import DomainError, NotReady, StoreUnavailable
from controlplane.domain.identity import AgentIdentity, Caller
from controlplane.domain.token_bucket import TokenBucket
from controlplane.services.access.minting import MAX_ROUNDS, contended
from controlplane.services.access.open_namespace import open_namespace
from controlplane.services.access.ports import CertificateAuthority, IssuedCertificate
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Count,
    Expect,
    Ledger,
    Require,
    Step,
    Transaction,
)
from controlplane.telemetry.names import FIELD_PEER, FIELD_REASON, FIELD_UNLOGGED

RENEWAL_AT: Final = 0.5
"""Part of a certificate's life after which it is to be replaced: the other half is for trying."""

RENEWAL_JITTER: Final = 0.1
"""Part of its life that the renewals of a fleet, started at once, are spread over."""

LOGGED_PER_SECOND: Final = 2.0
"""Refusals that are logged, ten seconds' worth at once; the next one says how many were not."""

_TOKEN: Final = "the join token"  # noqa: S105 - what refusals call it

_RANDOM: Final = SystemRandom()

_log = logging.getLogger("fleetplane.identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """An identity that was handed out."""

    agent: AgentIdentity
    spiffe_id: str
    certificate: IssuedCertificate
    renew_after_ms: int
    """When to replace it, in ms since 1970."""


class Enrolment:
    """Hands out identities. Anybody may ask; the join token, or the old certificate, proves it."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        authority: CertificateAuthority | None,
        *,
        spread: Callable[[], float] = _RANDOM.random,
    ) -> None:
        """Sign with `authority`; None refuses everybody.

        `spread` returns a number of [0, 1) for the moment of each renewal.
        """
        self._ledger = ledger
        self._clock = clock
        self._authority = authority
        self._logged = TokenBucket()
        self._unlogged = 0
        self._spread = spread

    async def enroll(
        self, join_token: str, agent_name: str, csr_pem: str, *, caller: Caller
    ) -> Enrolled:
        """Exchange a join token and a CSR for the identity of an agent.

        Refusals are logged, with the visible part of the token and the address of the caller.

        Raises:
            NoCertificateAuthority: there is nothing to sign with.
            CredentialInvalid: the token is malformed, unknown, or its secret another one.
            CredentialExpired: it has expired.
            CredentialRevoked: it was revoked, or is used up.
            InvalidArgument: `agent_name` cannot be one; or `csr`, see `CertificateAuthority.sign`.
            PermissionDenied: the token is not for that name.
            AgentBanned: the name is banned in the namespace of the token.
            NamespaceTerminating: that namespace is being removed.
            StoreUnavailable: the store is away, or what the answer rests on changes all the time.
        """
        token_id = token_id_in(SecretKind.JOIN_TOKEN, join_token)
        try:
            authority = self._signing()
            for _ in range(MAX_ROUNDS):
                token = await self._token(token_id, join_token)
                agent = _agent(token, agent_name)
                standing = await self._standing(agent)
                issued = self._issue(authority, agent, csr_pem)
                if await self._taken(token, standing, issued):
                    return issued
        except (StoreUnavailable, NotReady):
            raise
        except DomainError as refusal:
            self._note(refusal, token_id, caller)
            raise
        raise contended(f"what the enrolment of agent {agent_name!r} rests on")

    def _note(self, refusal: DomainError, token_id: str, caller: Caller) -> None:
        """Log a refusal; of a flood, `LOGGED_PER_SECOND`: anybody may try to enrol."""
        if self._logged.spend(1, LOGGED_PER_SECOND, self._clock.monotonic()):
            self._unlogged += 1
            return
        fields: dict[str, object] = {"token_id": token_id, FIELD_PEER: caller.address}
        if self._unlogged:
            fields[FIELD_UNLOGGED], self._unlogged = self._unlogged, 0
        _log.warning("enrolment was refused", extra={**fields, FIELD_REASON: refusal.reason})

    async def renew(self, csr_pem: str, *, caller: Caller) -> Enrolled:
        """Sign a new key for the agent whose certificate the call is made with.

        Raises:
            NoCertificateAuthority: there is nothing to sign with.
            CredentialMissing: the caller is not an agent by a certificate that was signed here.
            AgentBanned: its name is banned.
            EarlierNamespace: its namespace was removed, and is another one now.
            NamespaceTerminating: its namespace is being removed.
            InvalidArgument: field `csr`; see `CertificateAuthority.sign`.
            StoreUnavailable: the store is away, or what the answer rests on changes all the time.
        """
        authority = self._signing()
        agent = caller.agent
        if agent is None or caller.name != agent_spiffe_id(authority.trust_domain, agent):
            # Who has an identity of another authority renews it there.
            raise CredentialMissing("the certificate of an agent, signed by this daemon")
        for _ in range(MAX_ROUNDS):
            standing = await self._standing(agent)
            await self._require_same_namespace(agent, caller)
            issued = self._issue(authority, agent, csr_pem)
            audit = _audit(issued, caller.name, "RenewCertificate", "certificate.renewed")
            transaction = Transaction(namespace=SYSTEM_NAMESPACE, steps=standing, audit=audit)
            try:
                await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            return issued
        raise contended(f"what the identity of agent {agent.agent_name!r} rests on")

    def _signing(self) -> CertificateAuthority:
        if self._authority is None:
            raise NoCertificateAuthority
        return self._authority

    async def _token(self, token_id: str, secret: str) -> JoinToken:
        """Return the token of a secret, from the ledger: it may have been made a moment ago."""
        if not token_id:
            raise CredentialInvalid(_TOKEN, "it is malformed")
        (record,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.JOIN_TOKENS, (token_id,))
        token: JoinToken | None = record.value if record is not None else None
        if not same_digest(token.digest if token is not None else None, digest_of(secret)):
            token = None
        if token is None:
            # An unknown token and a wrong secret read the same: identities are not to be probed.
            raise CredentialInvalid(_TOKEN, "it is not known here")
        if token.revoked:
            raise CredentialRevoked(_TOKEN, token_id)
        if has_ended(token.expires_at_ms, self._clock.store_ms()):
            raise CredentialExpired(_TOKEN)
        return token

    async def _standing(self, agent: AgentIdentity) -> tuple[Require, ...]:
        """Return the conditions that an agent may have an identity on, all of them true now."""
        key = ban_key(agent.namespace, agent.agent_name)
        (ban,) = await self._ledger.read(SYSTEM_NAMESPACE, Collection.BANS, (key,))
        if ban is not None:
            raise AgentBanned(agent.namespace, agent.agent_name)
        namespace = await open_namespace(self._ledger, agent.namespace)
        return (Require(Collection.BANS, key, ABSENT), *namespace)

    async def _require_same_namespace(self, agent: AgentIdentity, caller: Caller) -> None:
        """Check that a certificate is of the namespace that is there now, by the ledger itself.

        To be called once its revision is a condition: what comes after that fails the commit.
        """
        (record,) = await self._ledger.read(
            SYSTEM_NAMESPACE, Collection.NAMESPACES, (agent.namespace,)
        )
        if predates(caller.valid_from_ms, record.value if record is not None else None):
            raise EarlierNamespace("the certificate")

    def _issue(
        self, authority: CertificateAuthority, agent: AgentIdentity, csr_pem: str
    ) -> Enrolled:
        spiffe_id = agent_spiffe_id(authority.trust_domain, agent)
        certificate = authority.sign(csr_pem, spiffe_id)
        now_ms = self._clock.store_ms()
        life_ms = certificate.not_after_ms - now_ms
        part = RENEWAL_AT + RENEWAL_JITTER * (self._spread() - 0.5)
        return Enrolled(
            agent=agent,
            spiffe_id=spiffe_id,
            certificate=certificate,
            renew_after_ms=now_ms + round(life_ms * part),
        )

    async def _taken(
        self, token: JoinToken, standing: tuple[Require, ...], issued: Enrolled
    ) -> bool:
        """Count a use of a token; return False if what it rests on has changed meanwhile."""
        actor = f"join:{token.token_id}"
        steps: tuple[Step, ...] = (
            *standing,
            Require(Collection.JOIN_TOKENS, token.token_id, Expect(revision=token.revision)),
            Count(uses_counter(token.token_id), 1, at_most=token.max_uses or None),
        )
        transaction = Transaction(
            namespace=SYSTEM_NAMESPACE,
            steps=steps,
            audit=_audit(issued, actor, "Enroll", "agent.enrolled", token_id=token.token_id),
        )
        try:
            await self._ledger.commit(transaction)
        except ConditionFailed as failed:
            if failed.step == len(steps) - 1:
                raise CredentialRevoked(_TOKEN, token.token_id, "is used up") from None
            return False
        return True


def _agent(token: JoinToken, agent_name: str) -> AgentIdentity:
    """Return the agent that a token makes of a name."""
    check_agent_name(agent_name)
    if not matches_name(token.agent_name_pattern, agent_name):
        raise PermissionDenied(
            f"join token {token.token_id!r}",
            Permission.REPORT,
            token.namespace,
            f"it is not for an agent named {agent_name!r}",
        )
    return AgentIdentity(namespace=token.namespace, agent_name=agent_name)


def _audit(
    issued: Enrolled, actor: str, method: str, event: str, *, token_id: str = ""
) -> AuditEntry:
    agent = issued.agent
    details = {
        "namespace": agent.namespace,
        "agent_name": agent.agent_name,
        "fingerprint": issued.certificate.fingerprint,
        "expires_at_ms": str(issued.certificate.not_after_ms),
    }
    if token_id:
        details["token_id"] = token_id
    return AuditEntry(
        actor=actor,
        method=method,
        object=f"identities/{issued.spiffe_id}",
        event=event,
        details=details,
    )
