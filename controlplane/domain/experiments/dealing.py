"""Which unit sees what: the same answer in every process, in every language, at any time.

Whether a unit is covered and which variant it has are two hashes with two salts, so a small
coverage still reaches every variant in its proportion. A unit is covered if its first hash is below
the coverage: growing coverage adds units and takes none away. The second hash falls into one of the
ranges that the weights cut, which do not depend on the coverage: it never moves a unit.
"""

from dataclasses import dataclass
from typing import Final

from controlplane.domain.access.name_patterns import matches_name
from controlplane.domain.experiments.model import (
    AssignmentReason,
    Experiment,
    Phase,
    UnitKind,
    Variant,
)
from controlplane.domain.routes import bucket

INCLUSION: Final = "in"
VARIANT: Final = "var"
"""What the two salts of a phase end with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a unit sees, and why.

    Attributes:
        experiment: Key of the experiment.
        phase: Number of its phase; 0: it was never started.
        reason: Why.
        variant: What is to be used; None: go on as if there were no experiment.
        unit: Whom it was dealt to; empty: nobody (NO_UNIT).
    """

    experiment: str
    phase: int
    reason: AssignmentReason
    variant: Variant | None = None
    unit: str = ""

    @property
    def in_experiment(self) -> bool:
        """Whether using it is an exposure that is to be recorded."""
        return self.reason is AssignmentReason.IN_EXPERIMENT


def salt_of(key: str, phase: int, purpose: str) -> str:
    """Return a salt of a phase: `exp:<key>:<phase>:in` or `...:var`."""
    return f"exp:{key}:{phase}:{purpose}"


def own_variant(key: str, phase: Phase, unit: str) -> Variant | None:
    """Return the variant of a unit; None if the phase does not cover it."""
    if bucket(salt_of(key, phase.number, INCLUSION), unit) >= phase.coverage_bp:
        return None
    place = bucket(salt_of(key, phase.number, VARIANT), unit)
    end = 0
    for variant in phase.variants:
        end += variant.weight_bp
        if place < end:
            return variant
    return phase.variants[-1]  # not reached: weights sum to 10,000, and buckets are below


def is_for(experiment: Experiment, agent_name: str) -> bool:
    """Return whether an experiment is for an agent; one without a name is nobody it excludes."""
    patterns = experiment.agents
    return not patterns or any(matches_name(pattern, agent_name) for pattern in patterns)


def deal(experiment: Experiment, *, agent_name: str, unit: str) -> Assignment:
    """Return what a unit sees.

    Args:
        experiment: Which.
        agent_name: Who asks; may be empty unless the experiment is for certain agents, or dealt by
            agent.
        unit: The session; not looked at if the experiment is dealt by agent.
    """
    phase = experiment.phase
    number = phase.number if phase is not None else 0
    dealt = agent_name if experiment.unit is UnitKind.AGENT else unit

    def answer(reason: AssignmentReason, variant: Variant | None = None) -> Assignment:
        return Assignment(
            experiment=experiment.key, phase=number, reason=reason, variant=variant, unit=dealt
        )

    if phase is None or not experiment.running:
        return answer(AssignmentReason.NOT_RUNNING)
    if not is_for(experiment, agent_name):
        return answer(AssignmentReason.NOT_COVERED)
    if not dealt:
        return answer(AssignmentReason.NO_UNIT, phase.control)
    variant = own_variant(experiment.key, phase, dealt)
    if variant is None:
        return answer(AssignmentReason.NOT_COVERED)
    return answer(AssignmentReason.IN_EXPERIMENT, variant)
