"""One question to the machine, with the answers that every phase may give."""

from dataclasses import dataclass
from typing import Final

from controlplane.domain.rollouts import transitions
from controlplane.domain.rollouts.deadlines import phase_deadline_ms
from controlplane.domain.rollouts.model import PauseReason, Rollout
from controlplane.domain.rollouts.observed import Observed
from controlplane.domain.rollouts.transitions import Transition

REPEAT_HOLD_MS: Final = 10_000
"""Time between two messages that say the same with other numbers."""

MASS_SILENCE: Final = "MASS_SILENCE"

STOPPED_BY_OPERATOR: Final = "the new version was stopped by an operator"


@dataclass(frozen=True, slots=True)
class Case:
    """One question to the machine."""

    rollout: Rollout
    seen: Observed
    now_ms: int

    @property
    def is_late(self) -> bool:
        """Whether the deadline of the phase has passed."""
        return self.now_ms >= phase_deadline_ms(self.rollout)

    def hold(self, message: str) -> Transition | None:
        """Say what it waits for, unless it says so already."""
        rollout = self.rollout
        if rollout.message == message:
            return None
        same = rollout.message.partition(":")[0] == message.partition(":")[0]
        if same and self.now_ms - rollout.updated_at_ms < REPEAT_HOLD_MS:
            return None
        return transitions.hold(rollout, message)

    def frozen(self) -> bool:
        """Whether nothing may move: an operator's word still does."""
        return self.seen.mass_silence and not self.rollout.promote_requested

    def hold_frozen(self) -> Transition | None:
        """Say why nothing moves."""
        return self.hold(f"{MASS_SILENCE}: most of the fleet is silent, nothing moves")

    def abort(self, message: str, *, hard: bool) -> Transition:
        """Roll back; see `transitions.abort`."""
        return transitions.abort(self.rollout, self.now_ms, message, hard=hard)

    def pause(self, reason: PauseReason, message: str) -> Transition:
        """Wait for an operator, because the plane says so."""
        return transitions.pause(self.rollout, reason, self.now_ms, message=message)
