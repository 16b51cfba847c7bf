"""Reports decisions of this process to the daemon."""

import uuid
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from fleetplane._connected import Connection
from fleetplane._decision_reports import DecisionBatch, DecisionRecord
from fleetplane._values import to_struct
from fleetplane.v1 import decision_service_pb2 as pb

REPORT_TIMEOUT: Final = 30.0
"""Deadline of one report in seconds, retries included: nobody waits for it."""

_NANOSECONDS: Final = 1_000_000  # per millisecond


def new_decision_source() -> str:
    """Return what tells this process's decision ids from those of others: 8 hex digits."""
    return uuid.uuid4().hex[:8]


class DaemonSink:
    """`DecisionSink` of one namespace on an open connection."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace

    async def report(self, batch: DecisionBatch) -> None:
        """Report one batch; a repeated one is recorded once.

        Raises:
            FleetError: it was refused, or nobody answered.
        """
        request = pb.RecordDecisionsRequest(
            namespace=self._namespace,
            agent_id=batch.agent_id,
            batch_id=batch.batch_id,
            decisions=[_message(record) for record in batch.records],
            number_lost=batch.lost,
        )
        if batch.lost:
            request.lost_from.CopyFrom(_moment(batch.lost_from_ms))
            request.lost_to.CopyFrom(_moment(batch.lost_to_ms))
        connection = self._connection
        await connection.call(connection.decisions.RecordDecisions, request, REPORT_TIMEOUT)


def _message(record: DecisionRecord) -> pb.LocalDecision:
    message = pb.LocalDecision(
        decision=record.decision,
        action=record.action,
        tool=record.tool,
        session_id=record.session_id,
        context=to_struct(record.claims) if record.claims else None,
        made_at=_moment(record.made_ms),
        policy_digest=record.policy_digest,
    )
    message.decision.decision_id = record.decision_id
    message.decision.snapshot_age_seconds = record.age
    return message


def _moment(milliseconds: int) -> Timestamp:
    seconds, rest = divmod(milliseconds, 1000)
    return Timestamp(seconds=seconds, nanos=rest * _NANOSECONDS)
