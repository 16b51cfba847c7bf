"""What an agent counts about its work."""

import functools
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

from fleetplane.v1 import registry_service_pb2 as pb

Arguments = ParamSpec("Arguments")
Outcome = TypeVar("Outcome")

SMOOTHING: Final = 0.2
"""Weight of the newest task in the smoothed latency: about the last ten tasks count."""


class WorkMeter:
    """Counters of one instance since its process started; reported with every beat."""

    __slots__ = (
        "_idle",
        "_judged",
        "_progress",
        "completed",
        "failed",
        "in_flight",
        "latency_ms",
    )

    def __init__(self, *, idle: Callable[[], None] | None = None) -> None:
        """Start at zero; `idle` is called whenever the last task in flight has ended."""
        self.in_flight = 0
        """Tasks being worked on."""
        self.completed = 0
        """Tasks completed."""
        self.failed = 0
        """Tasks that ended with an exception."""
        self.latency_ms = 0.0
        """Smoothed task latency in milliseconds; 0 before the first."""
        self._progress = 0
        self._judged = False
        self._idle = idle

    def progress(self) -> None:
        """Note that work advances.

        From the first call on, the daemon marks the instance STALLED when tasks are in flight and
        neither this is called nor a task ends for a while.
        """
        self._judged = True
        self._progress += 1

    def advanced(self) -> None:
        """Note that work advances, without asking to be judged by it as `progress` does."""
        self._progress += 1

    def begin(self) -> None:
        """Count a task that begins."""
        self.in_flight += 1

    def end(self) -> None:
        """Count a task that is not in flight any more, however it ended."""
        self.in_flight -= 1
        if self.in_flight == 0 and self._idle is not None:
            self._idle()

    def finish(self, seconds: float, *, failed: bool) -> None:
        """Count a task that ended."""
        self._progress += 1
        if failed:
            self.failed += 1
        else:
            self.completed += 1
        latency = seconds * 1000
        if self.latency_ms:
            latency = self.latency_ms + SMOOTHING * (latency - self.latency_ms)
        self.latency_ms = latency

    def write(self, beat: pb.Beat) -> None:
        """Put the counters into a beat."""
        beat.in_flight = self.in_flight
        beat.completed = self.completed
        beat.failed = self.failed
        beat.latency_ms = self.latency_ms
        if self._judged:
            beat.progress_token = str(self._progress)


class Task:
    """One piece of work, counted from entering to leaving the `with` block.

    An exception that leaves the block counts as a failure. A cancellation counts as neither: the
    work was called off, it did not fail.
    """

    __slots__ = ("_meter", "_started")

    def __init__(self, meter: WorkMeter) -> None:
        self._meter = meter
        self._started = 0.0

    def __enter__(self) -> Self:
        self._meter.begin()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._meter.finish(time.perf_counter() - self._started, failed=error is not None)
        self._meter.end()

    def progress(self) -> None:
        """Note that this work advances; see `WorkMeter.progress`."""
        self._meter.progress()


def tracked(
    meter: WorkMeter, function: Callable[Arguments, Awaitable[Outcome]]
) -> Callable[Arguments, Awaitable[Outcome]]:
    """Wrap a coroutine function so that each call counts as one task."""

    @functools.wraps(function)
    async def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Outcome:
        with Task(meter):
            return await function(*args, **kwargs)

    return call
