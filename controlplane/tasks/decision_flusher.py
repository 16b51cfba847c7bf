"""Carries decisions from the recorder to the log, and trims the log."""

import asyncio
import logging
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.policies.decision_log_port import DecisionBatch, DecisionLog
from controlplane.services.policies.recorder import Recorder, SynchronousBatch
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

TICK_SECONDS: Final = 0.1
"""Time between flushes: what a crash may lose of ASYNC decisions."""

MAX_BACKOFF_SECONDS: Final = 1.0
"""Longest pause after failures: the queue is full within a second of a busy replica."""

TRIM_SECONDS: Final = 60.0
"""Time between two looks at the size of a namespace's log, on every replica."""

TRIM_CALLS: Final = 50
"""Calls to trim one namespace at a time; the rest is for the next round."""

BATCHES_AT_ONCE: Final = 100
"""Batches of one namespace before the others have their turn: more than its queue holds."""

LAST_FLUSH_SECONDS: Final = 2.0
"""For what is left when the daemon stops; short against the 30 s of an orchestrator's kill."""

_log: Final = logging.getLogger("fleetplane.decisions")


class DecisionFlusher:
    """The loops; one of each per replica."""

    def __init__(
        self,
        recorder: Recorder,
        log: DecisionLog,
        read_model: ReadModel,
        clock: Clock,
        *,
        keep_ms: int,
        max_bytes: int,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """Keep decisions for `keep_ms`, and at most `max_bytes` of them per namespace."""
        self._recorder = recorder
        self._decisions = log
        self._read_model = read_model
        self._clock = clock
        self._keep_ms = keep_ms
        self._max_bytes = max_bytes
        self._tick_seconds = tick_seconds
        self._unsent: dict[str, DecisionBatch] = {}
        """By namespace: the batch that the store did not take; it goes first, as it is."""
        self._failing = 0

    async def run(self) -> None:
        """Flush until cancelled; then flush what is left."""
        try:
            while True:
                await self._clock.sleep(self._pause())
                await self.round()
        finally:
            await self._flush_rest()

    async def run_synchronous(self) -> None:
        """Store what calls wait for, as soon as there is any, until cancelled.

        What comes while a batch is being written goes into the next one: under load one write
        carries many calls. One batch of each namespace goes at a time, so that none waits until
        another one is quiet.
        """
        try:
            while True:
                await self._recorder.synchronous.wait()
                self._recorder.synchronous.clear()
                waiting = self._recorder.waiting_namespaces()
                await asyncio.gather(*map(self.flush_synchronous, waiting))
        finally:
            self._refuse_synchronous()

    async def run_trimming(self) -> None:
        """Keep the logs within their bounds until cancelled."""
        while True:
            await self._clock.sleep(TRIM_SECONDS)
            try:
                await self.trim()
            except (StoreUnavailable, NotReady):
                _log.debug("the log of decisions is trimmed later")

    async def round(self) -> None:
        """Flush once; what cannot be written is kept."""
        try:
            for namespace in self._namespaces():
                await self.flush(namespace)
        except StoreUnavailable as failure:
            self._failing += 1
            for queue in self._recorder.queues.values():
                queue.failing = True
            if self._failing == 1:
                _log.warning("decisions cannot be stored", extra={"error": failure.message})
        else:
            if self._failing:
                _log.info("decisions are stored again", extra={"rounds": self._failing})
            self._failing = 0
            self._recorder.forget_idle()

    async def flush(self, namespace: str, *, at_once: bool = False) -> None:
        """Write what one namespace has.

        Raises:
            StoreUnavailable: what was not written is kept for the next time.
        """
        for _ in range(BATCHES_AT_ONCE):
            batch = self._unsent.get(namespace) or self._recorder.next_batch(
                namespace, self._clock.store_ms(), at_once=at_once
            )
            if batch is None:
                return
            self._unsent[namespace] = batch
            await self._decisions.append(namespace, batch)
            del self._unsent[namespace]
            self._recorder.stored(namespace)
            self._recorder.queues[namespace].failing = False

    async def flush_synchronous(self, namespace: str) -> None:
        """Write one batch that calls of one namespace wait for, and let them go on or fail."""
        waiting = self._recorder.next_synchronous(namespace)
        if waiting is None:
            return
        try:
            await self._decisions.append(namespace, waiting.batch)
        except StoreUnavailable as failure:
            _settle(waiting, failure)
        except BaseException:
            _settle(waiting, StoreUnavailable("the daemon stops"))
            raise
        else:
            _settle(waiting, None)

    async def trim(self) -> None:
        """Drop what is too old or too much, in every namespace.

        Raises:
            StoreUnavailable: the rest is for the next time.
        """
        for namespace in tuple(self._read_model.views()):
            for _ in range(TRIM_CALLS):
                dropped = await self._decisions.trim(
                    namespace, keep_ms=self._keep_ms, max_bytes=self._max_bytes
                )
                if not dropped:
                    break

    def _pause(self) -> float:
        if not self._failing:
            return self._tick_seconds
        return float(min(self._tick_seconds * 2**self._failing, MAX_BACKOFF_SECONDS))

    def _namespaces(self) -> tuple[str, ...]:
        return tuple(self._recorder.queues)

    async def _flush_rest(self) -> None:
        """Write what is left, within a bound: nothing is asked any more when this runs."""
        try:
            async with asyncio.timeout(LAST_FLUSH_SECONDS):
                for namespace in self._namespaces():
                    await self.flush(namespace, at_once=True)
        except (StoreUnavailable, TimeoutError):
            left = sum(queue.records for queue in self._recorder.queues.values())
            _log.error("decisions are lost with the daemon", extra={"number_lost": left})

    def _refuse_synchronous(self) -> None:
        for namespace in self._namespaces():
            while (waiting := self._recorder.next_synchronous(namespace)) is not None:
                _settle(waiting, StoreUnavailable("the daemon stops"))


def _settle(waiting: SynchronousBatch, failure: StoreUnavailable | None) -> None:
    for call in waiting.calls:
        if call.done():  # cancelled meanwhile
            continue
        if failure is None:
            call.set_result(None)
        else:
            call.set_exception(StoreUnavailable(f"the decision is not recorded: {failure.message}"))
