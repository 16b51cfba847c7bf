"""What an agent counts about its work."""

import time
from types import TracebackType
from typing import Final, Self

from fleetplane.v1 import registry_service_pb2 as pb

SMOOTHING: Final = 0.2
"""Weight of the newest task in the smoothed latency: about the last ten tasks count."""


class WorkMeter:
    """Counters of one instance since its process started; reported with every beat."""

    __slots__ = ("_judged", "_progress", "completed", "failed", "in_flight", "latency_ms")

    def __init__(self) -> None:
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

    def progress(self) -> None:
        """Note that work advances.

        From the first call on, the daemon marks the instance STALLED when tasks are in flight and
        neither this is called nor a task ends for a while.
        """
        self._judged = True
        self._progress += 1

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
        self._meter.in_flight += 1
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._meter.in_flight -= 1
        if error is None or isinstance(error, Exception):
            self._meter.finish(time.perf_counter() - self._started, failed=error is not None)

    def progress(self) -> None:
        """Note that this work advances; see `WorkMeter.progress`."""
        self._meter.progress()
