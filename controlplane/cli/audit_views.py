"""The audit as lines and tables."""

from typing import Any, Final

from controlplane.cli.audit_files import FileResult
from controlplane.cli.moments import moment
from controlplane.cli.rendering import fields
from controlplane.cli.styles import Colour, coloured, printable
from fleetplane import AuditProblemKind
from fleetplane.v1 import audit_service_pb2 as pb

_WORD: Final = "VALID"


def event_line(event: pb.AuditEvent) -> str:
    """Return one entry on one line."""
    head = f"{event.sequence:>7}  {moment(event.time)}"
    if event.damaged:
        return f"{head}  {coloured('the stored entry is damaged', Colour.BAD)}"
    what = event.event or event.method
    parts = [
        head,
        printable(event.actor),
        coloured(printable(what), Colour.STRONG),
        printable(event.object),
    ]
    details = "  ".join(f"{name}={value}" for name, value in sorted(event.details.items()))
    if details:
        parts.append(coloured(printable(details), Colour.FAINT))
    if event.reason:
        parts.append(printable(f"({event.reason})"))
    return "  ".join(parts)


def status_view(status: pb.GetAuditStatusResponse) -> str:
    """Lay out how far an audit reaches."""
    keeps = f"{status.retention_days} days, and until exported" if status.retention_days else ""
    exported = status.exports[-1] if status.exports else None
    trimmed = status.trims[-1] if status.trims else None
    return fields(
        {
            "Entries": f"{status.first_sequence} - {status.last_sequence}",
            "Sealed": checkpoint_text(status.sealed) if status.sealed.head else "nothing yet",
            "Key": status.key_id or "none: remember a head elsewhere",
            "Kept": keeps or "for ever",
            "Exported": "" if exported is None else _note(exported),
            "Trimmed": "" if trimmed is None else _note(trimmed),
        }
    )


def checkpoint_text(checkpoint: pb.AuditCheckpoint) -> str:
    """Return a checkpoint as `verify --expect-head` takes it."""
    return f"{checkpoint.sequence}:{checkpoint.head}"


def verification_of(result: FileResult) -> pb.AuditVerification:
    """Return what came out of the verification of a file as the daemon would say it."""
    said = pb.AuditVerification(
        verified=pb.AuditCheckpoint(sequence=result.verified.sequence, head=result.verified.head),
        unsealed=result.unsealed,
        keyless_through=result.keyless_through,
        first_sequence=result.first,
    )
    if result.problem is not None:
        kind: Any = AuditProblemKind[result.problem.kind.name].value
        said.problem.CopyFrom(
            pb.AuditProblem(
                kind=kind, sequence=result.problem.sequence, detail=result.problem.detail
            )
        )
    return said


def verification_view(result: pb.AuditVerification) -> str:
    """Lay out what came out of a verification without a problem."""
    if result.verified.sequence >= result.first_sequence:
        proven = f"entries {result.first_sequence} - {result.verified.sequence} are as they were"
    else:
        proven = "nothing is sealed yet"
    return fields(
        {
            "Audit": f"{_WORD}: {proven}",
            "Checkpoint": checkpoint_text(result.verified),
            "Not sealed": f"{result.unsealed} entries at the end" if result.unsealed else "",
            "Without a key": f"through entry {result.keyless_through}"
            if result.keyless_through
            else "",
        }
    )


def problem_text(problem: pb.AuditProblem) -> str:
    """Return what is wrong, in a sentence."""
    kind = AuditProblemKind(problem.kind).name.lower().replace("_", " ")
    return f"the audit is not as it was from entry {problem.sequence} on: {kind}: {problem.detail}"


def _note(note: pb.AuditNote) -> str:
    return f"through {note.checkpoint.sequence}, {moment(note.time)}, by {note.actor}"
