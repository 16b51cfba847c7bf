"""Which exceptions of redis-py mean "the store is unavailable", decided in one place.

Adapters wrap their calls in `map_redis_errors()`; batches that collect one outcome per item use
`translate()`. Everything that is not unavailability propagates untouched: a script error or a
wrong type is a defect, and must reach the log as one.
"""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from redis import exceptions as redis_errors

from controlplane.domain.errors import StoreUnavailable


class StoreConfigurationError(Exception):
    """The store can be reached but not used: wrong version, topology, credentials or URL.

    Raised while the daemon starts; retrying does not help, the message says what to change.
    """


_UNAVAILABLE: Final = (
    redis_errors.ConnectionError,  # also BusyLoading, MaxConnections, MasterNotFound
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,  # a demoted primary
    redis_errors.ClusterDownError,  # also MasterDownError
    redis_errors.TryAgainError,  # a slot is moving
    redis_errors.SlotNotCoveredError,
    redis_errors.OutOfMemoryError,  # refused before the write; space may come back
    redis_errors.NoPermissionError,  # taken away while we run: like a password that was changed
    OSError,  # also the built-in TimeoutError
)

# Replies that redis-py has no class for. In each the server refused before it ran the command:
# the disk of the append-only file is full, too few replicas, another script runs for too long.
_UNAVAILABLE_CODES: Final = ("MISCONF", "NOREPLICAS", "BUSY ")

# What a server answers when the user of the connection may not run a command that a script runs;
# the last one is Redis 6.2's. A command of ours by itself is redis-py's NoPermissionError.
_FORBIDDEN_IN_SCRIPT: Final = (
    "ACL failure in script",
    "The user executing the script can't",
)

# redis-py 8.1 raises the bare class both for unreachable nodes and for misuse of its API.
_UNREACHABLE_CLUSTER: Final = ("Redis Cluster cannot be connected", "All slots are not covered")


def is_unavailable(error: BaseException) -> bool:
    """Say whether `error` means that the store did not serve a well-formed request."""
    if isinstance(error, _UNAVAILABLE):
        return True
    if isinstance(error, redis_errors.ResponseError):
        return str(error).startswith((*_UNAVAILABLE_CODES, *_FORBIDDEN_IN_SCRIPT))
    if isinstance(error, redis_errors.RedisClusterException):
        return str(error).startswith(_UNREACHABLE_CLUSTER)
    return False


def translate(error: Exception) -> Exception:
    """Return `StoreUnavailable`, caused by `error`, if it is unavailability; else `error` itself.

    The message carries no address and no server text: those are in the cause, for the log.
    """
    if not is_unavailable(error):
        return error
    unavailable = StoreUnavailable()
    unavailable.__cause__ = error
    return unavailable


class _RedisErrorMapping(AbstractContextManager[None]):
    """The reusable, stateless context manager behind `map_redis_errors`."""

    __slots__ = ()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # CancelledError is a BaseException and never unavailability: it passes.
        if exc is not None and is_unavailable(exc):
            raise StoreUnavailable from exc


_MAPPING: Final = _RedisErrorMapping()


def map_redis_errors() -> AbstractContextManager[None]:
    """Turn failures of the store inside the block into `StoreUnavailable`; pass all others.

    Synchronous, and fit to surround awaits. Reusable and re-entrant: it holds no state. A
    `StoreUnavailable` from an inner block passes unchanged.
    """
    return _MAPPING
