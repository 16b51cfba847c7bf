"""Carries beats to the store and to the other replicas, and theirs to this one."""

import logging
from itertools import islice
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.beats import BeatIntake
from controlplane.services.ports import BeatLog
from controlplane.services.read_model import ReadModel
from controlplane.services.store_clock import LearningClock

TICK_SECONDS: Final = 0.1
"""Time between flushes: how old loads are at most elsewhere, and what a crash may lose."""

MERGE_SECONDS: Final = 0.5
"""Time between two readings of the other replicas' beats."""

CHUNK: Final = 5_000
"""Beats in one call to the store: about 20 ms of a store that serves others as well."""

MAX_BACKOFF_SECONDS: Final = 2.0
"""Longest pause after failures: short against any grant, long against a restarting store."""

_log = logging.getLogger("fleetplane.beats")


class BeatFlusher:
    """The loop; one per replica."""

    def __init__(
        self,
        intake: BeatIntake,
        beat_log: BeatLog,
        read_model: ReadModel,
        clock: LearningClock,
        *,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self._beat_log = beat_log
        self._intake = intake
        self._read_model = read_model
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._cursors: dict[str, str] = {}
        self._merge_due_at = 0.0
        self._failing = 0
        self.flushed = 0
        """Beats written since the start of the process."""
        self.failures = 0
        """Rounds that failed since the start of the process."""

    @property
    def is_failing(self) -> bool:
        """Whether the last round failed: this replica is blind and must expire nobody."""
        return self._failing > 0

    async def run(self) -> None:
        """Flush until cancelled. Beats that cannot be written are kept, newest per instance."""
        while True:
            await self._clock.sleep(self._pause())
            await self.round()

    def _pause(self) -> float:
        if not self._failing:
            return self._tick_seconds
        return float(min(self._tick_seconds * 2**self._failing, MAX_BACKOFF_SECONDS))

    async def round(self) -> None:
        """Flush once, and read the others' beats if it is time to."""
        try:
            await self.flush()
            if self._clock.monotonic() >= self._merge_due_at:
                self._merge_due_at = self._clock.monotonic() + MERGE_SECONDS
                await self.merge()
        except StoreUnavailable as failure:
            self.failures += 1
            self._failing += 1
            if self._failing == 1:
                _log.warning("beats cannot be flushed", extra={"error": failure.message})
        else:
            if self._failing:
                _log.info("beats are flushed again", extra={"rounds": self._failing})
            self._failing = 0

    async def flush(self) -> None:
        """Write what came in since the last time, one call per namespace and 5,000 beats.

        Raises:
            StoreUnavailable: what was not written is remembered for the next time.
        """
        waiting = self._intake.take_dirty()
        try:
            for namespace in tuple(waiting):
                await self._flush_namespace(namespace, waiting)
        finally:
            for namespace, unwritten in waiting.items():
                self._intake.put_back(namespace, unwritten)

    async def _flush_namespace(self, namespace: str, waiting: dict[str, set[str]]) -> None:
        """Write one namespace; what is written disappears from `waiting`."""
        try:
            view = self._read_model.view(namespace)
        except NotReady:
            return
        self._intake.publish_loads(view)
        unwritten = waiting[namespace]
        while unwritten:
            chunk = tuple(islice(unwritten, CHUNK))
            deadlines, beats = self._intake.pack(view, chunk)
            if beats:
                asked_at = self._clock.monotonic()
                store_ms = await self._beat_log.flush(namespace, deadlines, beats)
                answered_at = self._clock.monotonic()
                self._clock.learn(store_ms, asked_at=asked_at, answered_at=answered_at)
                self.flushed += len(beats)
            unwritten.difference_update(chunk)
        del waiting[namespace]

    async def merge(self) -> None:
        """Take over what other replicas flushed.

        Raises:
            StoreUnavailable: nothing is lost; the next time reads from the same place.
        """
        views = self._read_model.views()
        cursors = {namespace: self._cursors.get(namespace, "") for namespace in views}
        if not cursors:
            return
        news = await self._beat_log.read_beats(cursors)
        for namespace, (_, beats) in news.items():
            view = views.get(namespace)
            if view is not None and beats:
                self._intake.merge(view, beats)
                self._intake.publish_loads(view)
        # Only living namespaces keep a cursor.
        self._cursors = {name: cursor for name, (cursor, _) in news.items()}
