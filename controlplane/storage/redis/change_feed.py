"""How a replica follows the ledger on Redis without missing a commit.

Truth is the change stream that every commit writes together with its records; `catch_up` reads it
from a position. Keyspace notifications of the revision keys only say *when* to look. Three timers
stand behind them: the listener's canary, a comparison of revisions every 2 s, and, as long as
notifications are not proven to arrive, the same comparison every 0.25 s (poll mode).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self

from redis.asyncio import RedisCluster

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import UNFOLLOWED, CatchUp, Collection, Position, Touched
from controlplane.storage.redis.clients import Client
from controlplane.storage.redis.codec import UnreadableRecord, decode_frame
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors
from controlplane.storage.redis.keys import (
    NAMESPACES_MARK,
    NAMESPACES_SET,
    NamespaceKeys,
    keys_of,
)
from controlplane.storage.redis.listener import ListenerTimings, NotificationListener
from controlplane.storage.redis.plan import random_token
from controlplane.storage.redis.scripts import load_script

_log: Final = logging.getLogger("fleetplane.store")

ENTRIES_PER_CALL: Final = 500
"""Change entries that one `catch_up` covers: about 5 ms of the store's and of our time."""

RECORDS_PER_READ: Final = 1000
"""Records that `load` reads in one round trip: about 1 MB."""

RECORDS_PER_BATCH: Final = 200
"""Records in one batch of `load`: with what the follower does with them, about 5 ms of our time in
which nobody else is served."""

_CATCH_UP: Final = load_script("catch_up")
_POSITION: Final = load_script("position")
_FOLLOWED: Final = tuple(c for c in Collection if c not in UNFOLLOWED)
_COLLECTION_NAMES: Final = tuple(collection.value for collection in _FOLLOWED)
_COLLECTION_OF: Final = {collection.value.encode(): collection for collection in _FOLLOWED}

# The name under which the list of namespaces is followed; no namespace has an empty name.
_LIST: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedTimings:
    """Seconds: how often revisions are compared while notifications arrive, and while not."""

    anti_entropy: float = 2.0
    poll: float = 0.25
    listener: ListenerTimings = field(default_factory=ListenerTimings)


class RedisChangeFeed:
    """`services.ports.ChangeFeed` of one replica on a `StoreConnection`, which it does not close.

    An async context manager; `wait` works only inside it, the other methods anywhere. Entering
    needs no store: until it answers, the feed keeps trying. `wait` serves a single follower.
    """

    def __init__(
        self,
        connection: StoreConnection,
        *,
        replica_id: str,
        timings: FeedTimings | None = None,
    ) -> None:
        self._connection = connection
        self._replica_id = replica_id
        self._timings = timings or FeedTimings()
        self._known: dict[str, Position | None] = {}  # namespace -> what the follower has
        self._list_mark: bytes | None = None
        self._news: set[str] = set()
        self._wake = asyncio.Event()
        self._check_now = asyncio.Event()
        self._listeners: dict[str, tuple[NotificationListener, asyncio.Task[NoReturn]]] = {}
        self._runner: asyncio.Task[None] | None = None
        self._last_mode = ""
        self.unreadable = 0
        """Records that were skipped because a newer release wrote them, or they are damaged."""

    @property
    def mode(self) -> Literal["notify", "poll"]:
        """`notify` while every primary's notifications are proven to arrive, else `poll`."""
        proven = self._listeners and all(lis.proven for lis, _ in self._listeners.values())
        return "notify" if proven else "poll"

    async def __aenter__(self) -> Self:
        self._runner = asyncio.create_task(self._run(), name="change-feed")
        self._runner.add_done_callback(lambda _: self._wake.set())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
            self._runner = None

    async def namespaces(self) -> frozenset[str]:
        """Return every namespace that was ever written."""
        members: Any  # redis-py types replies as every shape at once
        with map_redis_errors():
            members = await self._connection.reads.smembers(NAMESPACES_SET)
        return frozenset(member.decode() for member in members)

    async def load(self, namespace: str) -> AsyncIterator[tuple[Position, list[Touched]]]:
        """Yield all records in batches; see `ChangeFeed.load`. Unreadable ones are left out.

        Key names are listed at once, then read in batches: unlike a scan's cursor the list stays
        right when the server restarts, or another one takes over, in the middle.
        """
        keys = keys_of(namespace)
        epoch, revision, fingerprint = await self._connection.run(
            _POSITION, (keys.rev, keys.epoch, keys.changes)
        )
        position = Position(epoch.decode(), revision, fingerprint.decode())
        yield position, []
        for read in _reads(await self._list_records(keys)):
            found = await self._read_frames(keys, read)
            for start in range(0, len(found), RECORDS_PER_BATCH):
                yield position, self._decode(found[start : start + RECORDS_PER_BATCH])
        self._known[namespace] = position

    async def catch_up(self, namespace: str, position: Position) -> CatchUp:
        """Return what changed after `position`; see `ChangeFeed.catch_up`.

        Unreadable records are left out: the follower keeps what it had.
        """
        keys = keys_of(namespace)
        resync, epoch, revision, fingerprint, more, found = await self._connection.run(
            _CATCH_UP,
            (keys.rev, keys.epoch, keys.changes, *keys.followed.values()),
            (
                position.epoch,
                position.revision,
                position.fingerprint,
                ENTRIES_PER_CALL,
                random_token(),
                *_COLLECTION_NAMES,
            ),
        )
        reached = Position(epoch.decode(), revision, fingerprint.decode())
        if resync:
            self._known[namespace] = None
            return CatchUp(reached, resync=True)
        self._known[namespace] = reached
        places = zip(found[::3], found[1::3], found[2::3], strict=True)
        touched = self._decode((_COLLECTION_OF[c], key, frame) for c, key, frame in places)
        return CatchUp(reached, tuple(touched), more=bool(more))

    def hint(self, namespace: str) -> None:
        """See `ChangeFeed.hint`; a store that notifies says so itself within a millisecond."""
        if self.mode == "poll":
            self._announce(namespace)

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Wait for news; see `ChangeFeed.wait`. Does not raise while the store is away."""
        if self._runner is None:
            raise RuntimeError("the change feed was not entered")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._wake.wait()
        except TimeoutError:
            return frozenset()
        if self._runner.done():
            self._runner.result()  # raises: it only ends by a defect
        news, self._news = self._news, set()
        self._wake.clear()
        return frozenset(news)

    async def _list_records(self, keys: NamespaceKeys) -> dict[Collection, list[bytes]]:
        pipe = self._connection.reads.pipeline(transaction=False)
        for key in keys.followed.values():
            pipe.hkeys(key)
        with map_redis_errors():
            replies = await pipe.execute()
        return dict(zip(keys.followed, replies, strict=True))

    async def _read_frames(
        self, keys: NamespaceKeys, read: list[tuple[Collection, list[bytes]]]
    ) -> list[tuple[Collection, bytes, bytes]]:
        """Return (collection, key, frame) of the records that (still) exist."""
        pipe = self._connection.reads.pipeline(transaction=False)
        for collection, names in read:
            pipe.hmget(keys.followed[collection], names)
        with map_redis_errors():
            replies = await pipe.execute()
        return [
            (collection, name, frame)
            for (collection, names), frames in zip(read, replies, strict=True)
            for name, frame in zip(names, frames, strict=True)
            if frame
        ]

    def _decode(self, found: Iterable[tuple[Collection, bytes, bytes | None]]) -> list[Touched]:
        touched: list[Touched] = []
        refused: list[str] = []
        for collection, raw_key, frame in found:
            key = raw_key.decode()
            try:
                record = None if frame is None else decode_frame(key, frame)
            except UnreadableRecord as error:
                refused.append(f"{collection.value}: {error}")
            else:
                touched.append(Touched(collection, key, record))
        if refused:
            self.unreadable += len(refused)
            _log.error(
                "records are unreadable and were left out; is a newer release running?",
                extra={"count": len(refused), "first": refused[0]},
            )
        return touched

    async def _run(self) -> None:
        """Own the listeners and the timer until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._check_now.clear()
                try:
                    await self._check()
                    await self._place_keys(group)
                except StoreUnavailable:
                    _log.info("revisions could not be compared: the store is unavailable")
                self._report_mode()
                notified = self.mode == "notify"
                period = self._timings.anti_entropy if notified else self._timings.poll
                try:
                    async with asyncio.timeout(period):
                        await self._check_now.wait()
                except TimeoutError:
                    continue

    async def _check(self) -> None:
        """Compare what the store has with what the follower has; learn of new namespaces."""
        namespaces = list(self._known)
        pipe = self._connection.reads.pipeline(transaction=False)
        pipe.get(NAMESPACES_MARK)
        for namespace in namespaces:
            keys = keys_of(namespace)
            pipe.execute_command("MGET", keys.rev, keys.epoch)
        with map_redis_errors():
            list_mark, *heads = await pipe.execute()
        for namespace, (revision, epoch) in zip(namespaces, heads, strict=True):
            position = self._known[namespace]
            if position is None or (position.revision, position.epoch) != (
                int(revision or 0),
                (epoch or b"").decode(),
            ):
                self._announce(namespace)
        if list_mark != self._list_mark:
            for namespace in await self.namespaces() - self._known.keys():
                self._known[namespace] = None
                self._announce(namespace)
            self._list_mark = list_mark

    async def _place_keys(self, group: asyncio.TaskGroup) -> None:
        """Give every revision key to the listener of the primary that owns it now."""
        client = self._connection.reads
        if isinstance(client, RedisCluster):
            with map_redis_errors():
                await client.initialize()
        placed = {
            name: primary
            for primary, (listener, _) in self._listeners.items()
            for name in listener.names
        }
        for name in (_LIST, *self._known):
            key = keys_of(name).rev if name else NAMESPACES_MARK
            primary = _primary_of(client, key)
            if placed.get(name) == primary:
                continue
            if name in placed:
                self._listeners[placed[name]][0].forget(name)
            self._listen(group, primary, name, key)
        for primary, (listener, task) in list(self._listeners.items()):
            if not listener.names:
                del self._listeners[primary]
                task.cancel()

    def _listen(self, group: asyncio.TaskGroup, primary: str, name: str, key: str) -> None:
        """Let the listener of a primary follow a key; start it if it is the first."""
        if primary in self._listeners:
            self._listeners[primary][0].follow(name, key)
            return
        listener = NotificationListener(
            self._connection,
            replica_id=self._replica_id,
            on_news=self._on_news,
            on_proof=self._check_now.set,
            timings=self._timings.listener,
        )
        listener.follow(name, key)
        task = group.create_task(listener.run(), name=f"store-listener-{primary}")
        self._listeners[primary] = (listener, task)

    def _on_news(self, name: str) -> None:
        if name == _LIST:
            self._check_now.set()
        else:
            self._announce(name)

    def _announce(self, namespace: str) -> None:
        self._news.add(namespace)
        self._wake.set()

    def _report_mode(self) -> None:
        if self.mode != self._last_mode:
            self._last_mode = self.mode
            _log.info("following the store", extra={"mode": self._last_mode})


def _reads(
    listed: dict[Collection, list[bytes]],
) -> Iterator[list[tuple[Collection, list[bytes]]]]:
    """Cut the names into round trips; small collections share one."""
    read: list[tuple[Collection, list[bytes]]] = []
    room = RECORDS_PER_READ
    for collection, names in listed.items():
        start = 0
        while start < len(names):
            part = names[start : start + room]
            read.append((collection, part))
            start += len(part)
            room -= len(part)
            if not room:
                yield read
                read, room = [], RECORDS_PER_READ
    if read:
        yield read


def _primary_of(client: Client, key: str) -> str:
    """Return the name of the primary that owns a key; outside a Cluster there is only one."""
    if not isinstance(client, RedisCluster):
        return ""
    node = client.get_node_from_key(key)
    return node.name if node is not None else ""
