"""What the daemon must know about a store server before it trusts it, and how it asks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode

from controlplane.storage.redis.clients import Client
from controlplane.storage.redis.errors import StoreConfigurationError
from controlplane.storage.redis.permissions import rehearse
from controlplane.storage.redis.refusals import refusal_in, refusal_of_sentinels

_log: Final = logging.getLogger("fleetplane.store")

# Redis 6.2 is the oldest level that all managed offerings have reached; the scripts use ZADD GT
# (6.2) and exclusive stream ranges (6.2). Every Valkey release (7.2 and later) qualifies.
MINIMUM_REDIS: Final = (6, 2)

_WANTED_POLICY: Final = "noeviction"


class KeyspaceNotifications(StrEnum):
    """Whether the primaries announce changes of string keys (`K` and `$`)."""

    ENABLED = "enabled"
    ENABLED_BY_US = "enabled_by_us"
    DENIED = "denied"  # unknown or off, and CONFIG is forbidden: probe, else poll


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """One look at the store.

    `server` is `redis` or `valkey`. `maxmemory_policy` is None where INFO is forbidden. `run_id`
    changes when a primary restarts, `replid` when its history forks (fail-over, restart): after a
    change of either, acknowledged writes may be missing. In a Cluster both join the ids of all
    primaries with commas, in the order of their addresses; they are empty where INFO is forbidden.
    """

    server: str
    version: str
    is_cluster: bool
    maxmemory_policy: str | None
    run_id: str
    replid: str
    keyspace_notifications: KeyspaceNotifications


class Primary:
    """Sends plain commands to one primary: the only one, or a given node of a Cluster."""

    def __init__(self, client: Client, node: ClusterNode | None = None) -> None:
        self._client = client
        self._node = node

    async def call(self, *command: str) -> Any:
        """Send `command` and return the reply."""
        if isinstance(self._client, RedisCluster):
            return await self._client.execute_command(*command, target_nodes=self._node)
        # redis-py leaves this method untyped
        return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def ask(self, *command: str) -> Any:
        """Do the same without following redirections to other nodes."""
        if self._node is not None:
            return await self._node.execute_command(*command)
        return await self.call(*command)


async def primaries(client: Client) -> list[Primary]:
    """Return every primary that `client` writes to, ordered by address."""
    if isinstance(client, Redis):
        return [Primary(client)]
    await client.initialize()
    nodes = sorted(client.get_primaries(), key=lambda node: node.name)
    return [Primary(client, node) for node in nodes]


async def inspect(client: Client) -> ServerFacts:
    """Look at every primary, try what our user may do, and have changes of string keys announced.

    Warns in the log when keys may be evicted. Raises `StoreConfigurationError` when a server is
    too old, is a Cluster node behind a URL that is not a Cluster's, refuses the credentials, the
    certificate or a command that cannot be done without; redis-py's own errors when a primary
    cannot be reached.
    """
    try:
        found = [await _inspect_one(primary, client) for primary in await primaries(client)]
    except (redis_errors.RedisError, redis_errors.RedisClusterException) as error:
        refusal = refusal_in(error)
        if refusal is None and isinstance(error, redis_errors.ConnectionError):
            refusal = await refusal_of_sentinels(client, error)
        if refusal is not None:
            raise refusal from error
        if "Cluster mode is not enabled" in str(error):
            raise StoreConfigurationError(
                "the store is not a Cluster; use a redis:// URL"
            ) from error
        raise
    first = found[0]
    return ServerFacts(
        server=first.server,
        version=min((facts.version for facts in found), key=_version),
        is_cluster=first.is_cluster,
        maxmemory_policy=next(
            (f.maxmemory_policy for f in found if f.maxmemory_policy != _WANTED_POLICY),
            first.maxmemory_policy,
        ),
        run_id=",".join(facts.run_id for facts in found),
        replid=",".join(facts.replid for facts in found),
        keyspace_notifications=weakest([facts.keyspace_notifications for facts in found]),
    )


async def _inspect_one(primary: Primary, client: Client) -> ServerFacts:
    hello = _text_map(await primary.call("HELLO"))
    server, version = hello.get("server", "redis"), hello.get("version", "0")
    is_cluster = hello.get("mode") == "cluster"
    if server != "valkey" and _version(version) < MINIMUM_REDIS:
        raise StoreConfigurationError(
            f"the store runs {server} {version}; Redis 6.2 or later, or Valkey, is needed"
        )
    if is_cluster and isinstance(client, Redis):
        raise StoreConfigurationError("the store is a Cluster; use a redis+cluster:// URL")
    await rehearse(primary)
    try:
        info = await primary.call("INFO")
    except redis_errors.ResponseError:  # some managed services forbid it
        info = {}
    policy = info.get("maxmemory_policy")
    if policy != _WANTED_POLICY:
        _log.warning(
            "the store may evict keys: set maxmemory-policy to noeviction",
            extra={"maxmemory_policy": policy or "unknown"},
        )
    return ServerFacts(
        server=server,
        version=version,
        is_cluster=is_cluster,
        maxmemory_policy=policy,
        run_id=str(info.get("run_id", "")),
        replid=str(info.get("master_replid", "")),
        keyspace_notifications=await enable_notifications(primary),
    )


async def enable_notifications(primary: Primary) -> KeyspaceNotifications:
    """Add `K` and `$` to `notify-keyspace-events`, never removing what others rely on.

    The setting is neither replicated nor, by default, persisted: call this again after every
    fail-over. A refusal is an answer, not an error.
    """
    try:
        reply = _text_map(await primary.call("CONFIG GET", "notify-keyspace-events"))
        flags = reply.get("notify-keyspace-events", "")
        missing = _missing_flags(flags)
        if not missing:
            return KeyspaceNotifications.ENABLED
        await primary.call("CONFIG SET", "notify-keyspace-events", flags + missing)
    except redis_errors.ReadOnlyError:
        raise
    except redis_errors.ResponseError:
        return KeyspaceNotifications.DENIED
    _log.info(
        "keyspace notifications enabled on the store",
        extra={"flags_before": flags, "flags_added": missing},
    )
    return KeyspaceNotifications.ENABLED_BY_US


def weakest(states: list[KeyspaceNotifications]) -> KeyspaceNotifications:
    """Return the state that all primaries together can promise."""
    for state in (KeyspaceNotifications.DENIED, KeyspaceNotifications.ENABLED_BY_US):
        if state in states:
            return state
    return KeyspaceNotifications.ENABLED


def _missing_flags(flags: str) -> str:
    keyspace = "" if "K" in flags else "K"
    strings = "" if {"$", "A"} & set(flags) else "$"  # A stands for all classes
    return keyspace + strings


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _text_map(reply: Any) -> Mapping[str, str]:
    """Return a map reply as text, in whichever shape redis-py hands it over."""
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {_text(key): _text(value) for key, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
