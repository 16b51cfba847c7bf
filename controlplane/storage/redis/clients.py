"""Builds redis-py clients for a `StoreAddress`, with the settings that this daemon relies on.

What redis-py 8 does by default and is not wanted here: it repeats every command up to ten times,
also those that are not idempotent; it raises as soon as its pool is exhausted instead of waiting;
it negotiates maintenance notifications with every server it meets.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from controlplane.storage.redis.address import StoreAddress, Topology
from controlplane.storage.redis.connections import (
    LINKS,
    SentinelLink,
    SentinelTlsLink,
    TcpLink,
    TlsLink,
    UnixLink,
)
from controlplane.storage.redis.password_file import PasswordFile
from controlplane.storage.redis.pools import WaitingPool, WaitingSentinelPool
from controlplane.storage.redis.scripts import Script

Client = Redis | RedisCluster

# Seconds that one reply may take. A healthy store answers in milliseconds; RPC deadlines are
# around 10 s, so a stalled store is reported well before its callers give up.
SOCKET_TIMEOUT_SECONDS: Final = 2.0

# Connections per client and server. Work is pipelined, so a handful is busy at a time; the bound
# keeps a burst from exhausting the server's `maxclients` (10,000) across many replicas.
MAX_CONNECTIONS: Final = 64

# Reads are repeated this often: together at most ~0.5 s of pauses, which rides out the restart of
# an embedded store.
_READ_RETRIES: Final = 4
_READ_BACKOFF_BASE_SECONDS: Final = 0.02
_READ_BACKOFF_CAP_SECONDS: Final = 0.25


def retry_reads() -> Retry:
    """Return the policy of clients that only read."""
    backoff = ExponentialWithJitterBackoff(
        base=_READ_BACKOFF_BASE_SECONDS, cap=_READ_BACKOFF_CAP_SECONDS
    )
    return Retry(backoff, _READ_RETRIES)


def never_retry() -> Retry:
    """Return the policy of clients that write: a timeout may hide a write that happened."""
    return Retry(NoBackoff(), 0)


class ClientFactory:
    """Makes the clients of one address. Owns the sentinel connections behind them, if any.

    `socket_timeout` (seconds) and the bound of the pools apply unless the URL sets its own.
    """

    def __init__(self, address: StoreAddress, *, client_name: str, socket_timeout: float) -> None:
        self._address = address
        options = {
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": socket_timeout,
            "max_connections": MAX_CONNECTIONS,
            **address.options,
        }
        self._options: dict[str, Any] = {
            **options,
            **_credentials(address.username, address.password, address.password_file),
            "client_name": client_name,
            "protocol": 3,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._sentinel: Sentinel | None = None
        if address.topology is Topology.SENTINEL:
            self._sentinel = self._make_sentinel()

    def make(self, retry: Retry, scripts: Sequence[Script] = ()) -> Client:
        """Return a new client; the caller closes it with `close_client`. Does no I/O.

        Every connection of the client makes `scripts` known to its server before it is used.
        """
        match self._address.topology:
            case Topology.CLUSTER:
                return self._cluster(retry, scripts)
            case Topology.SENTINEL:
                return Redis.from_pool(self._sentinel_pool(retry, scripts))
            case Topology.STANDALONE:
                return Redis.from_pool(self._standalone_pool(retry, scripts))

    async def aclose(self) -> None:
        """Close the connections to the sentinels."""
        if self._sentinel is not None:
            await self._sentinel.aclose()

    def _cluster(self, retry: Retry, scripts: Sequence[Script]) -> RedisCluster:
        client = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._address.hosts],
            retry=retry,
            ssl=self._address.tls,
            **self._options,
        )
        # Its constructor takes neither a class of connections nor options of ours. The options
        # are the template for the nodes that it will find; the seeds already have copies.
        options = client.connection_kwargs
        link = LINKS[options["connection_class"]]
        options.update(connection_class=link, scripts=scripts)
        for node in client.startup_nodes:
            node.connection_class = link
            node.connection_kwargs["scripts"] = scripts
        return client

    def _standalone_pool(self, retry: Retry, scripts: Sequence[Script]) -> WaitingPool:
        where: dict[str, Any]
        if self._address.socket_path is not None:
            where = {"connection_class": UnixLink, "path": self._address.socket_path}
        else:
            host, port = self._address.hosts[0]
            link = TlsLink if self._address.tls else TcpLink
            where = {"connection_class": link, "host": host, "port": port}
        return WaitingPool(
            timeout=self._pool_timeout,
            db=self._address.db,
            retry=retry,
            scripts=scripts,
            **where,
            **self._options,
        )

    def _sentinel_pool(self, retry: Retry, scripts: Sequence[Script]) -> WaitingSentinelPool:
        # redis-py leaves the constructors of its sentinel module untyped
        return WaitingSentinelPool(  # type: ignore[no-untyped-call]
            self._address.service,
            self._sentinel,
            timeout=self._pool_timeout,
            db=self._address.db,
            connection_class=SentinelTlsLink if self._address.tls else SentinelLink,
            retry=retry,
            scripts=scripts,
            **self._options,
        )

    def _make_sentinel(self) -> Sentinel:
        tls = {k: v for k, v in self._address.options.items() if k.startswith("ssl_")}
        # untyped too
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._address.hosts,
            sentinel_kwargs={
                "socket_timeout": self._options["socket_timeout"],
                "socket_connect_timeout": self._options["socket_connect_timeout"],
                **_credentials(
                    self._address.sentinel_username,
                    self._address.sentinel_password,
                    self._address.sentinel_password_file,
                ),
                "ssl": self._address.tls,
                # The next sentinel in the list is the retry.
                "retry": never_retry(),
                "maint_notifications_config": MaintNotificationsConfig(enabled=False),
                **tls,
            },
        )
        for client in sentinel.sentinels:
            pool = client.connection_pool
            pool.connection_class = LINKS[pool.connection_class]
        return sentinel

    @property
    def _pool_timeout(self) -> float:
        """Seconds to wait for a free connection: as long as for a reply."""
        return float(self._options["socket_timeout"])


def _credentials(
    username: str | None, password: str | None, password_file: str | None
) -> dict[str, Any]:
    """Return the options that say who we are; redis-py takes only one kind of them."""
    if password_file is not None:
        return {"credential_provider": PasswordFile(username, password_file)}
    return {"username": username, "password": password}


async def close_client(client: Client) -> None:
    """Close every connection of `client`, whatever state it is in."""
    await client.aclose()
    if isinstance(client, RedisCluster):
        # redis-py 8.1 closes only a client that it considers initialised. After a connection
        # error it does not, and would leave the sockets to the other nodes to the collector.
        await client.nodes_manager.aclose()
        await client.nodes_manager.aclose("startup_nodes")
