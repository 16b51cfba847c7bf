"""Records of decisions made in this process: kept in memory, reported in batches.

A record costs a tuple. What does not fit is dropped, oldest first, and counted; the next report
says how many they were.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from fleetplane._calls import MAX_BACKOFF, Backoff
from fleetplane._exceptions import FleetError, InvalidArgument, NotFound
from fleetplane.v1 import policy_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")

KEPT_RECORDS: Final = 50_000
"""Decisions kept until they are reported, some 300 bytes each and their claims."""

BATCH: Final = 250
"""Decisions of one report: 3 ms of this process's time; the daemon takes 500."""

REPORT_SECONDS: Final = 0.5
"""Pause between two looks at what there is to report."""

CLOSING_SECONDS: Final = 5.0
"""How long leaving waits for the last reports."""


class DecisionRecord(NamedTuple):
    """One decision, as it is reported."""

    made_ms: int
    """When, in milliseconds since 1970 on the daemon's clock."""
    agent_id: str
    action: str
    tool: str
    session_id: str
    claims: Mapping[str, Any]
    """As the policies saw them."""
    decision: pb.PolicyDecision
    """Shared between equal answers: without its id."""
    decision_id: str
    age: float
    """`snapshot_age_seconds` of the answer."""
    policy_digest: str
    """Digest of the set that decided."""


Kept = tuple[int, str, str, str, str, Mapping[str, Any], pb.PolicyDecision, str, float, str]
"""The fields of a `DecisionRecord`, as a plain tuple: a named one costs four times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionBatch:
    """Decisions of one agent, oldest first, and how many before them could not be kept."""

    agent_id: str
    batch_id: str
    """Stays the same when the report is repeated."""
    records: Sequence[DecisionRecord]
    lost: int = 0
    lost_from_ms: int = 0
    """When the first of those was made; 0 if none was lost."""
    lost_to_ms: int = 0


class DecisionSink(Protocol):
    """Where reports go."""

    async def report(self, batch: DecisionBatch) -> None:
        """Report one batch.

        Raises:
            FleetError: it was refused, or nobody answered.
        """


@dataclass(slots=True)
class _Lost:
    number: int = 0
    from_ms: int = 0
    to_ms: int = 0

    def add(self, number: int, from_ms: int, to_ms: int) -> None:
        self.from_ms = min(self.from_ms or from_ms, from_ms)
        self.to_ms = max(self.to_ms, to_ms)
        self.number += number


class DecisionRecorder:
    """Keeps records and reports them.

    Args:
        sink: where they go.
        limit: decisions kept at most.
    """

    def __init__(self, sink: DecisionSink, *, limit: int = KEPT_RECORDS) -> None:
        self._sink = sink
        self._limit = limit
        self._kept: deque[Kept] = deque()
        self._lost: dict[str, _Lost] = {}
        self._unreported: deque[DecisionBatch] = deque()
        self.lost = 0
        """Decisions that could not be kept or were refused, since the start."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="fleetplane-decision-reports"
        )

    @property
    def waiting(self) -> int:
        """Decisions that were not reported yet."""
        return len(self._kept) + sum(len(batch.records) for batch in self._unreported)

    def keep(self, record: Kept) -> None:
        """Keep one record. May be called from any thread."""
        kept = self._kept
        kept.append(record)
        if len(kept) > self._limit:
            oldest = kept.popleft()
            self._note_lost(oldest[1], 1, oldest[0], oldest[0])

    async def flush(self) -> None:
        """Report everything that was kept until now.

        Raises:
            FleetError: the daemon refuses it, or does not answer; it is kept for later.
        """
        await self._report_batches()
        for _ in range(len(self._kept) // BATCH + 1):
            self._cut()
            await self._report_batches()

    async def aclose(self) -> None:
        """Report what is left, for 5 s at most, and end; idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self.waiting:
            return
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self.flush()
        except (FleetError, TimeoutError) as error:
            _log.warning("%d decisions were not reported: %s", self.waiting, error or "no answer")
            self.lost += self.waiting
            self._kept.clear()
            self._unreported.clear()

    async def _run(self) -> None:
        backoff = Backoff(REPORT_SECONDS, MAX_BACKOFF)
        complaint = ""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            try:
                await self.flush()
                backoff.reset()
                complaint = ""
            except FleetError as error:
                level = logging.DEBUG if str(error) == complaint else logging.WARNING
                _log.log(level, "decisions cannot be reported: %s", error)
                complaint = str(error)
                await asyncio.sleep(backoff.next(error.retry_after))
            except Exception:  # noqa: BLE001  # a defect of ours must not end the reports for good
                _log.exception("decisions could not be reported")
                if self._unreported:
                    self._give_up(self._unreported.popleft())

    async def _report_batches(self) -> None:
        """Report what was cut; a batch stays until it is answered for."""
        while self._unreported:
            await self._report(self._unreported[0])
            self._unreported.popleft()

    async def _report(self, batch: DecisionBatch) -> None:
        """Report a batch; one that is refused for what it says is given up, and counted."""
        try:
            await self._sink.report(batch)
        except (InvalidArgument, NotFound) as error:
            _log.warning("%d decisions were refused: %s", len(batch.records), error)
            self._give_up(batch)

    def _give_up(self, batch: DecisionBatch) -> None:
        """Count a batch as lost; the next report of the agent says so. One without records ends."""
        if batch.records:
            first, last = batch.records[0].made_ms, batch.records[-1].made_ms
            self._note_lost(batch.agent_id, len(batch.records), first, last)

    def _cut(self) -> None:
        """Make batches of the oldest records, one per agent."""
        kept, by_agent = self._kept, dict[str, list[DecisionRecord]]()
        for _ in range(min(BATCH, len(kept))):
            record = DecisionRecord._make(kept.popleft())
            by_agent.setdefault(record.agent_id, []).append(record)
        for agent_id in self._lost.keys() - by_agent.keys():
            by_agent[agent_id] = []
        self._unreported.extend(self._batches(by_agent))

    def _batches(self, by_agent: Mapping[str, Sequence[DecisionRecord]]) -> Iterator[DecisionBatch]:
        for agent_id, records in by_agent.items():
            lost = self._lost.pop(agent_id, None) or _Lost()
            yield DecisionBatch(
                agent_id=agent_id,
                batch_id=uuid.uuid4().hex,
                records=records,
                lost=lost.number,
                lost_from_ms=lost.from_ms,
                lost_to_ms=lost.to_ms,
            )

    def _note_lost(self, agent_id: str, number: int, from_ms: int, to_ms: int) -> None:
        self.lost += number
        self._lost.setdefault(agent_id, _Lost()).add(number, from_ms, to_ms)
