"""What the ledger promises only on Redis: expiry, damage, restarts, many replicas, Cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import exceptions as redis_errors

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import (
    ABSENT,
    Append,
    BeatRecord,
    Collection,
    Count,
    Position,
    RequestKey,
    ResetCount,
    SetDeadline,
)
from controlplane.storage.redis.beat_log import (
    DEADLINES_PER_READ,
    FLUSHES_PER_READ,
    RedisBeatLog,
)
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.codec import UnreadableRecord
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.copying_follower import CopyingFollower
from tests.fakes.transactions import NS, put_name, transaction
from tests.fakes.valkey import valkey_cluster, valkey_server

TEN_MINUTES_MS = 600_000


class Rig:
    def __init__(self, connection: StoreConnection, ledger: RedisLedger) -> None:
        self.connection = connection
        self.ledger = ledger
        self.feed = RedisChangeFeed(connection, replica_id="r1")

    @property
    def client(self) -> Any:
        """Untyped, because redis-py types replies as every shape at once."""
        return self.connection.writes


@contextlib.asynccontextmanager
async def rig(url: str) -> AsyncIterator[Rig]:
    async with (
        StoreConnection(url, socket_timeout=0.5) as connection,
        RedisLedger(connection) as ledger,
    ):
        yield Rig(connection, ledger)


async def test_a_request_is_remembered_for_ten_minutes():
    async with valkey_server() as server, rig(server.url) as r:
        await r.ledger.commit(transaction(put_name("k"), request=RequestKey("req", "digest")))
        left_ms = await r.client.pttl("fp:{team-a}:req:req")
        assert TEN_MINUTES_MS - 10_000 < left_ms <= TEN_MINUTES_MS


@pytest.mark.parametrize(
    "name", ["rev", "c:names", "changes", "audit", "deadlines", "h:h", "req:req", "counts"]
)
async def test_a_key_of_another_type_refuses_the_commit_before_anything_is_written(name):
    """Whatever broke the store, a commit is all or nothing."""
    async with valkey_server() as server, rig(server.url) as r:
        broken = f"fp:{{team-a}}:{name}"
        await r.client.lpush(broken, "not ours")
        before = set(await r.client.keys("fp:{team-a}:*"))
        with pytest.raises(redis_errors.ResponseError, match="WRONGTYPE"):
            await r.ledger.commit(
                transaction(
                    put_name("k"),
                    Append("h", "v"),
                    SetDeadline("i", 5),
                    Count("c", 1),
                    request=RequestKey("req", "digest"),
                )
            )
        assert set(await r.client.keys("fp:{team-a}:*")) == before


async def test_a_damaged_counter_refuses_the_commit_before_anything_is_written():
    async with valkey_server() as server, rig(server.url) as r:
        await r.client.hset("fp:{team-a}:counts", "c", "not a number")
        with pytest.raises(redis_errors.ResponseError, match="damaged counter c"):
            await r.ledger.commit(transaction(put_name("k"), Count("c", 1)))
        assert await r.client.keys("fp:{team-a}:*") == [b"fp:{team-a}:counts"]


async def test_a_counter_back_at_zero_leaves_nothing_in_the_store():
    async with valkey_server() as server, rig(server.url) as r:
        await r.ledger.commit(transaction(Count("c", 5), Count("d", 2)))
        assert await r.client.hgetall("fp:{team-a}:counts") == {b"c": b"5", b"d": b"2"}
        await r.ledger.commit(transaction(Count("c", -5), ResetCount("d")))
        assert not await r.client.exists("fp:{team-a}:counts")


async def test_a_lost_revision_counter_goes_on_above_the_history_under_a_new_epoch():
    async with valkey_server() as server, rig(server.url) as r:
        for n in range(3):
            await r.ledger.commit(transaction(put_name(f"k{n}")))
        before = (await r.feed.catch_up(NS, Position())).position
        await r.client.delete("fp:{team-a}:rev")
        assert (await r.ledger.commit(transaction(put_name("k")))).revision == 4
        assert (await r.feed.catch_up(NS, before)).resync


async def test_a_record_of_a_newer_release_is_left_alone():
    """Readers of it fail; followers go on without it and keep what they had."""
    async with valkey_server() as server, rig(server.url) as r:
        follower = CopyingFollower(r.feed, NS)
        await r.ledger.commit(transaction(put_name("old"), put_name("other")))
        await follower.catch_up()
        newer = b"2 1 1000 1000\n\x01\xffwritten by version 255"
        await r.ledger.commit(transaction(put_name("old"), put_name("other", "new")))
        await r.client.hset("fp:{team-a}:c:names", "old", newer)
        with pytest.raises(UnreadableRecord, match="'old'"):
            await r.ledger.read(NS, Collection.NAMES, ["old"])
        await follower.catch_up()
        assert follower.copy[Collection.NAMES, "old"].revision == 1
        assert follower.copy[Collection.NAMES, "other"].value == "new"
        assert r.feed.unreadable == 1
        await follower.load()
        assert set(follower.copy) == {(Collection.NAMES, "other")}


async def test_a_restarted_server_knows_everything_and_needs_no_warming():
    """Its script cache is empty; nobody notices."""
    async with valkey_server("--appendfsync", "always") as server, rig(server.url) as r:
        request = RequestKey("req", "digest")
        first = await r.ledger.commit(transaction(put_name("k"), request=request))
        await server.restart()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(StoreUnavailable):
                    again = await r.ledger.commit(transaction(put_name("k"), request=request))
                    break
        assert (again.replayed, again.revision) == (True, first.revision)
        outcomes = await r.ledger.commit_many([transaction(put_name(f"k{n}")) for n in range(50)])
        assert [o.revision for o in outcomes if not isinstance(o, Exception)] == list(range(2, 52))


async def test_an_unanswered_commit_is_reported_and_may_be_repeated():
    async with valkey_server() as server, rig(server.url) as r:
        await r.ledger.commit(transaction(put_name("k")))
        request = RequestKey("req", "digest")
        wanted = transaction(put_name("l", expect=ABSENT), request=request)
        server.pause()
        try:
            with pytest.raises(StoreUnavailable):
                await r.ledger.commit(wanted)
        finally:
            server.resume()
        repeated = await r.ledger.commit(wanted)
        assert repeated.revision == 2
        assert len(await r.ledger.read_audit(NS)) == 2


async def test_a_namespace_lost_from_the_list_comes_back():
    """After a fail-over lost the registration, the next commit repeats it."""
    async with valkey_server() as server, rig(server.url) as r:
        await r.ledger.commit(transaction(put_name("k")))
        await r.client.flushall()
        server.pause()
        try:
            with pytest.raises(StoreUnavailable):
                await r.ledger.commit(transaction(put_name("k")))
        finally:
            server.resume()
        await r.ledger.commit(transaction(put_name("l")))
        assert await r.feed.namespaces() == {NS}


async def test_changes_are_trimmed_and_audit_entries_are_not():
    async with (
        valkey_server() as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection, changes_keep=100) as ledger,
    ):
        await ledger.commit_many([transaction(put_name("k")) for _ in range(1000)])
        client: Any = connection.writes
        assert 100 <= await client.xlen("fp:{team-a}:changes") <= 200
        assert await client.xlen("fp:{team-a}:audit") == 1000


async def test_a_reader_of_beats_that_was_away_catches_up_call_by_call():
    async with valkey_server() as server, StoreConnection(server.url) as connection:
        ours = RedisBeatLog(connection, replica_id="r1")
        theirs = RedisBeatLog(connection, replica_id="r2")
        cursors = {NS: (await theirs.read_beats({NS: ""}))[NS][0]}
        count = FLUSHES_PER_READ + 3
        for n in range(count):
            await ours.flush(NS, {}, [BeatRecord(f"i{n}", 1, 0, 0, 0, 0.0)])
        read: list[list[str]] = []
        for _ in range(3):
            cursor, beats = (await theirs.read_beats(cursors))[NS]
            cursors[NS] = cursor
            read.append([beat.instance_id for beat in beats])
        assert [len(part) for part in read] == [FLUSHES_PER_READ, 3, 0]
        assert read[0] + read[1] == [f"i{n}" for n in range(count)]


async def test_more_deadlines_than_fit_in_one_reply_are_returned():
    async with valkey_server() as server, rig(server.url) as r:
        wanted = {f"i{n}": n + 1 for n in range(DEADLINES_PER_READ * 2 + 1)}
        await r.client.zadd("fp:{team-a}:deadlines", wanted)
        assert await RedisBeatLog(r.connection, replica_id="r1").deadlines(NS) == wanted


@pytest.mark.fault
async def test_every_port_works_on_a_cluster():
    async with valkey_cluster() as cluster, rig(cluster.url) as r:
        names = [f"team-{n}" for n in range(9)]
        outcomes = await r.ledger.commit_many(
            [
                transaction(put_name("k"), Append("h", 1), SetDeadline("i", 5), namespace=name)
                for name in names
            ]
        )
        assert [o.revision for o in outcomes if not isinstance(o, Exception)] == [1] * 9
        assert await r.feed.namespaces() == set(names)
        ours = RedisBeatLog(r.connection, replica_id="r1")
        theirs = RedisBeatLog(r.connection, replica_id="r2")
        starts = await theirs.read_beats(dict.fromkeys(names, ""))
        for name in names:
            (record,) = await r.ledger.read(name, Collection.NAMES, ["k"])
            assert record is not None
            assert len(await r.ledger.read_history(name, "h")) == 1
            assert len(await r.ledger.read_audit(name)) == 1
            follower = CopyingFollower(r.feed, name)
            await follower.load()
            assert set(follower.copy) == {(Collection.NAMES, "k")}
            await ours.flush(name, {60_000: ["i"]}, [])
            assert set(await ours.deadlines(name)) == {"i"}
            _, count, _ = await ours.due(name, limit=1, freeze_gap_ms=1, grace_ms=0)
            assert count == 1
        news = await theirs.read_beats({name: cursor for name, (cursor, _) in starts.items()})
        assert set(news) == set(names)
