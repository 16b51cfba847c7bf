"""Drives long-lived streams: one writer, bounded memory, and never an end without a word.

A stream ends in one of these ways:

* its source ends, or the peer of a bidirectional one half-closes: OK;
* the replica drains, the stream reaches its maximum age, or the credential it was opened with
  ends: a last GoAway message, then OK;
* the caller may no longer do this (`StreamGuard`): the status of the refusal;
* the peer accepts nothing for `write_seconds`: nothing more can be written to it, so the call is
  answered RESOURCE_EXHAUSTED/LIMIT_EXCEEDED with metadata `go_away = SLOW_READER`;
* an error: the status of that error;
* the peer disconnects: cancellation.

A source learns which of them it is. An end by the server closes it as `aclose()` does: nothing more
is wanted of it, and `CancelledError` is never what it sees (if it waits for something it sees
`SentAway`, because a generator that runs cannot be closed). A peer that is gone, be it that it
disconnected, that it does not read or that it is refused, is `asyncio.CancelledError`, wherever the
source stands.

No await on grpc is wrapped in `asyncio.timeout`: a timer cancels the task that waits, and only when
the call is over. Each cancelled read or write leaks a little in grpc (grpc/grpc#43360).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

import grpc

from controlplane.api.context import current_call
from controlplane.api.drain import Drain
from controlplane.api.stream_guard import StreamGuard
from controlplane.domain.errors import DomainError, LimitExceeded
from fleetplane.v1 import watch_pb2

In = TypeVar("In")
Out = TypeVar("Out")

Ending: TypeAlias = "watch_pb2.GoAway.Reason.ValueType | DomainError"
"""Why the server ends a stream: it is sent away, or refused."""

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

    def holds(self, writer: "StreamWriter[Any]") -> bool:
        """Return whether a write is pending."""
        return writer in self._since

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

    __slots__ = ("drain", "guard", "limits", "pending")

    def __init__(
        self,
        *,
        drain: Drain,
        limits: StreamLimits | None = None,
        guard: StreamGuard | None = None,
    ) -> None:
        """Keep streams within `limits`, until `drain` says that this replica shuts down.

        `guard` ends those whose right has gone; None: nobody does.
        """
        self.drain = drain
        self.limits = limits or StreamLimits()
        self.pending = _PendingWrites(self.limits.write_seconds)
        self.guard = guard

    @contextmanager
    def ending(self, end: Callable[[Ending], None]) -> Iterator[None]:
        """Call `end` when the stream of the current call has to end, with why.

        Sent away are streams of a replica that drains, those that get too old, and those whose
        credential ends. Refused are those whose right has gone. May be called more than once.
        """
        reasons = watch_pb2.GoAway.Reason
        timer = asyncio.get_running_loop().call_later(self._age(), end, reasons.REASON_MAX_AGE)
        try:
            with self.permitted(end), self.drain.calling(lambda: end(reasons.REASON_DRAINING)):
                yield
        finally:
            timer.cancel()

    def permitted(self, end: Callable[[DomainError], None]) -> AbstractContextManager[None]:
        """Call `end` with the refusal when the right of the current call goes."""
        return nullcontext() if self.guard is None else self.guard.watching(current_call(), end)

    def _age(self) -> float:
        """Return how old a stream of the current call may get, in seconds."""
        spread = random.uniform(0, self.limits.age_jitter)  # noqa: S311 - spreads load, guards nothing
        age = self.limits.max_age_seconds * (1 - spread)
        if self.guard is None:
            return age
        left = self.guard.seconds_left(current_call().caller)
        return age if left is None else min(age, left)

    def go_away(self, reason: "watch_pb2.GoAway.Reason.ValueType") -> watch_pb2.GoAway:
        """Return the message that ends a stream."""
        message = watch_pb2.GoAway(reason=reason)
        message.retry_after.FromMilliseconds(self.limits.retry_after_ms)
        return message


class StreamWriter(Generic[Out]):
    """The one writer of a stream. Messages may be ready bytes, serialised once for many watchers.

    Made and used by the task that answers the call: grpc allows one write at a time.
    """

    __slots__ = ("_context", "_given_up", "_keeper", "_loop", "_pending", "_task")

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", keeper: StreamKeeper) -> None:
        self._context = context
        self._keeper = keeper
        self._pending = keeper.pending
        self._loop = asyncio.get_running_loop()
        self._given_up: DomainError | None = None
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a stream is written from a task")
        self._task = task

    async def write(self, message: Out | bytes) -> None:
        """Send one message; wait while the peer's window is full.

        Raises:
            LimitExceeded: the peer accepted nothing for `write_seconds`. The stream is beyond use
                and no shutdown waits for it any more.
            DomainError: the caller was refused while it did not read (`refuse`); the same holds.
        """
        self._pending.begin(self, self._loop)
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            if self._given_up is not None and self._task.uncancel() == 0:
                self._keeper.drain.leave(self._task)
                raise self._given_up from None
            raise
        finally:
            self._pending.end(self)

    def give_up(self) -> None:
        """End the write that is pending: the peer does not read."""
        self._end(_slow_reader(self._keeper.limits.write_seconds))

    def refuse(self, refusal: DomainError) -> None:
        """End the write that is pending, if there is one: the caller may no longer read this."""
        if self._pending.holds(self):
            self._pending.end(self)
            self._end(refusal)

    def _end(self, why: DomainError) -> None:
        self._given_up = why
        self._task.cancel()


def _slow_reader(limit: float) -> LimitExceeded:
    error = LimitExceeded(
        "the time in seconds that a stream may go unread", limit=round(limit), retry_after_seconds=1
    )
    error.metadata[METADATA_GO_AWAY] = "SLOW_READER"
    return error


async def run_stream(
    events: AsyncIterator[In],
    context: "grpc.aio.ServicerContext[Any, Any]",
    *,
    render: Callable[[In], Out | bytes],
    go_away: Callable[[watch_pb2.GoAway], Out],
    keeper: StreamKeeper,
) -> None:
    """Send what `events` yields until it ends, or the server ends the stream.

    Runs in the handler's task, without another one: an idle watcher costs a suspended generator
    and a timer. `events` is ended before returning, however the stream ends, and told how; see the
    top of this module.

    Args:
        events: The source, usually an async generator.
        context: grpc's side of the call.
        render: Makes a message, or its bytes, of an event.
        go_away: Wraps the last message for this stream's type.
        keeper: Limits and drain.

    Raises:
        LimitExceeded: the peer does not read.
        DomainError: the caller may no longer do this.
    """
    writer: StreamWriter[Out] = StreamWriter(context, keeper)
    source = _Interruptible(events)
    ending: list[watch_pb2.GoAway.Reason.ValueType] = []

    def end(why: Ending) -> None:
        if isinstance(why, DomainError):
            source.interrupt(why)
            writer.refuse(why)
        else:
            ending.append(why)
            source.interrupt()

    with keeper.ending(end):
        async with source:
            async for event in source:
                await writer.write(render(event))
            if source.refusal is not None:
                raise source.refusal
    if ending:
        await writer.write(go_away(keeper.go_away(ending[0])))


class SentAway(BaseException):
    """Thrown into a source that waits while the server ends its stream.

    Not an `Exception`, so that only `finally` and bare clean-up see it.
    """


class _Refused(asyncio.CancelledError):
    """Thrown into a source that waits while its peer is refused: to it, the peer is gone."""


class _Interruptible(Generic[In]):
    """Iterates until the source ends or `interrupt` is called, even while the source waits.

    As a context it ends the source: whoever leaves it with an error other than the source's own
    has lost the peer. Whoever works on an item is not disturbed. Belongs to the task that makes it.
    """

    __slots__ = ("_interrupted", "_source", "_task", "_waiting", "refusal")

    def __init__(self, source: AsyncIterator[In]) -> None:
        self._source = source
        self._task = asyncio.current_task()
        self._waiting = False
        self._interrupted = False
        self.refusal: DomainError | None = None
        """Why the iteration was ended, if it was because of the peer's rights."""

    def interrupt(self, refusal: DomainError | None = None) -> None:
        """End the iteration. Idempotent: the first word counts."""
        if self._interrupted:
            return
        self._interrupted = True
        self.refusal = refusal
        if self._waiting and self._task is not None:
            self._task.cancel()

    def __aiter__(self) -> "_Interruptible[In]":
        return self

    async def __anext__(self) -> In:
        if self._interrupted:
            raise StopAsyncIteration
        self._waiting = True
        try:
            return await _Driven(anext(self._source), self._own_cancellation)
        except (SentAway, _Refused):
            raise StopAsyncIteration from None
        finally:
            self._waiting = False

    def _own_cancellation(self) -> BaseException | None:
        """Return what the source sees of a cancellation by `interrupt`, and take that back.

        None if somebody else cancelled as well.
        """
        if not self._interrupted or self._task is None or self._task.uncancel() != 0:
            return None
        return SentAway() if self.refusal is None else _Refused()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        throw = getattr(self._source, "athrow", None)
        if throw is not None and error is not None:
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await throw(asyncio.CancelledError())  # of no effect if the source has ended
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()


class _Driven(Generic[In]):
    """Awaits for somebody else, and turns cancellations into what `ours` returns, if it does.

    `Task.cancel` is the only way to reach a coroutine that waits, and says nothing but that.
    """

    __slots__ = ("_awaited", "_ours")

    def __init__(self, awaited: Awaitable[In], ours: Callable[[], BaseException | None]) -> None:
        self._awaited = awaited
        self._ours = ours

    def __await__(self) -> Generator[Any, Any, In]:
        steps: Any = self._awaited.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # of the awaited, which is typed
            thrown = None
            try:
                yield waits_for
            except asyncio.CancelledError as cancelled:
                thrown = self._ours() or cancelled
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as failure:  # noqa: BLE001 - passed on to whom it is for
                thrown = failure
