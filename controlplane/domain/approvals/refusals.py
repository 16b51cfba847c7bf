"""How approvals are refused. Part of the tree in `controlplane/domain/errors.py`."""

from collections.abc import Iterable

from controlplane.domain.access.refusals import Forbidden
from controlplane.domain.errors import AlreadyExists, FailedPrecondition, NotFound


class ApprovalNotFound(NotFound):
    """No such approval, or it ended longer ago than approvals are kept."""

    reason = "APPROVAL_NOT_FOUND"

    def __init__(self, approval_id: str) -> None:
        super().__init__(f"no approval {approval_id!r}", {"approval_id": approval_id})


class ApprovalNotOpen(FailedPrecondition):
    """The approval is not in a state that allows it."""

    reason = "APPROVAL_NOT_OPEN"

    def __init__(self, approval_id: str, state: str, why: str = "") -> None:
        super().__init__(
            f"approval {approval_id!r} is {state}{f': {why}' if why else ''}",
            {"approval_id": approval_id, "state": state},
        )


class AlreadyConsumed(FailedPrecondition):
    """The grant was used, by another `consume_id`."""

    reason = "ALREADY_CONSUMED"

    def __init__(self, approval_id: str) -> None:
        super().__init__(
            f"the grant of approval {approval_id!r} was used", {"approval_id": approval_id}
        )


class ApprovalExpired(FailedPrecondition):
    """The time to decide, or to use the grant, is over."""

    reason = "APPROVAL_EXPIRED"

    def __init__(self, approval_id: str) -> None:
        super().__init__(
            f"the time of approval {approval_id!r} is over", {"approval_id": approval_id}
        )


class DigestMismatch(FailedPrecondition):
    """The action is not the one that was approved."""

    reason = "DIGEST_MISMATCH"

    def __init__(self, approval_id: str, *, digest: str, approved: str, why: str = "") -> None:
        super().__init__(
            f"the action is not the one that approval {approval_id!r} is for"
            f"{f': {why}' if why else ''}",
            {"approval_id": approval_id, "digest": digest, "approved_digest": approved},
        )


class PolicyNowDenies(FailedPrecondition):
    """The policies of today refuse what was approved."""

    reason = "POLICY_NOW_DENIES"

    def __init__(self, approval_id: str, policies: Iterable[str]) -> None:
        named = ",".join(policies)
        who = named or "the default"
        super().__init__(
            f"policies refuse by now what approval {approval_id!r} is for: {who}",
            {"approval_id": approval_id, "policies": named},
        )


class ApprovalSuperseded(FailedPrecondition):
    """The policies of today ask for more than was given."""

    reason = "APPROVAL_SUPERSEDED"

    def __init__(self, approval_id: str) -> None:
        super().__init__(
            f"policies ask by now for more than approval {approval_id!r} says: ask again",
            {"approval_id": approval_id},
        )


class SelfApproval(Forbidden):
    """Nobody approves what it has asked for itself."""

    reason = "SELF_APPROVAL"

    def __init__(self, approval_id: str, who: str) -> None:
        super().__init__(f"{who} may not decide on its own request", {"approval_id": approval_id})


class NotEligible(Forbidden):
    """The caller is not among those who may decide now."""

    reason = "NOT_ELIGIBLE"

    def __init__(self, approval_id: str, who: str, stage: str, why: str = "") -> None:
        super().__init__(
            f"{who} may not decide in stage {stage!r}{f': {why}' if why else ''}",
            {"approval_id": approval_id, "stage": stage},
        )


class VoteConflict(AlreadyExists):
    """The caller has voted otherwise, and a vote stands."""

    reason = "VOTE_CONFLICT"

    def __init__(self, approval_id: str, who: str) -> None:
        super().__init__(
            f"{who} has voted otherwise on approval {approval_id!r}", {"approval_id": approval_id}
        )


class StandingGrantNotFound(NotFound):
    """No such standing grant."""

    reason = "STANDING_GRANT_NOT_FOUND"

    def __init__(self, grant_id: str) -> None:
        super().__init__(f"no standing grant {grant_id!r}", {"grant_id": grant_id})
