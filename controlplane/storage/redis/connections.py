"""redis-py connections as this daemon needs them: cancellable, and ready to run our scripts.

redis-py sends through `asyncio.wait_for`. In Python 3.11 that function drops a cancellation which
arrives when the send has just been done: the cancelled task goes on as if nothing had happened. It
also starts a task for every send. These classes send under `asyncio.timeout`, which does neither.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from controlplane.storage.redis.scripts import Script


class StoreLink(AbstractConnection):
    """What the classes below add to redis-py's.

    `scripts` are loaded into the server's cache by the handshake of every connection. A server
    loses its cache when it ends, and so do its connections: whoever sends a script by its name
    over such a connection can rely on the server knowing it, `SCRIPT FLUSH` excepted.
    """

    def __init__(self, *, scripts: Sequence[Script] = (), **options: Any) -> None:
        super().__init__(**options)
        self._scripts = tuple(scripts)

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Shake hands with the server, then hand it the scripts.

        A server that forbids SCRIPT LOAD is accepted: it is given each source when it asks for it.
        """
        await super().on_connect_check_health(check_health=check_health)
        for script in self._scripts:
            await self.send_command("SCRIPT", "LOAD", script.source, check_health=False)
        for _ in self._scripts:
            try:
                await self.read_response()
            except redis_errors.ConnectionError:  # also: the server is still loading its data
                raise
            except redis_errors.ResponseError:
                continue

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's
    ) -> None:
        """Send what `pack_command` made; on any failure the connection is closed.

        Raises redis-py's TimeoutError after `socket_timeout` seconds, and its ConnectionError.
        """
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            # redis-py leaves this method untyped
            await self.check_health()  # type: ignore[no-untyped-call]
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command(
                    [command] if isinstance(command, bytes) else command
                )
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise redis_errors.TimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:
            # A part of the command may be on its way: nobody can use this connection any more.
            await self.disconnect(nowait=True)
            raise


class TcpLink(StoreLink, Connection):
    """A connection over TCP."""


class TlsLink(StoreLink, SSLConnection):
    """A connection over TLS."""


class UnixLink(StoreLink, UnixDomainSocketConnection):
    """A connection over a unix socket."""


class SentinelLink(StoreLink, SentinelManagedConnection):
    """A connection to the primary that the sentinels name."""


class SentinelTlsLink(StoreLink, SentinelManagedSSLConnection):
    """The same over TLS."""


LINKS: Final[Mapping[type[AbstractConnection], type[Connection]]] = {
    Connection: TcpLink,
    SSLConnection: TlsLink,
}
"""What to use in place of redis-py's classes where redis-py has chosen one."""
