"""Adding lines to the record of an approval: each holds the digest of the one before."""

from dataclasses import replace

from controlplane.domain.approvals.digest import chained
from controlplane.domain.approvals.model import MAX_ENTRIES, Approval, Entry, EntryKind
from controlplane.domain.errors import LimitExceeded


def noted(
    approval: Approval,
    kind: EntryKind,
    *,
    by: str,
    at_ms: int,
    stage: str = "",
    comment: str = "",
    id: str = "",  # noqa: A002 - the name of the field
    delegate: str = "",
    until_ms: int = 0,
    subjects: tuple[str, ...] = (),
    person: str = "",
) -> Approval:
    """Return an approval with one more line."""
    entry = Entry(
        sequence=len(approval.entries) + 1,
        kind=kind,
        by=by,
        at_ms=at_ms,
        stage=stage,
        comment=comment,
        id=id,
        delegate=delegate,
        until_ms=until_ms,
        subjects=subjects,
        person=person,
    )
    before = approval.entries[-1].digest if approval.entries else approval.digest
    entry = replace(entry, digest=chained(entry, before))
    return replace(approval, entries=(*approval.entries, entry))


def require_room(approval: Approval, *, spare: int = 0) -> None:
    """Check that people may add a line. What the plane notes itself always has room.

    Raises:
        LimitExceeded: there are `MAX_ENTRIES`, less the `spare` ones that are kept for others.
    """
    limit = MAX_ENTRIES - spare
    if len(approval.entries) >= limit:
        raise LimitExceeded("entries of one approval", limit=limit)
