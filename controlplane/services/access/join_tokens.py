"""Join tokens: made, listed, revoked. `enrolment.py` takes them."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.access.name_patterns import check_name_pattern
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, JoinToken, uses_counter
from controlplane.domain.access.refusals import TokenNotFound
from controlplane.domain.access.secrets import SecretKind, digest_of
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import Caller
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.access.minting import MAX_ROUNDS, Mint, Minted, contended
from controlplane.services.access.room import room_for_token
from controlplane.services.access.standing import Standing
from controlplane.services.access.token_pages import page_of
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Expect,
    IdSource,
    Ledger,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

MAX_USES: Final = 1_000_000
"""Most enrolments that may be counted; a larger fleet takes a token without a bound."""

MAX_DESCRIPTION_BYTES: Final = 256
"""Bytes of a description: a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJoinToken:
    """A join token and how often it was used."""

    token: JoinToken
    uses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenPage:
    """Some of the join tokens of a namespace, oldest first."""

    tokens: tuple[ListedJoinToken, ...]
    next_cursor: str
    """Where the next page begins; empty on the last one."""


class JoinTokens:
    """Keeps join tokens. Its callers have to administer the namespace."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        ids: IdSource,
        clock: Clock,
        authoriser: Authoriser,
        *,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Keep tokens in `ledger`; `token_bytes(n)` returns n bytes that nobody can foresee."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._standing = Standing(ledger, clock, authoriser)
        self._mint = Mint(ledger, ids, self._standing, token_bytes)

    async def create(
        self,
        namespace: str,
        *,
        agent_name_pattern: str,
        max_uses: int,
        ttl_ms: int,
        description: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Minted[JoinToken]:
        """Make a token.

        Args:
            namespace: Tenant of the agents.
            agent_name_pattern: Names it is for; empty: every name.
            max_uses: Enrolments it is good for; 0: any number.
            ttl_ms: How long it is good for, in ms; above 0.
            description: What it is for.
            request: Refuses a repetition, because the secret is gone.
            caller: Who makes it.

        Raises:
            InvalidArgument: a pattern that no name matches, too many uses, a long description.
            RequestIdReused: the request_id was used before; `token_id` in the metadata says which
                token it made.
            PermissionDenied: the caller does not administer the namespace, or no longer.
            QuotaExceeded: the namespace has as many good tokens as it may.
            NamespaceTerminating: the namespace is being removed.
            StoreUnavailable: the store is away.
        """
        pattern = check_name_pattern(agent_name_pattern)
        if not 0 <= max_uses <= MAX_USES:
            raise InvalidArgument.of("max_uses", f"must be 0-{MAX_USES:,}; 0 means any number")
        if len(description.encode()) > MAX_DESCRIPTION_BYTES:
            raise InvalidArgument.of("description", f"is longer than {MAX_DESCRIPTION_BYTES} bytes")
        token_id, secret = self._mint.new_token(SecretKind.JOIN_TOKEN)
        token = JoinToken(
            token_id=token_id,
            namespace=namespace,
            agent_name_pattern=pattern,
            max_uses=max_uses,
            digest=digest_of(secret),
            description=description,
            created_by=caller.name,
            expires_at_ms=self._clock.store_ms() + ttl_ms,
        )
        committed = await self._mint.commit(
            namespace,
            token_id,
            Put(Collection.JOIN_TOKENS, token_id, token, ABSENT),
            room=lambda: room_for_token(
                self._read_model.access,
                Collection.JOIN_TOKENS,
                namespace,
                self._clock.store_ms(),
            ),
            audit=_audit_of_creation(token, request),
            request=request,
            caller=caller,
        )
        made = replace(token, created_at_ms=committed.at_ms, revision=committed.revision)
        return Minted(secret=secret, token=made)

    async def page(self, namespace: str, *, after: str, limit: int) -> JoinTokenPage:
        """Return at most `limit` tokens of a namespace behind a cursor, oldest first.

        Expired, revoked and used-up ones are listed.

        Raises:
            NotReady: nothing is loaded yet.
            StoreUnavailable: the store, which counts the uses, is away.
        """
        own = self._read_model.access.held_in(Collection.JOIN_TOKENS, namespace).values()
        tokens, cursor = page_of(own, after=after, limit=limit)
        return JoinTokenPage(tokens=await self._listed(tokens), next_cursor=cursor)

    async def revoke(
        self, namespace: str, token_id: str, *, reason: str, caller: Caller
    ) -> ListedJoinToken:
        """Make a token useless; certificates that were got with it stay valid.

        Revoking it again changes nothing.

        Raises:
            PermissionDenied: the caller does not administer the namespace, or no longer.
            TokenNotFound: the namespace has no such token.
            StoreUnavailable: too many callers change it at once, or the store is away.
        """
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(caller, Permission.ADMINISTER, namespace)
            (record,) = await self._ledger.read(
                SYSTEM_NAMESPACE, Collection.JOIN_TOKENS, (token_id,)
            )
            if record is None or record.value.namespace != namespace:
                raise TokenNotFound(token_id)
            token: JoinToken = record.value
            if not token.revoked:
                revoked = replace(token, revoked=True)
                unchanged = Expect(revision=record.revision)
                transaction = Transaction(
                    namespace=SYSTEM_NAMESPACE,
                    steps=(
                        Put(Collection.JOIN_TOKENS, token_id, revoked, unchanged),
                        *standing,
                    ),
                    audit=AuditEntry(
                        actor=caller.name,
                        method="RevokeJoinToken",
                        object=f"jointokens/{token_id}",
                        event="join_token.revoked",
                        reason=reason,
                        details={"namespace": namespace},
                    ),
                )
                try:
                    committed = await self._ledger.commit(transaction)
                except ConditionFailed:
                    continue
                token = replace(revoked, revision=committed.revision)
            (listed,) = await self._listed([token])
            return listed
        raise contended(f"token {token_id!r}")

    async def _listed(self, tokens: list[JoinToken]) -> tuple[ListedJoinToken, ...]:
        counters = [uses_counter(token.token_id) for token in tokens]
        counts = await self._ledger.read_counts(SYSTEM_NAMESPACE, counters) if counters else []
        return tuple(
            ListedJoinToken(token=token, uses=uses)
            for token, uses in zip(tokens, counts, strict=True)
        )


def _audit_of_creation(token: JoinToken, request: RequestKey | None) -> AuditEntry:
    return AuditEntry(
        actor=token.created_by,
        method="CreateJoinToken",
        object=f"jointokens/{token.token_id}",
        event="join_token.created",
        reason=token.description,
        request_id=request.request_id if request is not None else "",
        details={
            "namespace": token.namespace,
            "agent_name_pattern": token.agent_name_pattern,
            "max_uses": str(token.max_uses),
            "expires_at_ms": str(token.expires_at_ms),
        },
    )
