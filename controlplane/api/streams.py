"""Drives long-lived streams: one writer, bounded memory, and never an end without a word.

A stream ends in one of these ways:

* its source ends, or the peer of a bidirectional one half-closes: OK;
* the replica drains, or the stream reaches its maximum age: a last GoAway message, then OK;
* the peer accepts nothing for `write_seconds`: nothing more can be written to it, so the call is
  answered RESOURCE_EXHAUSTED/LIMIT_EXCEEDED with metadata `go_away = SLOW_READER`;
* an error: the status of that error;
* the peer disconnects: cancellation.

No await on grpc is wrapped in `asyncio.timeout`: a timer cancels the task that waits, and only when
the call is over. Each cancelled read or write leaks a little in grpc (grpc/grpc#43360).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import grpc

from controlplane.api.drain import Drain
from controlplane.domain.errors import LimitExceeded
from fleetplane.v1 import watch_pb2

In = TypeVar("In")
Out = TypeVar("Out")

METADATA_GO_AWAY: Final = "go_away"
"""Key of `ErrorInfo.metadata` that says why a stream was ended without a GoAway message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Bounds of every long-lived stream.

    Attributes:
        write_seconds: How long one write may wait for the peer to read. Default 10, by contract.
        max_age_seconds: A stream is sent away at this age, so that load spreads over replicas and
            every stream outlives its connection's grace (`ServerOptions`). Default 20 min.
        age_jitter: Share of the age, 0-1, that is taken off at random, so that streams opened
            together do not come back together. Default 0.2.
        retry_after_ms: What GoAway tells the client to wait before reconnecting. Default 100 ms.
    """

    write_seconds: float = 10.0
    max_age_seconds: float = 1200.0
    age_jitter: float = 0.2
    retry_after_ms: int = 100


LOOKS_PER_LIMIT: Final = 8
"""Looks at pending writes within `write_seconds`: the limit is exact to an eighth."""


class _PendingWrites:
    """Gives up writes that wait too long, with one timer for all streams.

    A timer per message would cost more than the message; most writes are over at once.
    """

    __slots__ = ("_limit", "_since", "_timer")

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._since: dict[StreamWriter[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, writer: "StreamWriter[Any]", loop: asyncio.AbstractEventLoop) -> None:
        """Note that a write begins."""
        self._since[writer] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._limit / LOOKS_PER_LIMIT, self._look, loop)

    def end(self, writer: "StreamWriter[Any]") -> None:
        """Note that a write is over."""
        self._since.pop(writer, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        overdue = loop.time() - self._limit
        for writer, since in list(self._since.items()):
            if since <= overdue:
                del self._since[writer]
                writer.give_up()
        if self._since:
            self._timer = loop.call_later(self._limit / LOOKS_PER_LIMIT, self._look, loop)


class StreamKeeper:
    """What all streams of a server share."""

    __slots__ = ("drain", "limits", "pending")

    def __init__(self, *, drain: Drain, limits: StreamLimits | None = None) -> None:
        """Keep streams within `limits`, until `drain` says that this replica shuts down."""
        self.drain = drain
        self.limits = limits or StreamLimits()
        self.pending = _PendingWrites(self.limits.write_seconds)

    @contextmanager
    def ending(self, end: Callable[["watch_pb2.GoAway.Reason.ValueType"], None]) -> Iterator[None]:
        """Call `end` with the reason when the replica drains or the stream gets too old."""
        reasons = watch_pb2.GoAway.Reason
        limits = self.limits
        spread = random.uniform(0, limits.age_jitter)  # noqa: S311 - spreads load, guards nothing
        timer = asyncio.get_running_loop().call_later(
            limits.max_age_seconds * (1 - spread), end, reasons.REASON_MAX_AGE
        )
        try:
            with self.drain.calling(lambda: end(reasons.REASON_DRAINING)):
                yield
        finally:
            timer.cancel()

    def go_away(self, reason: "watch_pb2.GoAway.Reason.ValueType") -> watch_pb2.GoAway:
        """Return the message that ends a stream."""
        message = watch_pb2.GoAway(reason=reason)
        message.retry_after.FromMilliseconds(self.limits.retry_after_ms)
        return message


class StreamWriter(Generic[Out]):
    """The one writer of a stream. Messages may be ready bytes, serialised once for many watchers.

    Made and used by the task that answers the call: grpc allows one write at a time.
    """

    __slots__ = ("_context", "_keeper", "_late", "_loop", "_pending", "_task")

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", keeper: StreamKeeper) -> None:
        self._context = context
        self._keeper = keeper
        self._pending = keeper.pending
        self._loop = asyncio.get_running_loop()
        self._late = False
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a stream is written from a task")
        self._task = task

    async def write(self, message: Out | bytes) -> None:
        """Send one message; wait while the peer's window is full.

        Raises:
            LimitExceeded: the peer accepted nothing for `write_seconds`. The stream is beyond use
                and no shutdown waits for it any more.
        """
        self._pending.begin(self, self._loop)
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            if self._late and self._task.uncancel() == 0:
                self._keeper.drain.leave(self._task)
                raise _slow_reader(self._keeper.limits.write_seconds) from None
            raise
        finally:
            self._pending.end(self)

    def give_up(self) -> None:
        """End the write that is pending: the peer does not read."""
        self._late = True
        self._task.cancel()


def _slow_reader(limit: float) -> LimitExceeded:
    error = LimitExceeded(
        "the time in seconds that a stream may go unread", limit=round(limit), retry_after_seconds=1
    )
    error.metadata[METADATA_GO_AWAY] = "SLOW_READER"
    return error


async def run_stream(
    messages: AsyncIterator[Out | bytes],
    context: "grpc.aio.ServicerContext[Any, Any]",
    *,
    go_away: Callable[[watch_pb2.GoAway], Out],
    keeper: StreamKeeper,
) -> None:
    """Send what `messages` yields until it ends, the replica drains or the stream is too old.

    Runs in the handler's task, without another one: an idle watcher costs a suspended generator
    and a timer. `messages` is closed before returning, however the stream ends.

    Args:
        messages: The source, usually an async generator; cancelled while it waits when the stream
            must end.
        context: grpc's side of the call.
        go_away: Wraps the last message for this stream's type.
        keeper: Limits and drain.

    Raises:
        LimitExceeded: the peer does not read.
    """
    writer: StreamWriter[Out] = StreamWriter(context, keeper)
    source = _Interruptible(messages)
    ending: list[watch_pb2.GoAway.Reason.ValueType] = []

    def end(reason: watch_pb2.GoAway.Reason.ValueType) -> None:
        ending.append(reason)
        source.interrupt()

    with keeper.ending(end):
        async with aclosing(source):
            async for message in source:
                await writer.write(message)
    if ending:
        await writer.write(go_away(keeper.go_away(ending[0])))


class _Interruptible(Generic[In]):
    """Iterates until the source ends or `interrupt` is called, even while the source waits.

    Whoever works on an item is not disturbed. Belongs to the task that makes it.
    """

    __slots__ = ("_interrupted", "_source", "_task", "_waiting")

    def __init__(self, source: AsyncIterator[In]) -> None:
        self._source = source
        self._task = asyncio.current_task()
        self._waiting = False
        self._interrupted = False

    def interrupt(self) -> None:
        """End the iteration. Idempotent."""
        if self._interrupted:
            return
        self._interrupted = True
        if self._waiting and self._task is not None:
            self._task.cancel()

    def __aiter__(self) -> "_Interruptible[In]":
        return self

    async def __anext__(self) -> In:
        if self._interrupted:
            raise StopAsyncIteration
        self._waiting = True
        try:
            return await anext(self._source)
        except asyncio.CancelledError:
            if self._is_own_cancellation():
                raise StopAsyncIteration from None
            raise
        finally:
            self._waiting = False

    def _is_own_cancellation(self) -> bool:
        """Take back the cancellation of `interrupt`; False if somebody else cancelled as well."""
        return self._interrupted and self._task is not None and self._task.uncancel() == 0

    async def aclose(self) -> None:
        """Close the source, if it can be closed."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
