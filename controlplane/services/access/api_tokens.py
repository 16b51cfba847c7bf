"""API tokens: made, listed, revoked. `authenticator.py` recognises them."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.access.decision import NEVER, has_ended
from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.records import (
    SYSTEM_NAMESPACE,
    ApiToken,
    RoleBinding,
    binding_id_of,
)
from controlplane.domain.access.refusals import TokenNotFound
from controlplane.domain.access.secrets import SecretKind, digest_of, same_digest
from controlplane.domain.access.subjects import TOKEN
from controlplane.domain.errors import InvalidArgument, NotReady
from controlplane.domain.identity import Caller
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.access.minting import MAX_ROUNDS, Mint, Minted, contended
from controlplane.services.access.room import room_for_token
from controlplane.services.access.standing import Standing
from controlplane.services.access.token_pages import page_of
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    IdSource,
    Ledger,
    Put,
    RequestKey,
    Step,
    Transaction,
)
from controlplane.services.read_model import ReadModel

BOOTSTRAP_ID: Final = "at-bootstrap"
"""Identity of the first administrator's token: a fixed one, so that replicas make only one."""

MAX_NAME_CHARACTERS: Final = 128
"""Characters of the name of a token: what a list shows in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedApiToken:
    """An API token and when it was used."""

    token: ApiToken
    last_used_at_ms: int
    """To within an hour; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiTokenPage:
    """Some of the API tokens of a namespace, oldest first."""

    tokens: tuple[ListedApiToken, ...]
    next_cursor: str
    """Where the next page begins; empty on the last one."""


class ApiTokens:
    """Keeps API tokens. Its callers have to administer the namespace."""

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
        name: str,
        role: str,
        ttl_ms: int,
        request: RequestKey | None,
        caller: Caller,
    ) -> Minted[ApiToken]:
        """Make a token and bind it to a role.

        Args:
            namespace: Where it gets the role; `*`: everywhere.
            name: What it is called.
            role: One of `RoleName`.
            ttl_ms: How long it is good for, in ms; 0: for ever.
            request: Refuses a repetition, because the secret is gone.
            caller: Who makes it.

        Raises:
            InvalidArgument: `name` is not 1-128 characters that print; `role` is unknown.
            RequestIdReused: the request_id was used before; `token_id` in the metadata says which
                token it made.
            PermissionDenied: the caller does not administer the namespace, or no longer, or not for
                as long as the token is to.
            QuotaExceeded: the namespace has as many good tokens as it may.
            NamespaceTerminating: the namespace is being removed.
            StoreUnavailable: the store is away.
        """
        _check_name(name)
        held = _role(role)
        token_id, secret = self._mint.new_token(SecretKind.API_TOKEN)
        token = ApiToken(
            token_id=token_id,
            namespace=namespace,
            name=name,
            digest=digest_of(secret),
            created_by=caller.name,
            expires_at_ms=self._clock.store_ms() + ttl_ms if ttl_ms else NEVER,
        )
        committed = await self._mint.commit(
            namespace,
            token_id,
            *_creation(token, held),
            room=lambda: room_for_token(
                self._read_model.access,
                Collection.API_TOKENS,
                namespace,
                self._clock.store_ms(),
            ),
            admin_until_ms=token.expires_at_ms if held is RoleName.ADMIN else None,
            audit=_audit_of_creation(token, held, request),
            request=request,
            caller=caller,
        )
        made = replace(token, created_at_ms=committed.at_ms, revision=committed.revision)
        return Minted(secret=secret, token=made)

    async def bootstrap_admin(self, keep: Callable[[str], None] = lambda _: None) -> str | None:
        """Make the first administrator's token, good everywhere and for ever; return its secret.

        Return None if there is an API token with which somebody can administer everything, or if
        this one was made once: replicas that start together make one, and one that was revoked is
        never made anew.

        Args:
            keep: Puts the secret where it survives this process, before it is good for anything;
                what it kept is worthless unless the secret is returned.

        Raises:
            NotReady: nothing is loaded yet.
            StoreUnavailable: the store is away; what was kept may be good.
        """
        if self._has_admin():
            return None
        secret = self._mint.new_secret(BOOTSTRAP_ID)
        keep(secret)
        token = ApiToken(
            token_id=BOOTSTRAP_ID,
            namespace=EVERYWHERE,
            name="bootstrap",
            digest=digest_of(secret),
            created_by=PLANE,
        )
        transaction = Transaction(
            namespace=SYSTEM_NAMESPACE,
            steps=_creation(token, RoleName.ADMIN),
            audit=_audit_of_creation(token, RoleName.ADMIN, None),
        )
        try:
            await self._ledger.commit(transaction)
        except ConditionFailed:
            return None
        return secret

    def is_first_admin(self, secret: str) -> bool:
        """Say whether a secret is that of the token that `bootstrap_admin` has made, and good.

        Raises:
            NotReady: nothing is loaded yet.
        """
        token = self._read_model.access.api_tokens.get(BOOTSTRAP_ID)
        known = None if token is None or token.revoked else token.digest
        return same_digest(known, digest_of(secret))

    async def page(self, namespace: str, *, after: str, limit: int) -> ApiTokenPage:
        """Return at most `limit` tokens of a namespace behind a cursor, oldest first.

        Expired and revoked ones are listed. Raises NotReady: nothing is loaded yet.
        """
        own = self._read_model.access.held_in(Collection.API_TOKENS, namespace).values()
        tokens, cursor = page_of(own, after=after, limit=limit)
        return ApiTokenPage(tokens=tuple(map(self._listed, tokens)), next_cursor=cursor)

    async def revoke(
        self, namespace: str, token_id: str, *, reason: str, caller: Caller
    ) -> ListedApiToken:
        """End a token and its bindings, wherever they hold. Revoking it again changes nothing.

        Raises:
            PermissionDenied: the caller does not administer the namespace, or no longer.
            TokenNotFound: this namespace (`*`: everywhere) has no such token.
            StoreUnavailable: too many callers change it at once, or the store is away.
        """
        for _ in range(MAX_ROUNDS):
            standing = await self._standing.conditions(caller, Permission.ADMINISTER, namespace)
            (record,) = await self._ledger.read(
                SYSTEM_NAMESPACE, Collection.API_TOKENS, (token_id,)
            )
            if record is None or record.value.namespace != namespace:
                raise TokenNotFound(token_id)
            token: ApiToken = record.value
            bindings = await self._bindings_of(token_id, record.revision)
            if token.revoked and not bindings:
                return self._listed(token)
            revoked = replace(token, revoked=True)
            unchanged = Expect(revision=record.revision)
            transaction = Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=(
                    Put(Collection.API_TOKENS, token_id, revoked, unchanged),
                    *(Delete(Collection.ROLE_BINDINGS, one.binding_id) for one in bindings),
                    *standing,
                ),
                audit=AuditEntry(
                    actor=caller.name,
                    method="RevokeApiToken",
                    object=f"apitokens/{token_id}",
                    event="api_token.revoked",
                    reason=reason,
                    details={"namespace": namespace, "bindings": str(len(bindings))},
                ),
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed:
                continue
            return self._listed(replace(revoked, revision=committed.revision))
        raise contended(f"token {token_id!r}")

    def _has_admin(self) -> bool:
        """Return whether an API token can be used to administer everything."""
        access, now_ms = self._read_model.access, self._clock.store_ms()
        return any(
            any(
                binding.role == RoleName.ADMIN
                and binding.namespace == EVERYWHERE
                and not has_ended(binding.expires_at_ms, now_ms)
                for binding in access.bindings_of((f"{TOKEN}{token.token_id}",))
            )
            for token in access.api_tokens.values()
            if not token.revoked and not has_ended(token.expires_at_ms, now_ms)
        )

    async def _bindings_of(self, token_id: str, revision: int) -> list[RoleBinding]:
        """Return the bindings of a token, those that were made with it at `revision` included."""
        try:
            view = await self._read_model.at_least(SYSTEM_NAMESPACE, revision)
        except NotReady:
            # Revoking must not wait for a replica that lags: without its token a binding is idle.
            view = self._read_model.view(SYSTEM_NAMESPACE)
        return view.access.bindings_of((f"{TOKEN}{token_id}",))

    def _listed(self, token: ApiToken) -> ListedApiToken:
        use = self._read_model.access.token_uses.get(token.token_id)
        return ListedApiToken(token=token, last_used_at_ms=use.at_ms if use is not None else 0)


def _creation(token: ApiToken, role: RoleName) -> tuple[Step, ...]:
    """Return what makes a token and gives it its role."""
    subject = f"{TOKEN}{token.token_id}"
    binding = RoleBinding(
        binding_id=binding_id_of(subject, role, token.namespace),
        subject=subject,
        role=role.value,
        namespace=token.namespace,
        description=f"made with the token {token.name!r}",
        created_by=token.created_by,
        expires_at_ms=token.expires_at_ms,
    )
    return (
        Put(Collection.API_TOKENS, token.token_id, token, ABSENT),
        Put(Collection.ROLE_BINDINGS, binding.binding_id, binding, fresh_generation=True),
    )


def _audit_of_creation(token: ApiToken, role: RoleName, request: RequestKey | None) -> AuditEntry:
    return AuditEntry(
        actor=token.created_by,
        method="CreateApiToken",
        object=f"apitokens/{token.token_id}",
        event="api_token.created",
        request_id=request.request_id if request is not None else "",
        details={
            "namespace": token.namespace,
            "name": token.name,
            "role": role.value,
            "expires_at_ms": str(token.expires_at_ms),
        },
    )


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() or name.isspace():
        raise InvalidArgument.of("name", f"must be 1-{MAX_NAME_CHARACTERS} characters that print")


def _role(role: str) -> RoleName:
    try:
        return RoleName(role)
    except ValueError:
        known = ", ".join(RoleName)
        raise InvalidArgument.of("role", f"must be one of {known}") from None
