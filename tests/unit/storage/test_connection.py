import asyncio
import hashlib

import pytest
from redis import exceptions as redis_errors

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.address import Topology, parse_store_url
from controlplane.storage.redis.connection import Script, StoreConnection
from controlplane.storage.redis.errors import (
    StoreConfigurationError,
    map_redis_errors,
    translate,
)
from controlplane.storage.redis.server_facts import KeyspaceNotifications, weakest


def test_a_plain_url_names_one_server():
    address = parse_store_url("redis://user:p%40ss@store.internal/3?socket_timeout=0.5")

    assert address.topology is Topology.STANDALONE
    assert address.hosts == (("store.internal", 6379),)
    assert (address.username, address.password, address.db) == ("user", "p@ss", 3)
    assert address.options == {"socket_timeout": 0.5}
    assert not address.tls


def test_a_unix_url_names_a_socket():
    address = parse_store_url("unix:///run/user/0/a%20b.sock?db=2")

    assert address.socket_path == "/run/user/0/a b.sock"
    assert address.db == 2


def test_a_sentinel_url_names_sentinels_and_a_service():
    address = parse_store_url(
        "rediss+sentinel://:secret@h1,h2:7000,[::1]:7001/fleet/1?sentinel_password=watch"
    )

    assert address.topology is Topology.SENTINEL
    assert address.hosts == (("h1", 26379), ("h2", 7000), ("::1", 7001))
    assert (address.service, address.db) == ("fleet", 1)
    assert (address.username, address.password) == (None, "secret")
    assert address.sentinel_password == "watch"  # noqa: S105 - the point of the test
    assert address.tls


def test_a_password_may_be_in_a_file_whose_path_the_url_gives():
    address = parse_store_url(
        "rediss+sentinel://fleet@h/service?password_file=/run/secrets/a%20b"
        "&sentinel_username=watch&sentinel_password_file=/run/c"
    )

    assert (address.username, address.password) == ("fleet", None)
    assert address.password_file == "/run/secrets/a b"  # noqa: S105 - a path
    assert address.sentinel_username == "watch"
    assert address.sentinel_password_file == "/run/c"  # noqa: S105 - a path
    assert parse_store_url("unix:///s?password_file=p").password_file == "p"  # noqa: S105 - a path


def test_a_cluster_url_names_its_seeds():
    address = parse_store_url("redis+cluster://a:7000,b:7001")

    assert address.topology is Topology.CLUSTER
    assert address.hosts == (("a", 7000), ("b", 7001))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memcached://h",
        "redis+ring://h",
        "redis://",
        "redis://a,b",
        "redis://h:port",
        "redis://h:70000",
        "redis://h/zero",
        "redis://h/0/1",
        "unix://",
        "redis+sentinel://h:26379",
        "redis+cluster://h/1",
        "redis://[::1",
        "redis://h?socket_timeout=-1",
        "redis://h?socket_timeout=nan",
        "redis://h?max_connections=0",
        "redis://h?decode_responses=true",
        "redis://h?ssl_ca_certs=x",
        "rediss://h?ssl_check_hostname=perhaps",
        "rediss://h?ssl_cert_reqs=sometimes",
        "rediss://h?ssl_ca_certs=",
        "rediss://h?ssl_keyfile=k",
        "redis://:p@h?password_file=f",
        "redis+sentinel://h/s?sentinel_password=p&sentinel_password_file=f",
        "redis://h?sentinel_password=p",
    ],
)
def test_a_wrong_url_is_refused(url):
    with pytest.raises(StoreConfigurationError):
        parse_store_url(url)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("redis://u:secret@h/1", "redis://h:6379/1"),
        ("rediss+sentinel://:secret@h/fleet", "rediss+sentinel://h:26379/fleet/0"),
        ("redis+cluster://:secret@[::1]", "redis+cluster://[::1]:6379"),
        ("unix://:secret@/tmp/s.sock", "unix:///tmp/s.sock"),
    ],
)
def test_an_address_shows_no_secret(url, redacted):
    address = parse_store_url(url)

    assert address.redacted == redacted
    assert "secret" not in repr(address)


async def test_every_topology_can_be_built_and_closed_without_a_server():
    for url in (
        "redis://127.0.0.1:1",
        "rediss://127.0.0.1:1?ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///nonexistent.sock",
        "redis+sentinel://127.0.0.1:1/fleet",
        "rediss+sentinel://127.0.0.1:1/fleet",
        "redis+cluster://127.0.0.1:1",
        "rediss+cluster://127.0.0.1:1",
    ):
        async with StoreConnection(url, socket_timeout=0.2) as connection:
            with pytest.raises(StoreUnavailable):
                await connection.ping()
        await connection.close()


def test_a_script_knows_the_name_under_which_servers_cache_it():
    script = Script("return 1")

    assert script.sha1 == hashlib.sha1(b"return 1", usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ConnectionError(),
        redis_errors.BusyLoadingError(),
        redis_errors.MaxConnectionsError(),
        redis_errors.TimeoutError(),
        redis_errors.ReadOnlyError(),
        redis_errors.ClusterDownError("CLUSTERDOWN"),
        redis_errors.MasterDownError("MASTERDOWN"),
        redis_errors.TryAgainError("TRYAGAIN"),
        redis_errors.SlotNotCoveredError(),
        redis_errors.OutOfMemoryError(),
        redis_errors.ResponseError("MISCONF Errors writing to the AOF file"),
        redis_errors.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis_errors.ResponseError("BUSY Valkey is busy running a script."),
        redis_errors.RedisClusterException("Redis Cluster cannot be connected. Please"),
        ConnectionResetError(),
        TimeoutError(),
        redis_errors.NoPermissionError("User u has no permissions to run the 'get' command"),
        redis_errors.ResponseError("ACL failure in script: No permissions to access a key"),
        redis_errors.ResponseError("The user executing the script can't run this command"),
    ],
)
def test_a_store_that_does_not_serve_is_unavailable(error: Exception):
    with pytest.raises(StoreUnavailable) as caught, map_redis_errors():
        raise error

    assert caught.value.__cause__ is error
    assert isinstance(translate(error), StoreUnavailable)


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ResponseError("ERR value is not an integer"),
        redis_errors.ResponseError("BUSYGROUP Consumer Group name already exists"),
        redis_errors.RedisClusterException("all keys must map to the same key slot"),
        redis_errors.DataError(),
        ValueError(),
        StoreUnavailable(),
    ],
)
def test_other_errors_pass_untouched(error):
    with pytest.raises(type(error)) as caught, map_redis_errors():
        raise error

    assert caught.value is error
    assert translate(error) is error


async def test_cancellation_passes_the_mapping():
    async def wait() -> None:
        with map_redis_errors():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_primaries_together_promise_what_the_weakest_promises():
    enabled, by_us, denied = KeyspaceNotifications

    assert weakest([enabled, enabled]) is enabled
    assert weakest([enabled, by_us]) is by_us
    assert weakest([by_us, denied, enabled]) is denied
