"""Connection pools that wait for a free connection when all are in use.

redis-py's own `BlockingConnectionPool` waits on an `asyncio.Condition`. In the Python versions
that we support, a waiter that is cancelled just after it was notified takes the notification with
it: another waiter then sits out its whole timeout beside an idle connection. Cancelled waiters are
everyday life here (every RPC that hits its deadline), so these pools count with a semaphore, which
hands the slot on.
"""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError


class WaitingPool(ConnectionPool):
    """A pool of at most `max_connections`; a caller waits up to `timeout` seconds for one.

    Raises redis-py's `ConnectionError` when none came free in time.
    """

    def __init__(self, *, timeout: float, max_connections: int, **options: Any) -> None:
        super().__init__(max_connections=max_connections, **options)
        self._timeout = timeout
        self._slots = asyncio.Semaphore(max_connections)

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        """Return a connected connection; the arguments are redis-py's, and unused since 5.3."""
        del command_name, keys, options
        await self._take_slot()
        try:
            # redis-py leaves this method untyped
            connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._slots.release()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back, whatever state it is in."""
        try:
            await super().release(connection)
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise RedisConnectionError("every connection to the store is in use") from error


class WaitingSentinelPool(SentinelConnectionPool, WaitingPool):
    """The same for connections to the current primary of a Sentinel service."""
