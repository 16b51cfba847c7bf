"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of a run."""

    rounds: int = 5
    """How often daemon and floor take turns."""
    seconds: float = 2.0
    """Length of one window."""
    quick: bool = False
    """A smoke: everything runs, small and short; the figures mean nothing."""

    def sized(self, full: int, quick: int) -> int:
        """Return a number of agents, streams or repetitions."""
        return quick if self.quick else full
