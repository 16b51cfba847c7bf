"""Unary calls with a deadline, retries and typed errors; the wait between attempts."""

import asyncio
import math
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc

from fleetplane._channel import ChannelConfig, RetryPolicy
from fleetplane._exceptions import (
    DeadlineExceeded,
    FleetError,
    InternalError,
    Unauthenticated,
    Unavailable,
    error_from_call,
)
from fleetplane._hints import transport_hint

Request = TypeVar("Request")
Response = TypeVar("Response")

_JITTER: Final = random.SystemRandom()
"""Many processes start at the same moment: their waits must not come from one seed."""


MIN_BACKOFF: Final = 0.1
"""First bound in seconds of the random wait before a stream or a registration is repeated."""

MAX_BACKOFF: Final = 5.0
"""Largest bound of that wait in seconds; the daemon may ask for more."""


class Backoff:
    """Exponential waits with full jitter: random between 0 and a bound that doubles.

    Args:
        initial: first bound in seconds.
        maximum: largest bound in seconds.
    """

    __slots__ = ("_bound", "_initial", "_maximum")

    def __init__(self, initial: float, maximum: float) -> None:
        self._initial = initial
        self._maximum = maximum
        self._bound = initial

    def next(self, at_least: float | None = None) -> float:
        """Return the next wait in seconds.

        Args:
            at_least: what the daemon asked for; up to a tenth is added, so that clients that were
                sent away together do not come back together.
        """
        wait = _JITTER.uniform(0.0, self._bound)
        self._bound = min(self._bound * 2, self._maximum)
        if at_least is None:
            return wait
        return max(wait, at_least * _JITTER.uniform(1.0, 1.1))

    def reset(self, *, after: float = math.inf) -> None:
        """Start over, if something worked for long enough.

        Args:
            after: for how long it has worked, in seconds. Less than the present bound does not
                count, so that what breaks again and again is tried more and more rarely.
        """
        if after >= self._bound:
            self._bound = self._initial


def jittered(seconds: float, share: float = 0.1) -> float:
    """Return `seconds` plus a random part of at most `share` of it."""
    return seconds * _JITTER.uniform(1.0, 1.0 + share)


def new_request_id() -> str:
    """Return an id that makes the retries of one write one write."""
    return uuid.uuid4().hex


class Caller:
    """Makes the unary calls of one connection.

    Args:
        config: deadlines, retries and the token.
        refresh: looks for newer credentials and has them used, if there are any.
    """

    __slots__ = ("_metadata", "_refresh", "_retry", "_timeout", "exchanges")

    def __init__(
        self, config: ChannelConfig, refresh: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._timeout = config.default_timeout
        self._retry: RetryPolicy = config.retry
        self._metadata = config.call_metadata()
        self._refresh = refresh
        self.exchanges = 0
        """How often the credentials were exchanged; note it when a call begins, see `renewed`."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What goes with every call, streams included."""
        return self._metadata

    def use(self, config: ChannelConfig) -> None:
        """Note that the credentials were exchanged for those of `config`."""
        self._metadata = config.call_metadata()
        self.exchanges += 1

    async def renewed(self, refusal: FleetError, since: int) -> bool:
        """Return whether a call should be repeated at once, because its credentials are outdated.

        Newer ones are looked for. Every repetition takes an exchange, so that a credential which is
        simply wrong is not tried again and again.

        Args:
            refusal: how the call ended.
            since: `exchanges` when it began.
        """
        if not (isinstance(refusal, Unauthenticated) or is_shut_out(refusal)):
            return False
        if self.exchanges == since and self._refresh is not None:
            await self._refresh()
        return self.exchanges != since

    async def __call__(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout: float | None = None,
    ) -> Response:
        """Call, retrying what may succeed later, until the deadline.

        Args:
            method: a unary method of a stub.
            request: sent unchanged with every attempt.
            timeout: deadline in seconds over all attempts; None takes the channel's default.

        Raises:
            FleetError: the refusal, typed; for a call that was retried in vain, the last one.
        """
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        since = self.exchanges
        try:
            return await method(request, timeout=limit, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            refusal = _typed(error)
        backoff = Backoff(self._retry.initial_backoff, self._retry.max_backoff)
        for _ in range(self._retry.max_attempts - 1):
            if await self.renewed(refusal, since):
                wait = 0.0
            elif refusal.retryable:
                wait = backoff.next(refusal.retry_after)
            else:
                break
            remaining = deadline - time.monotonic() - wait
            if remaining <= 0:
                break
            await asyncio.sleep(wait)
            since = self.exchanges
            try:
                return await method(request, timeout=remaining, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                again = _typed(error)
                if isinstance(again, DeadlineExceeded) and isinstance(refusal, Unavailable):
                    # The last attempt ran out of time while the plane was away: say that.
                    break
                refusal = again
        raise refusal


def _typed(error: grpc.aio.AioRpcError) -> FleetError:
    refusal = error_from_call(error)
    refusal.__cause__ = error
    return refusal


class StreamReader:
    """Reads one server-sent stream, and ends it when it has been silent for too long.

    grpc.aio leaks when a read is put under a timeout, so the watch over the silence is a timer of
    the event loop that cancels the whole call. Cancelling a call locally surfaces in its reader as
    `CancelledError`; only a cancellation by this timer is turned into an error here, any other is
    passed on.

    Args:
        call: the stream.
        silence: seconds without a message after which the call is cancelled; 0 never.
    """

    __slots__ = ("_call", "_heard_at", "_loop", "_silence", "_stalled", "_timer")

    def __init__(self, call: Any, silence: float) -> None:
        self._call = call
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._stalled = False
        self._timer: asyncio.TimerHandle | None = None
        if silence:
            self._timer = self._loop.call_later(silence, self._look)

    async def read(self) -> Any:
        """Return the next message, or None when the server ended the stream with OK.

        Raises:
            FleetError: the stream broke, was refused, or was silent for too long.
        """
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self.close()
            raise _typed(error) from error
        except asyncio.CancelledError as error:
            self.close()
            task = asyncio.current_task()
            if self._stalled and not (task and task.cancelling()):
                raise Unavailable(f"the stream was silent for {self._silence:g} s") from error
            raise
        if message is grpc.aio.EOF:  # with OK: any other status was raised by the read
            self.close()
            return None
        self._heard_at = self._loop.time()
        return message

    def _look(self) -> None:
        remaining = self._heard_at + self._silence - self._loop.time()
        if remaining <= 0:
            self._stalled = True
            self._call.cancel()
        else:
            self._timer = self._loop.call_later(remaining, self._look)

    def close(self) -> None:
        """End the call, if it has not ended; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._call.cancel()


def is_shut_out(error: FleetError) -> bool:
    """Return whether the connection broke in the middle of its handshake.

    So it does where the daemon, or this side, does not trust the other one's certificate any more,
    but also where something in between hangs up because the daemon is away.
    """
    return isinstance(error, Unavailable) and bool(transport_hint(error.message))


def is_final(error: FleetError) -> bool:
    """Return whether repeating the request is pointless: it was refused for what it says."""
    return type(error) is not FleetError and not (
        error.retryable or isinstance(error, (DeadlineExceeded, InternalError))
    )
