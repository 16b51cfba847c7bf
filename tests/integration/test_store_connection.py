import asyncio
import random
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.connection import (
    KeyspaceNotifications,
    Script,
    ScriptCall,
    StoreConnection,
)
from controlplane.storage.redis.errors import StoreConfigurationError
from controlplane.storage.redis.scripts import load_script
from tests.fakes.valkey import (
    CONFIG_DENIED,
    CONFIG_RENAMED,
    sentinel_group,
    valkey_cluster,
    valkey_server,
)

APPEND = Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
INCREMENT = Script("return redis.call('INCR', KEYS[1])")
ECHO = Script("return ARGV[1]")
FAIL = Script("return redis.error_reply('ERR on purpose')")


def _echoes(caller: int) -> list[tuple[list[str], list[str]]]:
    return [(["k"], [f"{caller}-{item}"]) for item in range(20)]


async def _notification(pubsub: PubSub, channel: str) -> bytes:
    """Wait for one message on `channel`, past the confirmation of the subscription."""
    async with asyncio.timeout(3):
        while True:
            message = await pubsub.get_message(timeout=1)
            if message is not None and message["type"] == "message":
                assert message["channel"] == channel.encode()
                return bytes(message["data"])


async def test_a_script_runs_on_a_server_that_forgot_it():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        assert await store.run(APPEND, ["k"], ["a"]) == 1
        await server.command("SCRIPT FLUSH SYNC")
        assert await store.run(APPEND, ["k"], ["b"]) == 2
        await server.command("SCRIPT FLUSH SYNC")
        assert await store.eval_many(APPEND, [(["k"], ["c"]), (["k"], ["d"])]) == [3, 4]


async def test_a_restarted_server_knows_our_scripts_before_it_is_asked_to_run_them():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        await server.restart()
        assert await store.eval_many(load_script("position"), [(["{n}r", "{n}e", "{n}c"], [])])
        stats = await server.command("INFO commandstats")
        assert "cmdstat_evalsha:calls=1" in stats
        assert "cmdstat_eval:" not in stats


async def test_a_refused_script_never_runs_after_its_successors():
    """A server may learn a script from somebody else in the middle of a batch."""
    learn = Script(f"return redis.call('RPUSH', KEYS[1], ARGV[1]) -- {random.random()}")
    async with valkey_server() as server, StoreConnection(server.url) as store:
        known, unknown = APPEND, learn
        await store.run(known, ["{a}"], ["0"])
        outcomes = await store.run_batch(
            [
                ScriptCall(unknown, ["{a}"], ["too late"]),
                ScriptCall(unknown, ["{b}"], ["1"]),
                ScriptCall(known, ["{a}"], ["1"]),
                ScriptCall(unknown, ["{a}"], ["2"]),
                ScriptCall(unknown, ["{a}"], ["3"]),
            ]
        )
        assert isinstance(outcomes[0], StoreUnavailable)
        assert outcomes[1:] == [1, 2, 3, 4]
        client: Any = store.reads  # redis-py types replies as every shape at once
        assert await client.lrange("{a}", 0, -1) == [b"0", b"1", b"2", b"3"]


async def test_a_batch_keeps_its_order_while_the_script_cache_is_flushed():
    async with valkey_server(persistent=False) as server, StoreConnection(server.url) as store:
        flushing = True

        async def flush() -> None:
            while flushing:
                await server.command("SCRIPT FLUSH SYNC")

        flusher = asyncio.create_task(flush())
        client: Any = store.reads
        for n in range(200):
            calls = [([f"{{{n}}}"], [item]) for item in range(50)]
            outcomes = await store.eval_many(APPEND, calls)
            done = [i for i, o in enumerate(outcomes) if not isinstance(o, Exception)]
            assert await client.lrange(f"{{{n}}}", 0, -1) == [str(i).encode() for i in done]
        flushing = False
        await flusher


async def test_a_server_that_forbids_loading_scripts_is_given_their_source():
    user = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-script")
    async with valkey_server(*user) as server, StoreConnection(server.url) as store:
        assert await store.run(APPEND, ["k"], ["a"]) == 1
        assert await store.eval_many(APPEND, [(["k"], ["b"]), (["k"], ["c"])]) == [2, 3]


async def test_one_failing_item_leaves_its_neighbours_alone():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        first, failed, last = await store.run_batch(
            [ScriptCall(APPEND, ["k"], ["a"]), ScriptCall(FAIL, []), ScriptCall(INCREMENT, ["n"])]
        )
        assert (first, last) == (1, 1)
        assert isinstance(failed, redis_errors.ResponseError)
        assert await store.run_batch([]) == []


async def test_a_batch_without_a_server_is_unavailable_item_by_item():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        assert await store.eval_many(INCREMENT, [(["n"], [])]) == [1]
        server.kill()
        outcomes = await store.eval_many(INCREMENT, [(["n"], []), (["n"], [])])
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
        with pytest.raises(StoreUnavailable):
            await store.run(INCREMENT, ["n"])


async def test_a_write_is_not_sent_twice_when_the_server_stalls():
    async with (
        valkey_server() as server,
        StoreConnection(server.url, socket_timeout=0.2) as store,
    ):
        await asyncio.gather(*(store.run(INCREMENT, ["n"]) for _ in range(3)))  # 3 connections
        server.pause()
        outcomes = await asyncio.gather(
            store.writes.incr("n"),
            store.run(INCREMENT, ["n"]),
            store.eval_many(INCREMENT, [(["n"], [])]),
            return_exceptions=True,
        )
        server.resume()
        assert isinstance(outcomes[0], redis_errors.TimeoutError)
        assert isinstance(outcomes[1], StoreUnavailable)
        assert isinstance(outcomes[2], list)
        assert isinstance(outcomes[2][0], StoreUnavailable)
        # The server found all three in its buffers: each happened, and none of them twice.
        assert await store.reads.get("n") == b"6"


async def test_reads_ride_out_a_restart():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        await store.writes.set("k", "v")
        assert await store.reads.get("k") == b"v"
        await server.restart()
        assert await store.reads.get("k") == b"v"


async def test_a_burst_beyond_the_pool_waits_instead_of_failing():
    async with (
        valkey_server() as server,
        StoreConnection(f"{server.url}&max_connections=2") as store,
    ):
        await asyncio.gather(*(store.run(INCREMENT, ["n"]) for _ in range(50)))
        assert await store.reads.get("n") == b"50"
        assert (await server.command("CLIENT LIST")).count("name=fleetplane") <= 2 * 2


async def test_cancelled_callers_take_no_connection_with_them():
    seeded = random.Random(7)
    async with (
        valkey_server() as server,
        StoreConnection(f"{server.url}&max_connections=2", socket_timeout=0.5) as store,
    ):
        for _ in range(100):
            calls = [asyncio.create_task(store.eval_many(ECHO, _echoes(i))) for i in range(8)]
            await asyncio.sleep(seeded.random() * 0.004)
            for call in calls[:6]:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for i, outcome in enumerate(outcomes):
                if not isinstance(outcome, asyncio.CancelledError):
                    assert outcome == [args[0].encode() for _, args in _echoes(i)]


async def test_notifications_are_added_to_what_others_rely_on():
    async with (
        valkey_server("--notify-keyspace-events", "Ex") as server,
        StoreConnection(server.url) as store,
    ):
        facts = await store.check_server()
        assert facts.keyspace_notifications is KeyspaceNotifications.ENABLED_BY_US
        flags = (await server.command("CONFIG GET notify-keyspace-events")).split("\r\n")[-2]
        assert set(flags) == set("ExK$")
        assert await store.ensure_notifications() is KeyspaceNotifications.ENABLED

        pubsub = await store.pubsub_client("{fp}:rev")
        async with pubsub:
            await pubsub.subscribe("__keyspace@0__:{fp}:rev")
            assert (await pubsub.get_message(timeout=1))["type"] == "subscribe"
            await store.run(INCREMENT, ["{fp}:rev"])
            assert await _notification(pubsub, "__keyspace@0__:{fp}:rev") == b"incrby"


async def test_a_lost_subscription_raises_instead_of_healing_silently():
    async with (
        valkey_server() as server,
        StoreConnection(server.url) as store,
        await store.pubsub_client("k") as pubsub,
    ):
        await pubsub.subscribe("k")
        assert (await pubsub.get_message(timeout=1))["type"] == "subscribe"
        await server.command("CLIENT KILL TYPE pubsub")
        with pytest.raises(redis_errors.ConnectionError):
            await pubsub.get_message(timeout=1)


@pytest.mark.parametrize("denial", [CONFIG_RENAMED, CONFIG_DENIED])
async def test_a_server_that_forbids_config_is_accepted(denial):
    async with valkey_server(*denial) as server, StoreConnection(server.url) as store:
        facts = await store.check_server()
        assert facts.keyspace_notifications is KeyspaceNotifications.DENIED
        assert facts.server in ("valkey", "redis")
        assert not facts.is_cluster


async def test_a_server_that_may_evict_is_warned_about(caplog):
    async with (
        valkey_server("--maxmemory-policy", "allkeys-lru") as server,
        StoreConnection(server.url) as store,
    ):
        facts = await store.check_server()
    assert facts.maxmemory_policy == "allkeys-lru"
    assert "may evict" in caplog.text


async def test_wrong_credentials_are_a_configuration_error():
    async with (
        valkey_server("--requirepass", "right") as server,
        StoreConnection(server.url.replace("unix://", "unix://:wrong@")) as store,
    ):
        with pytest.raises(StoreConfigurationError, match="credentials"):
            await store.check_server()


async def test_a_restart_shows_in_the_facts():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        before = await store.check_server()
        await server.restart()
        store_again = StoreConnection(server.url)
        async with store_again:
            after = await store_again.check_server()
        assert before.run_id != after.run_id
        assert before.replid != after.replid


async def test_writes_follow_a_sentinel_failover():
    async with sentinel_group() as group, StoreConnection(group.url) as store:
        before = await store.check_server()
        assert await store.run(INCREMENT, ["n"]) == 1
        group.primary.kill()
        with pytest.raises(StoreUnavailable):
            await store.run(INCREMENT, ["n"])
        async with asyncio.timeout(10):
            await group.replica_promoted()
        assert await store.run(INCREMENT, ["after"]) == 1
        assert await store.eval_many(INCREMENT, [(["after"], [])]) == [2]
        assert await store.reads.get("after") == b"2"
        after = await store.check_server()
        assert after.replid != before.replid
        # The setting is not replicated: the new primary had to be configured again.
        assert after.keyspace_notifications is KeyspaceNotifications.ENABLED_BY_US
        async with await store.pubsub_client("k") as pubsub:
            await pubsub.subscribe("__keyspace@0__:k")
            assert (await pubsub.get_message(timeout=1))["type"] == "subscribe"
            await store.run(INCREMENT, ["k"])
            assert await _notification(pubsub, "__keyspace@0__:k") == b"incrby"


async def test_a_cluster_runs_scripts_and_notifies_on_every_primary():
    async with valkey_cluster() as cluster, StoreConnection(cluster.url) as store:
        facts = await store.check_server()
        assert facts.is_cluster
        assert len(facts.run_id.split(",")) == len(cluster.nodes)

        keys = [f"{{ns{i}}}:rev" for i in range(12)]
        assert await store.eval_many(INCREMENT, [([key], []) for key in keys]) == [1] * len(keys)
        assert await store.run(INCREMENT, [keys[0]]) == 2
        with pytest.raises(redis_errors.RedisClusterException):
            await store.run(INCREMENT, keys[:3])

        for key in keys[:4]:
            async with await store.pubsub_client(key) as pubsub:
                await pubsub.subscribe(f"__keyspace@0__:{key}")
                assert (await pubsub.get_message(timeout=1))["type"] == "subscribe"
                await store.run(INCREMENT, [key])
                assert await _notification(pubsub, f"__keyspace@0__:{key}") == b"incrby"

        lost = cluster.nodes[0]
        lost.kill()
        outcomes = await store.eval_many(INCREMENT, [([key], []) for key in keys])
        assert any(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        await lost.start()
        async with asyncio.timeout(10):
            for node in cluster.nodes:
                await node.replies("CLUSTER INFO", "cluster_state:ok")
        outcomes = await store.eval_many(INCREMENT, [([key], []) for key in keys])
        assert all(isinstance(outcome, int) for outcome in outcomes)


async def test_a_url_of_the_wrong_topology_says_which_to_use():
    async with valkey_server(tcp=True) as server:
        url = server.url.replace("redis://", "redis+cluster://")
        async with StoreConnection(url) as store:
            with pytest.raises(StoreConfigurationError, match="redis://"):
                await store.check_server()
    async with (
        valkey_server("--cluster-enabled", "yes", tcp=True) as server,
        StoreConnection(server.url) as store,
    ):
        with pytest.raises(StoreConfigurationError, match=r"redis\+cluster://"):
            await store.check_server()
