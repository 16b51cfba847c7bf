"""How calls about the audit are refused. Part of the tree in `controlplane/domain/errors.py`."""

from controlplane.domain.errors import DomainError, FailedPrecondition


class OutOfRange(DomainError):
    """What is asked for lies before the beginning of what there is."""


class AuditTrimmed(OutOfRange):
    """The audit before some sequence was exported and trimmed."""

    reason = "AUDIT_TRIMMED"

    def __init__(self, first_sequence: int) -> None:
        super().__init__(
            f"the audit begins with entry {first_sequence}: what was before is trimmed",
            {"first_sequence": str(first_sequence)},
        )


class AuditNotExported(FailedPrecondition):
    """What is not sealed, or whose checkpoint is not presented, is not trimmed."""

    reason = "AUDIT_NOT_EXPORTED"

    def __init__(self, why: str, *, sealed_through: int) -> None:
        super().__init__(why, {"sealed_through": str(sealed_through)})
