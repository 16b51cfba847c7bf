"""A follower on real servers, while everything that can go wrong between them does."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import Collection
from controlplane.storage.redis.change_feed import FeedTimings, RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.storage.redis.listener import ListenerTimings
from tests.fakes.copying_follower import CopyingFollower
from tests.fakes.transactions import NS, put_name, transaction
from tests.fakes.valkey import (
    CONFIG_DENIED,
    ValkeyServer,
    sentinel_group,
    valkey_cluster,
    valkey_server,
)

# Every timer but the one under test is out of the way, so that it cannot hide a failure.
NEVER = 3600.0
ONLY_NOTIFICATIONS = FeedTimings(
    anti_entropy=NEVER, poll=NEVER, listener=ListenerTimings(canary_every=NEVER)
)
QUICK_CANARY = FeedTimings(
    anti_entropy=NEVER,
    poll=NEVER,
    listener=ListenerTimings(canary_every=0.1, canary_within=0.3, pause_silent=0.2),
)


class Rig:
    """A writer and a following replica, each with its own connections."""

    def __init__(self, ledger: RedisLedger, feed: RedisChangeFeed, store: StoreConnection) -> None:
        self.ledger = ledger
        self.feed = feed
        self.store = store
        self.follower = CopyingFollower(feed, NS)

    async def write(self, key: str, value: str = "value") -> int:
        return (await self.ledger.commit(transaction(put_name(key, value)))).revision

    async def write_through_outage(self, key: str) -> int:
        while True:
            try:
                return await self.write(key)
            except StoreUnavailable:
                await asyncio.sleep(0.02)

    async def mode_is(self, mode: str, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while self.feed.mode != mode:  # noqa: ASYNC110 - a gauge, it announces nothing
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def rig(url: str, timings: FeedTimings | None = None) -> AsyncIterator[Rig]:
    async with (
        StoreConnection(url, socket_timeout=0.5) as writing,
        StoreConnection(url, socket_timeout=0.5) as following,
        RedisLedger(writing) as ledger,
        RedisChangeFeed(following, replica_id="r1", timings=timings) as feed,
    ):
        yield Rig(ledger, feed, writing)


def record_numbers(record_property: Any, latencies_ms: list[float]) -> None:
    cuts = statistics.quantiles(latencies_ms, n=100)
    p50, p99 = cuts[49], cuts[98]
    print(f"commit to follower: p50 {p50:.2f} ms, p99 {p99:.2f} ms")  # noqa: T201 - with -s
    record_property("p50_ms", round(p50, 2))
    record_property("p99_ms", round(p99, 2))


async def test_ten_killed_subscriptions_lose_and_repeat_nothing(record_property):
    """600 commits; the follower sees each exactly once, in order, woken only by notifications."""
    writes, kills = 600, 10
    committed: dict[int, float] = {}
    applied: dict[int, float] = {}

    async def write_all(r: Rig) -> None:
        for n in range(writes):
            revision = await r.write(f"k{n}")
            committed[revision] = time.perf_counter()
            if n % (writes // kills) == writes // kills // 2:
                client: Any = r.store.writes
                assert await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            if n % (writes // kills) == writes // kills - 1:
                # The next kill shall find a subscription again.
                await r.mode_is("notify")
            await asyncio.sleep(0.001)

    async with valkey_server() as server, rig(server.url, ONLY_NOTIFICATIONS) as r:
        await r.write("first")
        await r.mode_is("notify")
        await r.follower.reaches(1)
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            group.create_task(write_all(r))
            while r.follower.position.revision < writes + 1:
                if NS in await r.feed.wait(10):
                    await r.follower.catch_up()
                    now = time.perf_counter()
                    for record in r.follower.seen[len(applied) + 1 :]:
                        applied[record.revision] = now
        assert [record.revision for record in r.follower.seen] == list(range(1, writes + 2))
        assert r.follower.loads == 0
    delays = [(at - committed[revision]) * 1000 for revision, at in applied.items()]
    record_numbers(record_property, delays)


async def test_where_notifications_are_refused_revisions_are_polled():
    async with valkey_server(*CONFIG_DENIED) as server, rig(server.url) as r:
        for n in range(1, 6):
            await r.follower.reaches(await r.write(f"k{n}"), seconds=2)
        assert r.feed.mode == "poll"
        assert [record.revision for record in r.follower.seen] == [1, 2, 3, 4, 5]


async def test_notifications_that_an_operator_enabled_are_used_without_config():
    enabled = ("--notify-keyspace-events", "K$")
    async with (
        valkey_server(*CONFIG_DENIED, *enabled) as server,
        rig(server.url, QUICK_CANARY) as r,
    ):
        await r.mode_is("notify")
        await r.follower.reaches(await r.write("k"))


async def test_a_server_restart_is_survived():
    async with valkey_server() as server, rig(server.url) as r:
        await r.follower.reaches(await r.write("before"))
        await r.mode_is("notify")
        await server.restart()
        await r.follower.reaches(await r.write_through_outage("after"))
        await r.mode_is("notify")
        assert {key for _, key in r.follower.copy} == {"before", "after"}
        assert r.follower.loads == 0


async def test_after_a_reconnect_every_namespace_is_returned():
    async with valkey_server() as server, rig(server.url, ONLY_NOTIFICATIONS) as r:
        names = {f"team-{n}" for n in range(20)}
        for name in names:
            await r.ledger.commit(transaction(put_name("k"), namespace=name))
        async with asyncio.timeout(10):
            announced: set[str] = set()
            while announced < names:
                announced |= await r.feed.wait(5)
            await r.mode_is("notify")
            while await r.feed.wait(0.1):
                pass
            client: Any = r.store.writes
            await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            announced = set()
            while announced < names:
                announced |= await r.feed.wait(5)


async def test_a_stalled_server_is_noticed_and_survived():
    async with valkey_server() as server, rig(server.url, QUICK_CANARY) as r:
        await r.follower.reaches(await r.write("before"))
        await r.mode_is("notify")
        server.pause()
        try:
            await r.mode_is("poll")
        finally:
            server.resume()
        await r.mode_is("notify")
        await r.follower.reaches(await r.write_through_outage("after"))


async def test_lost_configuration_is_noticed_and_repaired():
    """As after a fail-over to a server that was never told to notify."""
    async with valkey_server() as server, rig(server.url, QUICK_CANARY) as r:
        await r.follower.reaches(await r.write("before"))
        await r.mode_is("notify")
        client: Any = r.store.writes
        await client.config_set("notify-keyspace-events", "")
        revision = await r.write("unheard")
        async with asyncio.timeout(10):
            await server.replies("CONFIG GET notify-keyspace-events", "K")
            while r.follower.position.revision < revision:
                assert NS in await r.feed.wait(10)
                await r.follower.catch_up()
        await r.mode_is("notify")
        await r.follower.reaches(await r.write("after"))


async def test_a_missed_notification_is_made_up_for_by_the_timer():
    timings = FeedTimings(anti_entropy=0.2, listener=ListenerTimings(canary_every=NEVER))
    async with valkey_server() as server, rig(server.url, timings) as r:
        await r.follower.reaches(await r.write("before"))
        await r.mode_is("notify")
        client: Any = r.store.writes
        await client.config_set("notify-keyspace-events", "")
        await r.follower.reaches(await r.write("unheard"), seconds=2)


async def test_a_feed_that_starts_before_its_store_gets_there():
    async with valkey_server() as server:
        server.kill()
        async with rig(server.url) as r:
            assert await r.feed.wait(0.05) == frozenset()
            with pytest.raises(StoreUnavailable):
                await r.feed.namespaces()
            await server.start()
            await r.follower.reaches(await r.write_through_outage("k"))


async def test_a_commit_announces_itself_exactly_once():
    async with valkey_server() as server, rig(server.url) as r:
        await r.write("first")
        await r.mode_is("notify")
        pubsub = await r.store.pubsub_client("any")
        try:
            await pubsub.psubscribe("__keyspace@0__:fp:{team-a}:*")
            await pubsub.get_message(timeout=1)
            await r.write("second")
            message = await pubsub.get_message(timeout=2)
            assert message is not None
            assert message["channel"] == b"__keyspace@0__:fp:{team-a}:rev"
            while (message := await pubsub.get_message(timeout=0.1)) is not None:
                assert b":canary:" in message["channel"]
        finally:
            await pubsub.aclose()


@pytest.mark.fault
async def test_a_fail_over_is_followed():
    async with sentinel_group() as group, rig(group.url) as r:
        await r.follower.reaches(await r.write("before"))
        await r.mode_is("notify")
        await group.primary.replies("WAIT 1 1000", ":1")
        group.primary.kill()
        async with asyncio.timeout(30):
            await group.replica_promoted()
            revision = await r.write_through_outage("after")
            await r.follower.reaches(revision, seconds=20)
        (record,) = await r.ledger.read(NS, Collection.NAMES, ["after"])
        assert r.follower.copy[Collection.NAMES, "after"] == record
        await r.mode_is("notify")


@pytest.mark.fault
async def test_lost_commits_of_a_failed_primary_lead_to_a_resync():
    async with sentinel_group() as group, rig(group.url) as r:
        await r.follower.reaches(await r.write("kept"))
        await group.primary.replies("WAIT 1 1000", ":1")
        epoch = r.follower.position.epoch
        # From now on the replica hears nothing, while the primary acknowledges.
        await _cut_replication(group.replica)
        await r.follower.reaches(await r.write("lost"))
        group.primary.kill()
        async with asyncio.timeout(30):
            await group.replica_promoted()
            await r.follower.reaches(await r.write_through_outage("other"), seconds=20)
            while r.follower.position.epoch == epoch:
                await r.feed.wait(5)
                await r.follower.catch_up()
        assert {key for _, key in r.follower.copy} == {"kept", "other"}
        assert r.follower.loads > 0


async def _cut_replication(replica: ValkeyServer) -> None:
    """Make the replica believe in another, unreachable primary password; it stays a replica."""
    await replica.command("CONFIG SET masterauth wrong")
    await replica.command("CONFIG SET masteruser nobody")
    await replica.command("CLIENT KILL TYPE master")


@pytest.mark.fault
async def test_a_cluster_is_followed_on_every_primary():
    async with valkey_cluster() as cluster, rig(cluster.url) as r:
        names = [f"team-{n}" for n in range(12)]
        followers = {name: CopyingFollower(r.feed, name) for name in names}
        for name in names:
            await r.ledger.commit(transaction(put_name("k"), namespace=name))
        await _all_reach(r, followers, 1)
        await r.mode_is("notify")
        for name in names:
            await r.ledger.commit(transaction(put_name("l"), namespace=name))
        await _all_reach(r, followers, 2)


async def _all_reach(r: Rig, followers: dict[str, CopyingFollower], revision: int) -> None:
    async with asyncio.timeout(10):
        while any(f.position.revision < revision for f in followers.values()):
            for name in await r.feed.wait(5):
                await followers[name].catch_up()
