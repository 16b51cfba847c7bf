"""The audit between the wire and the domain."""

import re
from types import MappingProxyType
from typing import Final

from controlplane.api.convert.values import ms_to_timestamp, timestamp_to_ms
from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.audit.filters import EventFilter
from controlplane.domain.audit.keeping import AuditNote, Checkpoint
from controlplane.domain.audit.verification import Problem, ProblemKind
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.services.audit.events import AuditEvent, EventQuery
from controlplane.services.audit.keeping import AuditStatus
from controlplane.services.audit.verifying import VerificationResult
from fleetplane.v1 import audit_service_pb2 as pb

MAX_FILTER_BYTES: Final = 256
"""Of one field of a filter, as of all names."""

MAX_SEQUENCE: Final = 2**53
"""No audit gets there; numbers of stores are exact below."""

LAST_MS: Final = 253_402_300_799_000
"""The last second of a Timestamp; whoever damages an entry may have written a later one."""

_HEAD: Final = re.compile(r"[0-9a-f]{64}")

_KINDS: Final = MappingProxyType(
    {
        ProblemKind.ENTRY_ALTERED: pb.AUDIT_PROBLEM_KIND_ENTRY_ALTERED,
        ProblemKind.ENTRY_MISSING: pb.AUDIT_PROBLEM_KIND_ENTRY_MISSING,
        ProblemKind.SEAL_ALTERED: pb.AUDIT_PROBLEM_KIND_SEAL_ALTERED,
        ProblemKind.SEAL_MISSING: pb.AUDIT_PROBLEM_KIND_SEAL_MISSING,
        ProblemKind.HEAD_DIFFERS: pb.AUDIT_PROBLEM_KIND_HEAD_DIFFERS,
        ProblemKind.UNKNOWN_KEY: pb.AUDIT_PROBLEM_KIND_UNKNOWN_KEY,
        ProblemKind.TRIM_UNPROVEN: pb.AUDIT_PROBLEM_KIND_TRIM_UNPROVEN,
    }
)


def audited_from_proto(text: str) -> str:
    """Return the namespace whose audit is meant; `@system` is what belongs to none.

    Raises:
        InvalidArgument: field `namespace`.
    """
    return SYSTEM_NAMESPACE if text == SYSTEM_NAMESPACE else namespace_of(text)


def filter_from_proto(message: pb.AuditFilter) -> EventFilter:
    """Return a filter.

    Raises:
        InvalidArgument: a field of `filter` is too long.
    """
    for field in ("actor", "method", "object_prefix", "event"):
        if len(getattr(message, field).encode()) > MAX_FILTER_BYTES:
            raise InvalidArgument.of(f"filter.{field}", f"is longer than {MAX_FILTER_BYTES} bytes")
    return EventFilter(
        actor=message.actor,
        method=message.method,
        object_prefix=message.object_prefix,
        event=message.event,
    )


def query_from_proto(request: pb.ListEventsRequest) -> EventQuery:
    """Return what a list asks for.

    Raises:
        InvalidArgument: a field of it is wrong.
    """
    # Nothing is older than 1970; a bound there still is one.
    since = timestamp_to_ms(request.since, "since") if request.HasField("since") else 0
    until = max(timestamp_to_ms(request.until, "until"), 1) if request.HasField("until") else 0
    return EventQuery(
        filter=filter_from_proto(request.filter),
        after=sequence_from_proto(request.after_sequence, "after_sequence"),
        before=sequence_from_proto(request.before_sequence, "before_sequence"),
        since_ms=max(since, 0),
        until_ms=until,
        oldest_first=request.oldest_first,
    )


def sequence_from_proto(value: int, field: str) -> int:
    """Return a sequence.

    Raises:
        InvalidArgument: `field` is one that no entry has.
    """
    if value > MAX_SEQUENCE:
        raise InvalidArgument.of(field, f"must not be above {MAX_SEQUENCE}")
    return value


def checkpoint_from_proto(
    message: pb.AuditCheckpoint, field: str, *, anywhere: bool = False
) -> Checkpoint:
    """Return a checkpoint; with `anywhere` its sequence may be 0.

    Raises:
        InvalidArgument: a part of `field` is wrong.
    """
    sequence = sequence_from_proto(message.sequence, f"{field}.sequence")
    if not sequence and not anywhere:
        raise InvalidArgument.of(f"{field}.sequence", "is required")
    head = message.head.lower()
    if _HEAD.fullmatch(head) is None:
        raise InvalidArgument.of(f"{field}.head", "must be 64 hexadecimal digits")
    return Checkpoint(sequence=sequence, head=head)


def checkpoint_to_proto(checkpoint: Checkpoint) -> pb.AuditCheckpoint:
    """Return a checkpoint as a message."""
    return pb.AuditCheckpoint(sequence=checkpoint.sequence, head=checkpoint.head)


def event_to_proto(event: AuditEvent) -> pb.AuditEvent:
    """Return an entry as a message."""
    time = ms_to_timestamp(min(event.at_ms, LAST_MS))
    message = pb.AuditEvent(sequence=event.sequence, time=time)
    entry = event.entry
    if entry is None:
        message.damaged = True
        return message
    message.actor = entry.actor
    message.caller_kind = entry.caller_kind
    message.address = entry.address
    message.method = entry.method
    message.object = entry.object
    message.event = entry.event
    message.reason = entry.reason
    message.request_id = entry.request_id
    message.details.update(entry.details)
    return message


def status_to_proto(
    status: AuditStatus, *, key_id: str, retention_days: int
) -> pb.GetAuditStatusResponse:
    """Return how far an audit reaches as a message."""
    return pb.GetAuditStatusResponse(
        first_sequence=status.first,
        last_sequence=status.last,
        sealed=None if status.sealed is None else checkpoint_to_proto(status.sealed),
        key_id=key_id,
        retention_days=retention_days,
        exports=map(_note_to_proto, status.keeping.exports),
        trims=map(_note_to_proto, status.keeping.trims),
    )


def result_to_proto(result: VerificationResult) -> pb.AuditVerification:
    """Return what came out of a verification as a message."""
    return pb.AuditVerification(
        verified=checkpoint_to_proto(result.verified),
        problem=None if result.problem is None else _problem_to_proto(result.problem),
        unsealed=result.unsealed,
        keyless_through=result.keyless_through,
        first_sequence=result.first,
    )


def _note_to_proto(note: AuditNote) -> pb.AuditNote:
    return pb.AuditNote(
        checkpoint=checkpoint_to_proto(note.checkpoint),
        time=ms_to_timestamp(note.at_ms),
        actor=note.actor,
    )


def _problem_to_proto(problem: Problem) -> pb.AuditProblem:
    return pb.AuditProblem(
        kind=_KINDS[problem.kind], sequence=problem.sequence, detail=problem.detail
    )
