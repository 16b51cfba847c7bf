"""Tokens as tables; without their secrets, which nobody keeps."""

import time
from collections.abc import Iterable
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.cli.moments import ago, until
from controlplane.cli.places import place
from controlplane.cli.rendering import Column, table
from fleetplane.v1 import identity_service_pb2 as pb

_API_COLUMNS: Final = (
    Column("TOKEN", flexible=True),
    Column("NAME", flexible=True),
    Column("STATE"),
    Column("EXPIRES", right=True),
    Column("LAST USED", right=True),
    Column("AGE", right=True),
    Column("MADE BY", flexible=True),
)

_JOIN_COLUMNS: Final = (
    Column("TOKEN", flexible=True),
    Column("FOR", flexible=True),
    Column("STATE"),
    Column("USES", right=True),
    Column("EXPIRES", right=True),
    Column("AGE", right=True),
    Column("MADE BY", flexible=True),
    Column("WHAT FOR", flexible=True),
)


def api_tokens_table(tokens: Iterable[pb.ApiToken]) -> str:
    """Lay out API tokens, one per line."""
    return table(
        _API_COLUMNS,
        [
            (
                one.token_id,
                one.name,
                state_of(one),
                until(one.expires_at) or "never",
                _used(one),
                ago(one.created_at),
                one.created_by,
            )
            for one in tokens
        ],
    )


def join_tokens_table(tokens: Iterable[pb.JoinToken]) -> str:
    """Lay out join tokens, one per line."""
    return table(
        _JOIN_COLUMNS,
        [
            (
                one.token_id,
                one.agent_name_pattern,
                state_of(one),
                f"{one.uses}/{one.max_uses or 'any'}",
                until(one.expires_at),
                ago(one.created_at),
                one.created_by,
                one.description,
            )
            for one in tokens
        ],
    )


def state_of(token: pb.ApiToken | pb.JoinToken, now: float | None = None) -> str:
    """Return whether a token is accepted, and why not: VALID, REVOKED, EXPIRED or USED UP."""
    if token.revoked:
        return "REVOKED"
    if _over(token.expires_at, time.time() if now is None else now):
        return "EXPIRED"
    if isinstance(token, pb.JoinToken) and token.max_uses and token.uses >= token.max_uses:
        return "USED UP"
    return "VALID"


def api_token_words(token: pb.ApiToken, role: str) -> str:
    """Return what an API token is good for, in a sentence."""
    return f"{role} {place(token.namespace)}, {_until(token.expires_at)}"


def join_token_words(token: pb.JoinToken) -> str:
    """Return what a join token is good for, in a sentence."""
    times = {0: "any number of times", 1: "once"}.get(token.max_uses, f"{token.max_uses} times")
    return (
        f"agents {token.agent_name_pattern} {place(token.namespace)}, {times}, "
        f"{_until(token.expires_at)}"
    )


def _until(end: Timestamp) -> str:
    return f"ends {until(end)}" if end.seconds else "for ever"


def _used(token: pb.ApiToken) -> str:
    since = ago(token.last_used_at)
    return f"{since} ago" if since else "never"


def _over(end: Timestamp, now: float) -> bool:
    return bool(end.seconds) and end.seconds + end.nanos / 1e9 <= now
