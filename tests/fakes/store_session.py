"""One replica's dealings with a store, in short: everything it ever asks of one.

The adapters of `controlplane/storage/redis` do the asking; a test decides what the store's user
may do, and sees where it ends.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from controlplane.domain.audit.chain import genesis, leaf_of, seal_of
from controlplane.services.ports import (
    Append,
    BeatRecord,
    ClearDeadline,
    Count,
    Delete,
    Position,
    Put,
    RequestKey,
    SetDeadline,
    Step,
    Transaction,
)
from controlplane.services.transaction import Collection
from controlplane.storage.redis.audit_log import RedisAuditLog
from controlplane.storage.redis.beat_log import RedisBeatLog
from controlplane.storage.redis.change_feed import FeedTimings, RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.storage.redis.listener import ListenerTimings
from controlplane.storage.redis.shared_secret import shared_secret
from tests.fakes.transactions import agent, put_name, transaction

NEWS_SECONDS: Final = 2.0
"""How long news may take; a comparison of revisions needs a twentieth of that."""

TIMINGS: Final = FeedTimings(
    anti_entropy=0.05,
    poll=0.05,
    listener=ListenerTimings(canary_within=0.5, pause_first=0.01, pause_silent=0.1),
)

BEAT: Final = BeatRecord("i1", 1, 0, 0, 0, 0.0)
REQUEST: Final = RequestKey("request", "digest")

Admin = Callable[[str], Awaitable[object]]
"""Runs a command with all rights, such as `DEL key`."""


class SessionFailed(Exception):
    """The store let something happen that a replica does not survive."""


@dataclass(frozen=True)
class Seen:
    """What became of a session that did not fail."""

    followed_by: str
    """`notify` or `poll`."""


async def run_session(
    connection: StoreConnection, admin: Admin, *, namespace: str, patience: float = NEWS_SECONDS
) -> Seen:
    """Do everything once; `namespace` must be new.

    Raises whatever the adapters raise, or SessionFailed. Waits for notifications to be proven for
    at most `patience` seconds, and goes on without.
    """
    await shared_secret(connection)
    beats = RedisBeatLog(connection, replica_id="r1")
    others = RedisBeatLog(connection, replica_id="r2")
    async with (
        RedisLedger(connection) as ledger,
        RedisChangeFeed(connection, replica_id="r1", timings=TIMINGS) as feed,
    ):

        def written(*steps: Step, request: RequestKey | None = None) -> Transaction:
            return transaction(*steps, namespace=namespace, request=request)

        mode = await _proven(feed, patience)
        # A namespace that nobody knew, and then one beside others that are followed.
        await ledger.commit(transaction(put_name("n"), namespace=f"{namespace}-before"))
        await _hear(feed, f"{namespace}-before")
        await ledger.commit(
            written(
                Put(Collection.AGENTS, "a", agent("a")),
                put_name("n"),
                SetDeadline("i1", 60_000),
                SetDeadline("i2", 1),
                Append("history", "value"),
                Count("counter", 1),
                request=REQUEST,
            )
        )
        await _hear(feed, namespace)
        position = await _load(feed, namespace)
        await ledger.commit(
            written(Delete(Collection.NAMES, "n"), ClearDeadline("i2"), Count("counter", -1))
        )
        await _hear(feed, namespace)
        caught_up = await feed.catch_up(namespace, position)
        if caught_up.resync or not caught_up.touched:
            raise SessionFailed("the change was not caught up with")
        await ledger.read(namespace, Collection.AGENTS, ["a"])
        await ledger.read_counts(namespace, ["counter"])
        await ledger.read_history(namespace, "history")
        await ledger.read_audit(namespace)
        await ledger.find_request(namespace, REQUEST)
        await _seal_and_trim(RedisAuditLog(connection), namespace)
        await beats.flush(namespace, {30_000: ["i1"]}, [BEAT])
        cursor = (await others.read_beats({namespace: ""}))[namespace][0]
        await beats.flush(namespace, {30_000: ["i1"]}, [BEAT])
        if not (await others.read_beats({namespace: cursor}))[namespace][1]:
            raise SessionFailed("the beats of the other replica were not read")
        await beats.deadlines(namespace)
        for _ in range(2):  # the first look after a pause finds nobody due
            await beats.due(namespace, limit=10, freeze_gap_ms=60_000, grace_ms=0)
        await connection.ping()
        await admin(f"DEL fp:{{{namespace}}}:rev")
        await ledger.commit(written(put_name("n")))
        await admin("SCRIPT FLUSH SYNC")
        await ledger.commit(written(put_name("n")))
    return Seen(followed_by=mode)


async def _seal_and_trim(log: RedisAuditLog, namespace: str) -> None:
    (entry,) = await log.entries(namespace, after=0, limit=1)
    if not await log.append_seal(namespace, seal_of(1, [leaf_of(entry)], genesis(namespace), None)):
        raise SessionFailed("the audit was not sealed")
    await log.seals(namespace, after=0, limit=1)
    await log.newest_seal(namespace)
    await log.entries_before(namespace, before=2, limit=1)
    if (await log.extent(namespace)).sealed != 1 or await log.trim(namespace, 1) != 1:
        raise SessionFailed("the audit was not trimmed")


async def _load(feed: RedisChangeFeed, namespace: str) -> Position:
    batches = [pair async for pair in feed.load(namespace)]
    found = sum(len(touched) for _, touched in batches)
    if found != 2:
        raise SessionFailed(f"{found} records were loaded instead of 2")
    return batches[0][0]


async def _proven(feed: RedisChangeFeed, patience: float) -> str:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while feed.mode != "notify" and loop.time() < deadline:
        await feed.wait(0.02)
    return feed.mode


async def _hear(feed: RedisChangeFeed, namespace: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + NEWS_SECONDS
    while loop.time() < deadline:
        if namespace in await feed.wait(0.1):
            return
    raise SessionFailed("no news of a commit")
