"""When too many fall silent at once, the fault is probably ours: expire slowly, then not at all.

The same rule watches a namespace and each of its zones (the agents' tag `zone`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.liveness import LivenessSettings

ZONE_TAG: Final = "zone"
"""Tag that says which instances share a fate, such as a data centre."""


class MassState(StrEnum):
    """How far expiry is held back."""

    CALM = "CALM"
    """Not at all."""
    SLOWED = "SLOWED"
    """Most are silent: a fraction of the rate."""
    STOPPED = "STOPPED"
    """All are silent: nobody expires. The alarm is on."""
    RECOVERING = "RECOVERING"
    """They come back: nobody expires until everybody had the time to beat."""


@dataclass(slots=True)
class MassExpiry:
    """The state machine of one namespace or zone.

    A threshold is entered when the share of silent instances reaches it and left when the share is
    `mass_hysteresis` below it, so that a share that trembles does not switch back and forth.
    """

    settings: LivenessSettings
    state: MassState = MassState.CALM
    alarms: int = 0
    """How often it came to a stop."""
    _recovered_at: float = 0.0

    def observe(self, *, silent: int, total: int, now: float) -> MassState:
        """Take a census (`silent` of `total`, at monotonic second `now`); return the new state."""
        share = silent / total if total >= self.settings.mass_minimum else 0.0
        if share >= self._threshold(self.settings.mass_stop_share, MassState.STOPPED):
            if self.state is not MassState.STOPPED:
                self.alarms += 1
            self.state = MassState.STOPPED
        elif self.state is MassState.STOPPED:
            self.state = MassState.RECOVERING
            self._recovered_at = now + self.settings.grace_ms / 1000
        elif self.state is not MassState.RECOVERING or now >= self._recovered_at:
            slowed = share >= self._threshold(self.settings.mass_slow_share, MassState.SLOWED)
            self.state = MassState.SLOWED if slowed else MassState.CALM
        return self.state

    def _threshold(self, share: float, state: MassState) -> float:
        return share - self.settings.mass_hysteresis if self.state is state else share

    def rate(self, total: int) -> float:
        """Return how many of `total` instances may expire per second now."""
        settings = self.settings
        match self.state:
            case MassState.CALM:
                return settings.sweep_rate
            case MassState.SLOWED:
                share = max(1.0, settings.slowed_share * total)
                return min(settings.sweep_rate * settings.slowed_factor, share)
            case MassState.STOPPED | MassState.RECOVERING:
                return 0.0


@dataclass(slots=True)
class Allowance:
    """A token bucket whose rate may change: at most one second of it is saved up."""

    _tokens: float = 0.0
    _at: float | None = None

    def refill(self, *, rate: float, now: float) -> int:
        """Add what the time since the last call is worth; return how many may be taken."""
        earned = rate if self._at is None else (now - self._at) * rate
        self._tokens = min(self._tokens + earned, max(rate, 0.0))
        self._at = now
        return int(self._tokens)

    def take(self, count: int) -> None:
        """Spend tokens."""
        self._tokens -= count
