"""What is counted of a phase, under which names: sums that a commit adds to, read by the analysis.

Recording a unit and counting it are one commit, so the counters are exact whoever crashes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.experiments.model import Exclusion, Experiment, Exposure, Outcome, Phase
from controlplane.domain.experiments.statistics import Sums

Deltas = dict[str, int]
"""counter -> what is added to it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is counted of one variant."""

    variant: str
    exposed: int = 0
    """Units that count."""
    metrics: Mapping[str, Sums]
    """name -> sums; of every metric of the experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCounts:
    """What is counted of one phase."""

    phase: int
    arms: tuple[Arm, ...]
    """In the order of the variants."""
    conflicting: int = 0
    """Units taken out: seen with another variant or other content than their own."""
    earlier: int = 0
    """Units left out: exposed in an earlier phase."""
    clashes: Mapping[Exclusion, int]
    """`conflicting`, by why."""

    @property
    def exposed(self) -> int:
        """Return how many units count."""
        return sum(arm.exposed for arm in self.arms)

    @property
    def recorded(self) -> int:
        """Return how many units have a record, those that do not count among them.

        At `max_units` of them no more are recorded, so no more will ever count.
        """
        return self.exposed + self.conflicting + self.earlier


class Counters:
    """The names of the counters of one phase."""

    def __init__(self, key: str, phase: int) -> None:
        self._prefix = f"experiments/{key}/{phase}"

    @property
    def moves(self) -> str:
        """Return the counter of commits: while it stands still, so do all others."""
        return f"{self._prefix}/moves"

    def exposed(self, variant: str) -> str:
        """Return the counter of units of a variant that count."""
        return f"{self._prefix}/exposed/{variant}"

    def excluded(self, why: Exclusion) -> str:
        """Return the counter of units that do not count."""
        return f"{self._prefix}/excluded/{why}"

    def sums(self, variant: str, metric: str) -> tuple[str, str, str, str]:
        """Return the counters of a metric: outcomes, their sum, their squares, how many clamped."""
        stem = f"{self._prefix}/{variant}/{metric}"
        return f"{stem}/n", f"{stem}/sum", f"{stem}/squares", f"{stem}/clamped"

    def names(self, experiment: Experiment, phase: Phase) -> Iterator[str]:
        """Yield every counter of the phase but `moves`, in the order `read` takes them."""
        for variant in phase.variants:
            yield self.exposed(variant.name)
            for metric in experiment.metrics:
                yield from self.sums(variant.name, metric.name)
        for why in _EXCLUSIONS:
            yield self.excluded(why)

    def read(self, experiment: Experiment, phase: Phase, values: Sequence[int]) -> PhaseCounts:
        """Return the counters by their values, in the order of `names`."""
        rest = iter(values)
        arms = tuple(
            Arm(
                variant=variant.name,
                exposed=next(rest),
                metrics={
                    metric.name: Sums(
                        count=next(rest), total=next(rest), squares=next(rest), clamped=next(rest)
                    )
                    for metric in experiment.metrics
                },
            )
            for variant in phase.variants
        )
        excluded: dict[Exclusion, int] = {why: next(rest) for why in _EXCLUSIONS}
        earlier = excluded.pop(Exclusion.EARLIER_PHASE)
        return PhaseCounts(
            phase=phase.number,
            arms=arms,
            conflicting=sum(excluded.values()),
            earlier=earlier,
            clashes=excluded,
        )

    def add_unit(self, deltas: Deltas, exposure: Exposure) -> None:
        """Count a unit that was exposed."""
        if exposure.excluded:
            _add(deltas, self.excluded(exposure.excluded), 1)
        else:
            _add(deltas, self.exposed(exposure.variant), 1)

    def take_out(self, deltas: Deltas, counted: Exposure, why: Exclusion) -> None:
        """Take a unit that counted back, with all that came of it."""
        _add(deltas, self.exposed(counted.variant), -1)
        _add(deltas, self.excluded(why), 1)
        for outcome in counted.outcomes:
            self.add_outcome(deltas, counted.variant, outcome, sign=-1)

    def add_outcome(self, deltas: Deltas, variant: str, outcome: Outcome, *, sign: int = 1) -> None:
        """Count an outcome, or (`sign` -1) take it back."""
        value = outcome.value
        parts = (1, value, value * value, int(outcome.clamped))
        for name, part in zip(self.sums(variant, outcome.metric), parts, strict=True):
            _add(deltas, name, sign * part)


_EXCLUSIONS: tuple[Exclusion, ...] = tuple(why for why in Exclusion if why is not Exclusion.NONE)


def _add(deltas: Deltas, counter: str, delta: int) -> None:
    total = deltas.get(counter, 0) + delta
    if total:
        deltas[counter] = total
    else:
        deltas.pop(counter, None)
