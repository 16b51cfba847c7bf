"""The daemon's connection to its store: one object for every topology.

Replies are bytes (`decode_responses` is off) in their RESP2 shapes, over RESP3 connections.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.cluster import ClusterPipeline

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.address import StoreAddress, parse_store_url
from controlplane.storage.redis.clients import (
    SOCKET_TIMEOUT_SECONDS,
    Client,
    ClientFactory,
    close_client,
    never_retry,
    retry_reads,
)
from controlplane.storage.redis.disk_waits import WAIT_FOR_DISK, DiskWaits
from controlplane.storage.redis.errors import map_redis_errors, translate
from controlplane.storage.redis.refusals import check_tls_files
from controlplane.storage.redis.scripts import Script, all_scripts
from controlplane.storage.redis.server_facts import (
    KeyspaceNotifications,
    ServerFacts,
    enable_notifications,
    inspect,
    primaries,
    weakest,
)

__all__ = [
    "KeyspaceNotifications",
    "Script",
    "ScriptCall",
    "ServerFacts",
    "StoreConnection",
]

_log: Final = logging.getLogger("fleetplane.store")

Value = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One run of a script. In a Cluster all `keys` must share a hash tag."""

    script: Script
    keys: Sequence[Value]
    args: Sequence[Value] = ()


class StoreConnection:
    """Clients, scripts and server checks for the store behind one URL.

    The constructor parses the URL (`StoreConfigurationError`) and does no I/O. Every method that
    talks to the store raises `StoreUnavailable` when it does not answer; a write may then have
    happened or not. `close()` ends all connections; nothing may be called after it.

    `client_name` shows up in `CLIENT LIST`. `socket_timeout` is the longest wait for one reply in
    seconds, 2 by default; the URL's option of the same name wins.
    """

    def __init__(
        self,
        url: str,
        *,
        client_name: str = "fleetplane",
        socket_timeout: float = SOCKET_TIMEOUT_SECONDS,
    ) -> None:
        self.address: StoreAddress = parse_store_url(url)
        self._factory = ClientFactory(
            self.address, client_name=client_name, socket_timeout=socket_timeout
        )
        self._reads = self._factory.make(retry_reads())
        self._writes = self._factory.make(never_retry(), all_scripts())
        # Subscriptions live on their own client: they hold connections for hours, and must not
        # be reconnected silently (a gap would go unseen).
        self._subscriptions = self._factory.make(never_retry())
        self._disk = DiskWaits()

    @property
    def reads(self) -> Client:
        """The client for commands that may run twice. Repeats them after connection errors."""
        return self._reads

    @property
    def writes(self) -> Client:
        """The client for everything else. Sends each command at most once."""
        return self._writes

    def pipeline(self) -> Pipeline | ClusterPipeline:
        """Return a pipeline of `writes` without MULTI: one round trip, each command by itself."""
        return self._writes.pipeline(transaction=False)

    async def run(self, script: Script, keys: Sequence[Value], args: Sequence[Value] = ()) -> Any:
        """Run a script once and return its reply; loads it where the server does not know it."""
        with map_redis_errors():
            try:
                return await self._send("EVALSHA", script.sha1, len(keys), *keys, *args)
            except redis_errors.NoScriptError:  # refused before anything ran
                return await self._send("EVAL", script.source, len(keys), *keys, *args)
            except redis_errors.ReadOnlyError:
                await self._leave_demoted_primary()
                raise

    async def eval_many(
        self,
        script: Script,
        items: Iterable[tuple[Sequence[Value], Sequence[Value]]],
        *,
        durable: bool = False,
    ) -> list[Any]:
        """Run one script for every (keys, args), in one pipeline; see `run_batch`."""
        calls = [ScriptCall(script, keys, args) for keys, args in items]
        return await self.run_batch(calls, durable=durable)

    async def run_batch(self, calls: Sequence[ScriptCall], *, durable: bool = False) -> list[Any]:
        """Run many scripts in one pipeline and return their outcomes in the order of `calls`.

        An outcome is a reply, or an exception that was *not* raised: `StoreUnavailable` when the
        call may or may not have happened, redis-py's `ResponseError` when the script failed. One
        item's failure touches no other. Calls with the same first key run in the order of
        `calls`: where the server did not know a script (not one of ours, or its cache was flushed)
        the call is sent again with its source, unless a later one ran meanwhile; it then stays
        undone, and its outcome is `StoreUnavailable`.

        With `durable` this waits until the server has all of it on its disk, as far as it can tell;
        if that takes too long every outcome is `StoreUnavailable`.
        """
        if not calls:
            return []
        sent = [("EVALSHA", c.script.sha1, c) for c in calls]
        outcomes = await self._pipe(sent, durable=durable)
        unknown = _repeatable(calls, outcomes)
        if unknown:
            sent = [("EVAL", calls[i].script.source, calls[i]) for i in unknown]
            again = await self._pipe(sent, durable=durable)
            for i, outcome in zip(unknown, again, strict=True):
                outcomes[i] = outcome
        await self._heal_after(outcomes)
        return [translate(o) if isinstance(o, Exception) else o for o in outcomes]

    async def pubsub_client(self, channel_key: str) -> PubSub:
        """Return a PubSub on a connection of its own to the primary that owns `channel_key`.

        It is not subscribed yet. Lost connections raise from its methods instead of being
        repaired behind the caller's back; a Cluster's PubSub stays with its node for life. After
        any error, or silence, close it and ask for a new one: the owner is looked up afresh.
        The caller closes it with `aclose()`, before this connection is closed.
        """
        with map_redis_errors():
            client = self._subscriptions
            if isinstance(client, Redis):
                return client.pubsub()
            await client.initialize()
            await client.nodes_manager.initialize()  # ownership may have moved since
            return client.pubsub(node=client.get_node_from_key(channel_key))

    async def ping(self) -> None:
        """Return when every primary answers; raise `StoreUnavailable` when one does not."""
        with map_redis_errors():
            for primary in await primaries(self._writes):
                await primary.call("PING")

    async def check_server(self) -> ServerFacts:
        """Verify files, version, topology and rights, enable notifications, return what was found.

        Raises `StoreConfigurationError` when the store cannot be used (see `inspect`), or a file
        of the URL's `ssl_` options cannot.
        """
        await check_tls_files(self.address)
        with map_redis_errors():
            return await inspect(self._writes)

    async def ensure_notifications(self) -> KeyspaceNotifications:
        """Enable keyspace notifications on every primary again: each reconnect may be a new one."""
        with map_redis_errors():
            return weakest([await enable_notifications(p) for p in await primaries(self._writes)])

    async def close(self) -> None:
        """Close every connection. Calling it again does nothing."""
        for client in (self._subscriptions, self._writes, self._reads):
            await close_client(client)
        await self._factory.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, *command: Value) -> Any:
        if isinstance(self._writes, RedisCluster):
            return await self._writes.execute_command(*command)
        # redis-py leaves this method untyped
        return await self._writes.execute_command(*command)  # type: ignore[no-untyped-call]

    async def _pipe(
        self, commands: Sequence[tuple[str, str, ScriptCall]], *, durable: bool
    ) -> list[Any]:
        pipe = self.pipeline()
        for verb, script, call in commands:
            pipe.execute_command(verb, script, len(call.keys), *call.keys, *call.args)
        waits = durable and self._disk.can_wait and isinstance(self._writes, Redis)
        if waits:
            pipe.execute_command(*WAIT_FOR_DISK)
        try:
            outcomes: list[Any] = await pipe.execute(raise_on_error=False)
            on_disk = not waits or self._disk.has(outcomes.pop())
        except Exception as error:  # the whole pipeline: every item shares the outcome
            if translate(error) is error:
                raise
            return [error] * len(commands)
        finally:
            # redis-py leaves this method untyped
            await pipe.reset()  # type: ignore[no-untyped-call]
        return outcomes if on_disk else [StoreUnavailable() for _ in commands]

    async def _heal_after(self, outcomes: Sequence[Any]) -> None:
        """Make the next call look for the primaries again if these outcomes say they moved.

        redis-py does so for single commands, but not for pipelines.
        """
        if any(isinstance(o, redis_errors.ReadOnlyError) for o in outcomes):
            await self._leave_demoted_primary()
        lost = (
            redis_errors.ConnectionError,
            redis_errors.TimeoutError,
            redis_errors.ClusterDownError,
            OSError,
        )
        if isinstance(self._writes, RedisCluster) and any(isinstance(o, lost) for o in outcomes):
            # The mark that the client sets itself when a single command fails this way; its
            # public alternative, aclose(), would cut the commands of other tasks.
            self._writes._initialize = True  # noqa: SLF001

    async def _leave_demoted_primary(self) -> None:
        """Drop idle connections, so that the next call resolves the primary's name again."""
        _log.warning("the store answers read-only: looking for its primary again")
        if isinstance(self._writes, Redis):
            await self._writes.connection_pool.disconnect(inuse_connections=False)
        else:
            self._writes._initialize = True  # noqa: SLF001 - see _heal_after


def _repeatable(calls: Sequence[ScriptCall], outcomes: list[Any]) -> list[int]:
    """Return which calls were refused and may be sent again; mark those that come too late."""
    repeatable: list[int] = []
    ran: set[Value] = set()
    for i in reversed(range(len(calls))):
        first_key = calls[i].keys[0] if calls[i].keys else ""
        if not isinstance(outcomes[i], redis_errors.NoScriptError):
            ran.add(first_key)
        elif first_key in ran:
            outcomes[i] = StoreUnavailable()
        else:
            repeatable.append(i)
    return repeatable[::-1]
