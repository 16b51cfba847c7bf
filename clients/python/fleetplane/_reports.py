"""Exposures and outcomes that wait to be sent: bounded, in order, in batches."""

import asyncio
from collections import deque
from typing import Final

from fleetplane._connected import Connection
from fleetplane._exceptions import FleetError
from fleetplane.v1 import experiment_service_pb2 as pb

MOST_WAITING: Final = 10_000
"""Reports in memory, some 2 MB; the oldest make room for newer ones."""

BATCH: Final = 500
"""Reports of one call, by contract."""

Report = pb.Exposure | pb.Outcome


class Reports:
    """What one agent reports. Belongs to one event loop."""

    def __init__(self, connection: Connection, namespace: str, agent_name: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._agent_name = agent_name
        self._waiting: deque[tuple[str, Report]] = deque()
        self._sending = asyncio.Lock()
        self.dropped = 0
        """Reports that were refused, or pushed out."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, key: str, report: Report) -> None:
        """Have a report sent later."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((key, report))

    async def send(self) -> None:
        """Send all that waits now, in the order it came.

        Raises:
            FleetError: nobody answers; what was not taken goes on waiting, in its place.
        """
        async with self._sending:
            while self._waiting:
                batch = self._next_batch()
                key, kind = batch[0][0], type(batch[0][1])
                try:
                    await self._send(key, kind, [report for _, report in batch])
                except FleetError as refusal:
                    if refusal.retryable:
                        self._put_back(batch)
                        raise
                    self.dropped += len(batch)
                except asyncio.CancelledError:
                    self._put_back(batch)
                    raise

    def _next_batch(self) -> list[tuple[str, Report]]:
        """Take reports of one experiment and kind, as many as follow each other."""
        first = self._waiting[0]
        like = first[0], type(first[1])
        batch: list[tuple[str, Report]] = []
        while self._waiting and len(batch) < BATCH:
            key, report = self._waiting[0]
            if (key, type(report)) != like:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _put_back(self, batch: list[tuple[str, Report]]) -> None:
        room = MOST_WAITING - len(self._waiting)
        self.dropped += max(0, len(batch) - room)
        self._waiting.extendleft(reversed(batch[max(0, len(batch) - room) :]))

    async def _send(self, key: str, kind: type[Report], reports: list[Report]) -> None:
        stub, call = self._connection.experiments, self._connection.call
        said = {"namespace": self._namespace, "key": key, "agent_name": self._agent_name}
        results: list[pb.RecordingResult]
        if kind is pb.Exposure:
            exposures = [one for one in reports if isinstance(one, pb.Exposure)]
            request = pb.BatchRecordExposuresRequest(**said, exposures=exposures)
            results = list((await call(stub.BatchRecordExposures, request)).results)
        else:
            outcomes = [one for one in reports if isinstance(one, pb.Outcome)]
            asked = pb.BatchRecordOutcomesRequest(**said, outcomes=outcomes)
            results = list((await call(stub.BatchRecordOutcomes, asked)).results)
        self.dropped += sum(result.HasField("error") for result in results)
