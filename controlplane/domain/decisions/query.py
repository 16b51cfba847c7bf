"""What one looks for among recorded decisions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policies import Decision, DecisionReason, Effect
from fleetplane_policy.attributes import DEFAULT_DELIMITERS
from fleetplane_policy.globs import compile_glob

FOREVER_MS: Final = 1 << 53
"""After any decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionQuery:
    """All of it must hold; what is empty holds always.

    Made at `from_ms` or later and before `to_ms`. `action` is a glob, as in the targets of
    policies. `policy_id`: the policy decided, lost, was observed or could not be determined.
    """

    from_ms: int = 0
    to_ms: int = FOREVER_MS
    agent_id: str = ""
    agent_name: str = ""
    action: str = ""
    tool: str = ""
    session_id: str = ""
    effects: frozenset[Effect] = frozenset()
    reasons: frozenset[DecisionReason] = frozenset()
    policy_id: str = ""

    def require_valid(self) -> None:
        """Refuse a glob or a time that cannot be meant.

        Raises:
            InvalidArgument: naming the field.
        """
        if self.from_ms >= self.to_ms:
            raise InvalidArgument(FieldViolation("to", "must be after `from`"))
        if self.action:
            try:
                compile_glob(self.action, DEFAULT_DELIMITERS)
            except ValueError as error:
                raise InvalidArgument(FieldViolation("action", str(error))) from None

    def action_test(self) -> Callable[[str], bool] | None:
        """Return the test of actions; None: all are meant."""
        return compile_glob(self.action, DEFAULT_DELIMITERS) if self.action else None

    def wants(self, decision: Decision) -> bool:
        """Return whether the answer is one of those that are looked for."""
        if self.effects and decision.effect not in self.effects:
            return False
        if self.reasons and decision.reason not in self.reasons:
            return False
        return not self.policy_id or self.policy_id in involved(decision)


def involved(decision: Decision) -> frozenset[str]:
    """Return the policies that a decision names."""
    return frozenset(
        (
            *decision.determining,
            *decision.overridden,
            *decision.indeterminate,
            *(observation.policy_id for observation in decision.observations),
        )
    )
