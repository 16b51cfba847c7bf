"""Finds out, before anything depends on it, whether the store's user may do what will be done.

A user that may run only some of the commands of a script would stop it half-way, after the first
writes and before the last. So a replica rehearses each command when it starts, on a key of its
own and in a form without effect; the access list is asked first, whatever the command would do.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from redis import exceptions as redis_errors

from controlplane.storage.redis.errors import StoreConfigurationError, is_unavailable
from controlplane.storage.redis.refusals import MANUAL, forbidden_command

REHEARSAL_KEY: Final = "fp:rehearsal"
"""Holds text that is no number, so that commands for other types fail instead of writing."""

_REHEARSAL_MS: Final = "60000"  # far longer than a rehearsal; nothing is left behind
_K: Final = REHEARSAL_KEY
_UNKNOWN_SCRIPT: Final = "0" * 40

# SET comes first: as long as the key holds text, none of the others can write. None of these
# blocks, and none needs more than its permission.
_COMMANDS: Final[Sequence[tuple[str, ...]]] = (
    ("SET", _K, "rehearsal", "PX", _REHEARSAL_MS),
    ("PING",),
    ("TIME",),
    ("EVAL", "return 1", "0"),
    ("EVALSHA", _UNKNOWN_SCRIPT, "0"),
    ("GET", _K),
    ("MGET", _K),
    ("EXISTS", _K),
    ("INCR", _K),
    ("HGET", _K, "f"),
    ("HMGET", _K, "f"),
    ("HKEYS", _K),
    ("HSET", _K, "f", "v"),
    ("HDEL", _K, "f"),
    ("SADD", _K, "m"),
    ("SMEMBERS", _K),
    ("XADD", _K, "NOMKSTREAM", "*", "f", "v"),
    ("XLEN", _K),
    ("XINFO", "STREAM", _K),
    ("XRANGE", _K, "-", "+"),
    ("XREVRANGE", _K, "+", "-"),
    ("XREAD", "STREAMS", _K, "0"),
    ("XTRIM", _K, "MAXLEN", "0"),
    ("ZADD", _K, "XX", "0", "m"),
    ("ZREM", _K, "m"),
    ("ZCARD", _K),
    ("ZSCORE", _K, "m"),
    ("ZMSCORE", _K, "m"),
    ("ZRANGE", _K, "0", "-1"),
    ("ZRANGEBYSCORE", _K, "0", "0"),
)

_SUBCOMMANDS: Final = frozenset({"XINFO"})


class Server(Protocol):
    """One server, asked without following redirections."""

    async def ask(self, *command: str) -> Any:
        """Send a command and return its reply."""


async def rehearse(server: Server) -> None:
    """Try every command that the daemon cannot do without.

    In a Cluster the servers that do not own the key redirect us: they have asked their access list
    by then, and that is all we want to know.

    Raises:
        StoreConfigurationError: some are forbidden; names all of them.
        redis.exceptions.RedisError: the server does not serve.
    """
    forbidden: list[str] = []
    foreign_keys = False
    for command in _COMMANDS:
        try:
            await server.ask(*command)
        except redis_errors.ResponseError as error:
            name = _forbidden(error, command)
            if name is None:
                continue
            if not name:
                foreign_keys = True
                continue
            forbidden.append(name)
            if command[0] == "SET":  # without it the others are not harmless
                break
    if forbidden:
        raise StoreConfigurationError(
            f"the store's user may not run {', '.join(forbidden)}; its rule is in {MANUAL}"
        )
    if foreign_keys:
        raise StoreConfigurationError(
            f"the store's user may not read and write the keys ~fp:*; its rule is in {MANUAL}"
        )


def _forbidden(error: redis_errors.ResponseError, command: tuple[str, ...]) -> str | None:
    """Return the name of a forbidden command, `""` for a forbidden key, None if it may be run."""
    if str(error).startswith("unknown command"):  # renamed, or filtered by a proxy
        words = command[:2] if command[0] in _SUBCOMMANDS else command[:1]
        return "|".join(words).lower()
    name = forbidden_command(error)
    if name is None and is_unavailable(error):
        raise error
    return name
