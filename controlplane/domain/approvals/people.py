"""Who is meant by a list of subjects, and who owns an agent."""

from collections.abc import Iterable

from controlplane.domain.access.subjects import GROUP, USER, matches
from controlplane.domain.approvals.model import ANY_APPROVER


def is_among(
    eligible: Iterable[str], name: str, subjects: Iterable[str], *, may_approve: bool
) -> bool:
    """Return whether somebody is meant by one of some subjects, or patterns of them."""
    own = {name, *subjects}
    for wanted in eligible:
        if wanted == ANY_APPROVER:
            if may_approve:
                return True
        elif wanted in own or any(matches(wanted, subject) for subject in own):
            return True
    return False


def is_owner(owner: str, name: str, subjects: Iterable[str]) -> bool:
    """Return whether somebody is, or belongs to, the owner of an agent.

    Owners are registered in words of their own: as a subject, or as the name of a user or group.
    """
    return bool(owner) and not {owner, USER + owner, GROUP + owner}.isdisjoint({name, *subjects})
