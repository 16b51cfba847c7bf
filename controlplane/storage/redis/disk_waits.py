"""Waiting until the store has what was written on its disk.

`WAITAOF` (Redis 7.2, every Valkey) waits for the writes of its own connection. A store that syncs
every second answers within about 0.1 s, one that syncs always at once. Where the command does not
exist, is forbidden, or there is no append-only file, nothing can be waited for; then only
`appendfsync always` makes sure that a power cut forgets nothing, and the log says so once. The same
holds for a Cluster, whose client cannot send a command without a key along with others.
"""

import logging
from typing import Any, Final

from redis import exceptions as redis_errors

from controlplane.storage.redis.errors import is_unavailable

WAIT_MS: Final = 1_500
"""Longest wait: less than the 2 s that a reply may take."""

WAIT_FOR_DISK: Final = ("WAITAOF", 1, 0, WAIT_MS)
"""The command: on the disk of the primary, on no replica, for at most so long."""

_log: Final = logging.getLogger("fleetplane.store")


class DiskWaits:
    """What is known about one store's ability to say what is on its disk."""

    def __init__(self) -> None:
        self.can_wait = True
        """Whether to ask; false once the store has refused."""

    def has(self, reply: Any) -> bool:
        """Return whether a reply to `WAIT_FOR_DISK` lets the writes before it be answered.

        Raises:
            redis.exceptions.RedisError: the store does not serve.
        """
        if isinstance(reply, redis_errors.NoPermissionError) or (
            isinstance(reply, redis_errors.ResponseError) and not is_unavailable(reply)
        ):
            self.can_wait = False
            _log.warning(
                "the store cannot say what is on its disk: a power cut may make it forget grants"
                " and uses of approvals of the last second, unless appendfsync is always",
                extra={"answer": str(reply)},
            )
            return True
        if isinstance(reply, Exception):
            raise reply
        return bool(reply[0])
