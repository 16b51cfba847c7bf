"""Expected errors as an operator reads them: what, which fields, what to do; and the exit code."""

import sys
from typing import Final

from controlplane.cli.access_hints import refused_access, unreachable
from controlplane.cli.call import DEFAULT_NAMESPACE, Globals
from controlplane.cli.outcomes import REFUSED, UNREACHABLE, WRONG_USAGE, CommandFailed
from controlplane.cli.styles import Colour, coloured, printable
from controlplane.domain.errors import DomainError, InvalidArgument
from fleetplane import (
    DeadlineExceeded,
    FleetError,
    InternalError,
    PermissionDenied,
    Reason,
    RevisionConflict,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)


def report(error: Exception, call: Globals | None) -> int | None:
    """Write an expected error to stderr and return its exit code; None if it is a defect.

    Args:
        error: what ended the command.
        call: what held for it; None: it ended before that was known.
    """
    match error:
        case CommandFailed():
            write_failure(str(error), hint=error.hint)
            return error.code
        case ExceptionGroup():
            return _report_first(error, call)
        case FleetError() if call is not None:
            return _report_refusal(error, call)
        case InvalidArgument():
            fields = [(one.field, one.description) for one in error.violations]
            write_failure(error.message, fields)
            return WRONG_USAGE
        case DomainError():
            write_failure(error.message)
            return REFUSED
        case _:
            return None


def _report_first(errors: ExceptionGroup[Exception], call: Globals | None) -> int | None:
    """Report what ended a group of tasks; None if any of the errors is a defect."""
    expected = (CommandFailed, FleetError, DomainError, ExceptionGroup)
    if not all(isinstance(one, expected) for one in errors.exceptions):
        return None
    return report(errors.exceptions[0], call)


def _report_refusal(error: FleetError, call: Globals) -> int:
    fields = [(one.field, one.description) for one in error.violations]
    match error:
        case Unavailable() if error.reason is Reason.UNSPECIFIED:
            message, hint = unreachable(error.message, call)
            write_failure(message, hint=hint)
            return UNREACHABLE
        case Unavailable() if error.reason in _NOTHING_HAPPENED:
            write_failure(error.message, fields, hint="nothing was changed; try again in a moment")
            return UNREACHABLE
        case Unavailable() | DeadlineExceeded():
            write_failure(
                error.message, fields, hint="a write may have happened; the same command is safe"
            )
            return UNREACHABLE
        case _:
            write_failure(error.message, fields, hint=_hint(error, call))
            return REFUSED


_NOTHING_HAPPENED: Final = (Reason.NOT_READY, Reason.OVERLOADED, Reason.DRAINING)
"""Why a replica does not even begin."""

_READ_AGAIN: Final = "read it again and repeat the change"

_HINTS: Final = {
    Reason.AGENT_NOT_FOUND: "`fleetplane agents list` shows who is there",
    Reason.POLICY_CANDIDATE_NOT_FOUND: "`fleetplane policies candidates list` shows what is there",
    Reason.TOO_MANY_FLIPS: "`fleetplane policies simulate` shows them",
    Reason.POLICY_NOT_FOUND: "`fleetplane policies list` shows what is there",
    Reason.TASK_NOT_FOUND: "`fleetplane tasks list` shows what is there",
    Reason.ROLLOUT_NOT_FOUND: "`fleetplane rollout list` shows what there is",
    Reason.ROUTE_NOT_FOUND: "without a route every active version may take work",
    Reason.DRAIN_NOT_FOUND: "nothing is or was drained there",
    Reason.ROLLOUT_ACTIVE: "`fleetplane rollout status` shows it; abort it, or supersede it",
    Reason.ACTIVATION_PENDING: "`fleetplane approvals list` shows it to those who may approve it",
    Reason.REVISION_NOT_FOUND: "`fleetplane config history` shows the revisions of a layer",
    Reason.TOKEN_NOT_FOUND: (
        "`fleetplane tokens list` and `fleetplane tokens join list` show those of a namespace, "
        "`fleetplane tokens list --everywhere` the others"
    ),
    Reason.NO_CERTIFICATE_AUTHORITY: "`fleetplane serve --secure` brings one",
    Reason.RATE_LIMITED: "the daemon protects others from too many calls: try again a little later",
    Reason.OVERLOADED: "try again a little later",
}


def _hint(error: FleetError, call: Globals) -> str:
    match error:
        case RevisionConflict():
            current = error.metadata.get("current_revision", "")
            return f"{_READ_AGAIN}: it is at revision {current}" if current else _READ_AGAIN
        case Unauthenticated() | PermissionDenied():
            return refused_access(error, call)
        case Unimplemented():
            return "the daemon is older than this command line"
        case InternalError() if request := error.metadata.get("request_id", ""):
            return f"the daemon's log has the rest under {request}"
        case FleetError(reason=Reason.REVISION_NOT_FOUND) if (
            error.metadata.get("scope") == "policies"
        ):
            return "`fleetplane policies history` shows the revisions there are"
        case _:
            return _HINTS.get(error.reason) or _namespace_hint(error)


def _where_else(name: str) -> str:
    seen = "`fleetplane namespaces list` shows those that you may see, -n names one"
    if name == DEFAULT_NAMESPACE:  # it exists always
        return f"{seen}; an admin gives you a role in this one"
    return f"{seen}; an admin makes this one with `fleetplane namespaces create {name}`"


def _namespace_hint(error: FleetError) -> str:
    """Return what helps where a namespace is missing, in use, or full."""
    name = printable(error.metadata.get("namespace", "NAME"))
    match error.reason:
        case Reason.NAMESPACE_NOT_FOUND:
            return _where_else(name)
        case Reason.NAMESPACE_EXISTS:
            return f"`fleetplane namespaces update {name}` changes it"
        case Reason.NAMESPACE_NOT_EMPTY:
            return f"`fleetplane namespaces usage {name}` shows how much is in it"
        case Reason.NAMESPACE_TERMINATING:
            return f"`fleetplane namespaces get {name}` shows whether it still is"
        case Reason.QUOTA_EXCEEDED:
            return (
                f"`fleetplane namespaces usage {name}` shows what is used; an admin raises bounds "
                f"with `fleetplane namespaces update {name}`"
            )
        case _:
            return ""


def write_failure(
    message: str, fields: list[tuple[str, str]] | None = None, *, hint: str = ""
) -> None:
    """Write one error to stderr: a line, a line per wrong field, a line or more with what to do."""
    wrong = [f"{printable(name)}: {printable(what)}" for name, what in fields or ()]
    if len(wrong) == 1:
        text, details = wrong[0], []
    else:
        text = f"{len(wrong)} fields are wrong" if wrong else printable(message)
        details = [f"  {line}" for line in wrong]
    details += [f"  {coloured(line, Colour.FAINT, sys.stderr)}" for line in hint.splitlines()]
    title = coloured("Error:", Colour.BAD, sys.stderr)
    sys.stderr.write("\n".join([f"{title} {text}", *details]) + "\n")
