"""What making an API token and making a join token have in common."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE, ApiToken, JoinToken
from controlplane.domain.access.secrets import RANDOM_BYTES, SecretKind, new_secret
from controlplane.domain.errors import RequestIdReused, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.services.access.open_namespace import open_namespace
from controlplane.services.access.standing import Standing
from controlplane.services.ports import (
    AuditEntry,
    Committed,
    ConditionFailed,
    IdSource,
    Ledger,
    RequestKey,
    Step,
    Transaction,
)

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported: rights and credentials change by
hand, so five changes of one record within a few milliseconds are a fault."""

_Token = TypeVar("_Token", ApiToken, JoinToken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted(Generic[_Token]):
    """A token that was made, and its secret, which is kept nowhere."""

    secret: str
    token: _Token

    def __repr__(self) -> str:
        # Whatever prints an object must not print a secret.
        return f"Minted({self.token.token_id})"


class SecretGone(RequestIdReused):
    """The request has made a token already; its secret was in the answer that got lost."""

    def __init__(self, request_id: str, token_id: str) -> None:
        super().__init__(request_id)
        self.message = (
            f"request_id {request_id!r} has made token {token_id!r} already, and its secret is"
            " shown only once; revoke that token and ask with another request_id"
        )
        self.args = (self.message,)
        self.metadata["token_id"] = token_id


class Mint:
    """Makes secrets, and commits tokens so that a request makes one at most."""

    def __init__(
        self,
        ledger: Ledger,
        ids: IdSource,
        standing: Standing,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Commit to `ledger`; `token_bytes(n)` returns n bytes that nobody can foresee."""
        self._ledger = ledger
        self._standing = standing
        self._ids = ids
        self._token_bytes = token_bytes

    def new_token(self, kind: SecretKind) -> tuple[str, str]:
        """Return the identity and the secret of a new token."""
        token_id = self._ids.new_id(kind.value)
        return token_id, self.new_secret(token_id)

    def new_secret(self, token_id: str) -> str:
        """Return a new secret of a token."""
        return new_secret(token_id, self._token_bytes(RANDOM_BYTES))

    async def commit(
        self,
        namespace: str,
        token_id: str,
        *steps: Step,
        room: Callable[[], Sequence[Step]],
        admin_until_ms: int | None = None,
        audit: AuditEntry,
        request: RequestKey | None,
        caller: Caller,
    ) -> Committed:
        """Commit the steps that make a token, while its maker administers the namespace.

        Args:
            namespace: Where the token belongs.
            token_id: Its identity.
            steps: What makes it.
            room: Returns the steps that make room for it, mostly none; may refuse.
            admin_until_ms: Until when it makes its bearer admin there; None: it does not.
            audit: What the audit says.
            request: Refuses a repetition.
            caller: Its maker.

        Raises:
            SecretGone: the same request made a token already; named in the metadata.
            RequestIdReused: the request_id was used for something else in this namespace.
            PermissionDenied: the maker does not administer it, or no longer, or not for as long
                as the token is to make somebody else do so.
            QuotaExceeded: the namespace has as many tokens as it may.
            NamespaceTerminating: it is being removed.
            StoreUnavailable: what the right rests on changes all the time, or the store is away.
        """
        request_id = request.request_id if request is not None else ""
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(
                caller, Permission.ADMINISTER, namespace, admin_until_ms=admin_until_ms
            )
            is_open = await open_namespace(self._ledger, namespace)
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(*steps, *room(), *standing, *is_open),
                audit=audit,
                request=_within(namespace, request),
                answer=token_id,
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            except RequestIdReused:
                raise RequestIdReused(request_id) from None  # as the caller wrote it
            if committed.replayed:
                raise SecretGone(request_id, committed.answer)
            return committed
        raise contended(f"the rights of {caller.name}")


def _within(namespace: str, request: RequestKey | None) -> RequestKey | None:
    """Return a key that no other tenant can meet: all of them write to one namespace here."""
    if request is None:
        return None
    return RequestKey(f"{namespace}/{request.request_id}", request.digest)


def contended(what: str) -> StoreUnavailable:
    """Return the refusal after `MAX_ROUNDS`."""
    return StoreUnavailable(f"too many callers change {what} at once")
