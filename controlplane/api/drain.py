"""The shutdown sequence: no call in flight is lost, no stream is cut without a word.

1. The daemon got its signal and calls `Drain.run`.
2. Health says NOT_SERVING.
3. `delay_seconds` pass, so that load balancers notice.
4. `draining` is set: every stream says GoAway and returns OK; the server refuses new calls.
5. Calls in flight finish, or `grace_seconds` expire.
6. The server stops, which cancels what is left and lets it unwind.

Closing the store, flushing telemetry and the second signal belong to the composition root.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import structlog

from controlplane.telemetry.names import FIELD_GRACE_SECONDS, FIELD_IN_FLIGHT, LOGGER_API

SETTLE_SECONDS: Final = 0.05
"""Calls that the core accepted just before the stop reach their handlers within that."""

UNWIND_SECONDS: Final = 1.0
"""A cancelled handler only has its `finally` left to do."""

DEFAULT_GRACE_SECONDS: Final = 10.0
"""Longer than a write against a store that fails over, shorter than Kubernetes' 30 s to SIGKILL."""

_log: Any = structlog.get_logger(LOGGER_API)


class Stoppable(Protocol):
    """What the sequence needs of a server."""

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls at once; cancel what is in flight after `grace` seconds."""


class Readiness(Protocol):
    """What the sequence needs of the health service."""

    def enter_graceful_shutdown(self) -> None:
        """Say NOT_SERVING from now on."""


class Drain:
    """Knows which calls are in flight and brings them to an end.

    Attributes:
        draining: Set once, when this replica starts to shut down.
        idle: Set while no call is in flight.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self._callbacks: set[Callable[[], None]] = set()

    @property
    def in_flight(self) -> int:
        """Calls that have not sent their status yet, without health, reflection and channelz."""
        return len(self._calls)

    def enter(self) -> None:
        """Count the call that the current task answers, until its status was sent.

        The task of a call ends after that. (`context.add_done_callback` would say the same, but
        makes a reference cycle of every call, which only the garbage collector gets rid of.)
        """
        task = asyncio.current_task()
        if task is not None:
            self._calls.add(task)
            self.idle.clear()
            task.add_done_callback(self.leave)

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Stop counting a call: it ended, or its peer does not read and is not waited for."""
        self._calls.discard(task)
        if not self._calls:
            self.idle.set()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` once when draining starts, or now if it has; until the block is left."""
        if self.draining.is_set():
            callback()
            yield
            return
        self._callbacks.add(callback)
        try:
            yield
        finally:
            self._callbacks.discard(callback)

    def begin(self) -> None:
        """Tell every stream to end. Idempotent."""
        self.draining.set()
        callbacks, self._callbacks = self._callbacks, set()
        for callback in callbacks:
            callback()

    async def run(
        self,
        server: Stoppable,
        health: Readiness,
        grace: float = DEFAULT_GRACE_SECONDS,
        *,
        delay: float = 0.0,
    ) -> bool:
        """Shut down: steps 2 to 6 of the module's sequence.

        Args:
            server: The server to stop.
            health: Its health service.
            grace: Seconds that calls in flight may take to finish.
            delay: Seconds between NOT_SERVING and the first refused call. Default 0; set it to the
                probe interval of the load balancer, if there is one.

        Returns:
            True if every call finished by itself, False if some were cancelled.
        """
        health.enter_graceful_shutdown()
        if delay > 0:
            await asyncio.sleep(delay)
        _log.info("draining", **{FIELD_IN_FLIGHT: self.in_flight, FIELD_GRACE_SECONDS: grace})
        self.begin()
        stopping = asyncio.create_task(server.stop(grace), name="server-stop")
        try:
            complete = await self._settled(grace)
            if not complete:
                _log.warning("grace expired, cancelling", **{FIELD_IN_FLIGHT: self.in_flight})
        finally:
            await server.stop(0)
            await stopping
        await self._unwound()
        return complete

    async def _unwound(self) -> None:
        """Let cancelled handlers leave before the store is closed: `server.stop` does not wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNWIND_SECONDS):
                await self.idle.wait()

    async def _settled(self, grace: float) -> bool:
        """Wait until no call is in flight; return False if `grace` seconds were not enough."""
        try:
            async with asyncio.timeout(grace):
                await asyncio.sleep(SETTLE_SECONDS)
                await self.idle.wait()
        except TimeoutError:
            return not self._calls
        return True
