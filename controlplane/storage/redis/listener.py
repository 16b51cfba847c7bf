"""Listens to one primary's keyspace notifications, and proves all the time that it still hears.

A subscription can fall silent in ways that raise nothing: a stalled server, a half-open socket, a
demoted primary, a server whose configuration lost the flags. So the listener writes a canary key
of its own every few seconds and expects to be told; when it is not, it starts over.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors
from controlplane.storage.redis.keys import canary_key, keyspace_channel
from controlplane.storage.redis.refusals import MANUAL

_log: Final = logging.getLogger("fleetplane.store")

# Milliseconds after which the canary of a replica that is gone disappears.
_CANARY_TTL_MS: Final = 60_000

# Seconds after which a blocked read looks whether there is something new to subscribe to.
_READ_SECONDS: Final = 0.25

# Attempts in a row after which a store that says nothing is no accident, such as a stall.
_WARN_AFTER: Final = 2

# Channels per SUBSCRIBE, so that no command grows without bound.
_SUBSCRIBE_CHUNK: Final = 1000

# Unlike ordinary failures these make the listener start over in silence: nothing is wrong.
_REGROUPED: Final = "its channels moved to another primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTimings:
    """Seconds.

    A canary is written every `canary_every` and must be heard within `canary_within`. After a
    failure the listener pauses for `pause_first`, doubled with every further failure up to
    `pause_longest` (the store cannot be reached) or `pause_silent` (it can, but says nothing).
    """

    canary_every: float = 5.0
    canary_within: float = 2.0
    pause_first: float = 0.01
    pause_longest: float = 1.0
    pause_silent: float = 30.0


class _StartOver(Exception):
    """The subscription is of no use any more; `silent` if only the canary says so."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class NotificationListener:
    """Follows keys that live on one primary, each under a name.

    `on_news(name)` is called when a key was written, and when its channel was confirmed by the
    server, because whatever came before was not heard. `on_proof()` is called when the
    first canary after a (re)start was heard. Both must not block.
    """

    def __init__(
        self,
        connection: StoreConnection,
        *,
        replica_id: str,
        on_news: Callable[[str], None],
        on_proof: Callable[[], None],
        timings: ListenerTimings,
    ) -> None:
        self._connection = connection
        self._replica_id = replica_id
        self._on_news = on_news
        self._on_proof = on_proof
        self._timings = timings
        self._keys: dict[str, str] = {}  # name -> key
        self._names: dict[bytes, str] = {}  # channel -> name
        self._moved = False
        self._warned = False
        self._canary_channel = b""
        self._canary_confirmed = asyncio.Event()
        self._canary_heard = asyncio.Event()
        self.proven = False
        """Whether notifications are known to arrive: the latest canary was heard."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the keys that are followed."""
        return frozenset(self._keys)

    def follow(self, name: str, key: str) -> None:
        """Also follow `key`; `on_news(name)` is called when the server has confirmed it."""
        self._keys[name] = key
        self._names[self._channel(key)] = name

    def forget(self, name: str) -> None:
        """Stop following a key that moved to another primary; starts the subscription over."""
        del self._names[self._channel(self._keys.pop(name))]
        self._moved = True

    async def run(self) -> NoReturn:
        """Listen until cancelled. Needs at least one key."""
        failures = 0
        while True:
            try:
                await self._listen()
            except (StoreUnavailable, redis_errors.RedisError, _StartOver) as error:
                failures = 1 if self.proven else failures + 1
                self.proven = False
                if failures >= _WARN_AFTER and _is_mute(error):
                    self._warn_once(error)
                _log.info(
                    "the subscription to the store starts over",
                    extra={"why": str(error), "failures": failures},
                )
                await asyncio.sleep(self._pause(failures, error))

    def _warn_once(self, error: Exception) -> None:
        """Say what to change, when it serves, but does not announce what is written."""
        if self._warned:
            return
        self._warned = True
        _log.warning(
            "the store announces no changes, so it is polled: set notify-keyspace-events to K$ and"
            " let the store's user subscribe",
            extra={"why": str(_reason(error)), "manual": MANUAL},
        )

    def _pause(self, failures: int, error: Exception) -> float:
        timings = self._timings
        longest = timings.pause_silent if _is_mute(error) else timings.pause_longest
        return float(min(timings.pause_first * 2 ** min(failures - 1, 16), longest))

    async def _listen(self) -> NoReturn:
        """Subscribe, have canaries written, and read, until something fails, which is raised.

        Not a TaskGroup: one that is cancelled while a task of its own fails raises the failure, in
        Python before 3.13, and `run` would start over instead of ending.
        """
        self._moved = False
        self._canary_confirmed.clear()
        # Each connection may lead to a server that was never told to notify.
        await self._connection.ensure_notifications()
        canary = canary_key(next(iter(self._keys.values())), self._replica_id)
        self._canary_channel = self._channel(canary)
        pubsub = await self._connection.pubsub_client(canary)
        tasks = (
            asyncio.create_task(self._read(pubsub), name="store-notifications"),
            asyncio.create_task(self._sing(canary), name="store-canary"),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # redis-py leaves this method untyped
            await pubsub.aclose()  # type: ignore[no-untyped-call]
        done.pop().result()
        raise AssertionError("both tasks run for ever")

    async def _read(self, pubsub: PubSub) -> NoReturn:
        """Hand on every message; keep the subscriptions in step with the keys."""
        subscribed: set[bytes] = set()
        with map_redis_errors():
            while True:
                wanted = {self._canary_channel, *self._names} - subscribed
                for channels in _chunks(list(wanted)):
                    await pubsub.subscribe(*channels)
                subscribed |= wanted
                message: Mapping[str, Any] | None = await pubsub.get_message(timeout=_READ_SECONDS)
                if self._moved:
                    raise _StartOver(_REGROUPED)
                if message is not None:
                    self._hear(message["type"], message["channel"])

    def _hear(self, kind: str, channel: bytes) -> None:
        if channel == self._canary_channel:
            (self._canary_confirmed if kind == "subscribe" else self._canary_heard).set()
            return
        name = self._names.get(channel)
        if name is not None:
            self._on_news(name)

    def _channel(self, key: str) -> bytes:
        return keyspace_channel(self._connection.address.db, key).encode()

    async def _sing(self, canary: str) -> NoReturn:
        """Write canaries, and raise when one is not heard."""
        await self._within(self._canary_confirmed, "the subscription was not confirmed")
        while True:
            self._canary_heard.clear()
            with map_redis_errors():
                await self._connection.writes.set(canary, self._replica_id, px=_CANARY_TTL_MS)
            await self._within(self._canary_heard, "a canary was not heard")
            if not self.proven:
                self.proven = True
                self._warned = False
                self._on_proof()
            await asyncio.sleep(self._timings.canary_every)

    async def _within(self, event: asyncio.Event, otherwise: str) -> None:
        try:
            async with asyncio.timeout(self._timings.canary_within):
                await event.wait()
        except TimeoutError:
            raise _StartOver(otherwise, silent=True) from None


def _is_mute(error: Exception) -> bool:
    """Say whether the store serves us, but does not tell us of changes."""
    if isinstance(error, _StartOver):
        return error.silent
    reason = _reason(error)
    away = isinstance(error, StoreUnavailable)
    return isinstance(reason, redis_errors.NoPermissionError if away else redis_errors.RedisError)


def _reason(error: Exception) -> BaseException:
    """Return what the store said, if an error of it is behind this one."""
    return error.__cause__ if isinstance(error, StoreUnavailable) and error.__cause__ else error


def _chunks(channels: list[bytes]) -> list[list[bytes]]:
    return [
        channels[start : start + _SUBSCRIBE_CHUNK]
        for start in range(0, len(channels), _SUBSCRIBE_CHUNK)
    ]
