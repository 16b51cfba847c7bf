"""Pages of tokens, oldest first."""

from collections.abc import Iterable
from typing import TypeVar

from controlplane.domain.access.records import ApiToken, JoinToken

_Token = TypeVar("_Token", ApiToken, JoinToken)


def page_of(tokens: Iterable[_Token], *, after: str, limit: int) -> tuple[list[_Token], str]:
    """Return at most `limit` tokens behind a cursor, and their end as a cursor (empty: no more)."""
    behind = sorted((token for token in tokens if _place(token) > after), key=_place)
    chosen = behind[:limit]
    return chosen, _place(chosen[-1]) if len(behind) > len(chosen) else ""


def _place(token: ApiToken | JoinToken) -> str:
    # 13 digits of milliseconds last until the year 2286, so text sorts as time does.
    return f"{token.created_at_ms:013d}/{token.token_id}"
