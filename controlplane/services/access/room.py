"""How much about rights one namespace may keep: all of it is in the memory of every replica.

A tenant's administrator must not be able to fill that, nor to slow down the judgement of others.
The bounds are far beyond what people use, and the same for every namespace and for `*`.
"""

from collections.abc import Iterator
from typing import Final

from controlplane.domain.access.decision import has_ended
from controlplane.domain.access.records import ApiToken, JoinToken, uses_counter
from controlplane.domain.access.refusals import QuotaExceeded
from controlplane.domain.access.subjects import TOKEN
from controlplane.services.access.view import AccessView
from controlplane.services.ports import Collection, Delete, Expect, ResetCount, Step

MAX_HELD: Final = 10_000
"""Bindings, API tokens, join tokens and bans of one namespace, of each; about 10 MB of each."""

MAX_PATTERNS: Final = 100
"""Bindings of one namespace whose subject is a pattern: each is tried for every certificate that
asks for something there, which costs about a microsecond, until the verdict is remembered."""

_NAMES: Final = {
    Collection.ROLE_BINDINGS: "role_bindings",
    Collection.API_TOKENS: "api_tokens",
    Collection.JOIN_TOKENS: "join_tokens",
    Collection.BANS: "bans",
}
"""What a refusal calls them."""


def check_room(access: AccessView, collection: Collection, namespace: str) -> None:
    """Check that a namespace may keep one more of a kind.

    Raises:
        QuotaExceeded: it has as many as it may.
    """
    if len(access.held_in(collection, namespace)) >= MAX_HELD:
        raise QuotaExceeded(namespace, _NAMES[collection], limit=MAX_HELD)


def check_room_for_pattern(access: AccessView, namespace: str) -> None:
    """Check that a namespace may keep one more binding of a pattern.

    Raises:
        QuotaExceeded: it has as many as it may.
    """
    if access.patterns_in(namespace) >= MAX_PATTERNS:
        raise QuotaExceeded(namespace, "role_binding_patterns", limit=MAX_PATTERNS)


def room_for_token(
    access: AccessView, collection: Collection, namespace: str, now_ms: int
) -> tuple[Step, ...]:
    """Return what has to go so that a namespace may keep one more token; mostly nothing.

    Tokens that were revoked or have expired are kept for those who look, as long as there is room;
    then the first of them gives way.

    Raises:
        QuotaExceeded: there are as many as there may be, and all of them are good.
    """
    held = access.held_in(collection, namespace)
    if len(held) < MAX_HELD:
        return ()
    for token in held.values():
        if token.revoked or has_ended(token.expires_at_ms, now_ms):
            return tuple(_removal(access, collection, token))
    raise QuotaExceeded(namespace, _NAMES[collection], limit=MAX_HELD)


def _removal(
    access: AccessView, collection: Collection, token: ApiToken | JoinToken
) -> Iterator[Step]:
    yield Delete(collection, token.token_id, Expect(revision=token.revision))
    if isinstance(token, JoinToken):
        yield ResetCount(uses_counter(token.token_id))
        return
    yield Delete(Collection.TOKEN_USES, token.token_id)
    for binding in access.bindings_of((f"{TOKEN}{token.token_id}",)):
        yield Delete(Collection.ROLE_BINDINGS, binding.binding_id)
