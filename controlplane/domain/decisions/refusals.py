"""How callers are refused who ask for a decision that nobody knows."""

from controlplane.domain.errors import NotFound


class DecisionNotFound(NotFound):
    """No such decision, or it was made longer ago than decisions are kept."""

    reason = "DECISION_NOT_FOUND"

    def __init__(self, decision_id: str) -> None:
        super().__init__(f"no decision {decision_id!r} is recorded", {"decision_id": decision_id})
