"""Simulations: recorded decisions, judged again under policies that are not live.

The work is done outside of the event loop, a batch of the log at a time, on sets of policies that
nobody else uses. One simulation runs at a time per replica; others wait for their turn.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from controlplane.domain.decisions.records import DecisionGap
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import OnError, Policy, PolicySet
from controlplane.domain.policy_sets.replay import Judge, NotReplayable, ReplayReport, in_force
from controlplane.services.policies.decision_history import content_of
from controlplane.services.policies.decision_log_port import (
    DecisionBatch,
    StoredBatch,
    place_at,
)
from controlplane.services.policies.decision_packing import record_of
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView

DEFAULT_DECISIONS: Final = 10_000
"""Decisions that are replayed unless a request says otherwise: less than a second."""

MAX_DECISIONS: Final = 100_000
"""Decisions of one simulation: some five seconds of one processor."""

BATCHES_LOOKED_AT: Final = 5_000
"""Batches of the log that one simulation looks at, most of them by their heads only; more where
it shall find more decisions than that, because a batch may hold a single one."""


class Batches(Protocol):
    """Reads the log of decisions, newest first; `decision_history.DecisionHistory`."""

    def batches(
        self, namespace: str, *, before: str = "", from_ms: int = 0
    ) -> AsyncIterator[StoredBatch]:
        """Yield batches below the place `before` ("": all), recorded at `from_ms` or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Which decisions are replayed: the newest so many of those made in a time range."""

    limit: int = DEFAULT_DECISIONS
    from_ms: int = 0
    to_ms: int = 0
    """Made before that; 0: no end."""

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            InvalidArgument: naming `limit` or `to`.
        """
        if not 0 < self.limit <= MAX_DECISIONS:
            raise InvalidArgument.of("limit", f"must be 1-{MAX_DECISIONS:,}")
        if self.to_ms and self.to_ms <= self.from_ms:
            raise InvalidArgument.of("to", "must lie after from")

    def covers(self, at_ms: int) -> bool:
        """Whether a decision of that time is meant."""
        return self.from_ms <= at_ms and (not self.to_ms or at_ms < self.to_ms)


NEWEST: Final = Sample()
"""The newest 10,000."""


class Simulations:
    """Replays recorded decisions."""

    def __init__(self, history: Batches, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self._turn = asyncio.Semaphore(1)

    async def run(
        self, view: NamespaceView, policies: Iterable[Policy], sample: Sample
    ) -> ReplayReport:
        """Judge the decisions of a sample under these policies and the namespace's defaults.

        What the policies would do from now on counts: see `in_force`.

        Raises:
            InvalidArgument: the sample.
            StoreUnavailable: the log cannot be read.
        """
        sample.check()
        live = view.policy_set
        async with self._turn:
            now_ms = self._clock.store_ms()
            judge = await asyncio.to_thread(_judge, tuple(policies), live.policies, live, now_ms)
            report = ReplayReport()
            looked_at, most = 0, max(BATCHES_LOOKED_AT, sample.limit)
            before = place_at(sample.to_ms + _LATE_MS) if sample.to_ms else ""
            async for stored in self._history.batches(
                view.name, before=before, from_ms=sample.from_ms
            ):
                looked_at += 1
                if report.recorded >= sample.limit or looked_at > most:
                    break
                if stored.batch.count and not _may_hold(stored.batch, sample):
                    continue
                await asyncio.to_thread(_add, judge, stored.batch, sample, report)
        return report


_LATE_MS: Final = 10 * 60 * 1000
"""How long after it was made a decision may have been stored."""


def _judge(
    policies: Sequence[Policy], live: Sequence[Policy], like: PolicySet, now_ms: int
) -> Judge:
    """Compile both sets for the thread of the simulation: sets remember, and are not shared."""
    both = (
        PolicySet.compile(
            in_force(those, now_ms),
            revision=like.revision,
            default_effect=like.default_effect,
            on_missing=like.on_missing,
            on_error=OnError.QUARANTINE,
        )
        for those in (policies, live)
    )
    return Judge(*both)


def _may_hold(batch: DecisionBatch, sample: Sample) -> bool:
    return batch.last_ms >= sample.from_ms and (not sample.to_ms or batch.first_ms < sample.to_ms)


def _add(judge: Judge, batch: DecisionBatch, sample: Sample, report: ReplayReport) -> None:
    """Judge one batch, newest first; a gap or what cannot be read is counted."""
    content = content_of(batch)
    if content is None:
        report.recorded += batch.count
        report.not_replayable[NotReplayable.UNREADABLE] += batch.count
        return
    if isinstance(content, DecisionGap):
        if sample.covers(content.last_ms):
            report.not_replayable[NotReplayable.LOST] += content.number_lost
        return
    rows = [
        row
        for row in reversed(range(len(content.decision_id)))
        if sample.covers(content.at_ms[row])
    ]
    judge.judge((record_of(content, row) for row in rows[: sample.limit - report.recorded]), report)
