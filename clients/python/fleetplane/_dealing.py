"""Which variant a unit gets, computed here: the same answer as the daemon's, without asking it."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from fleetplane._experiment_spec import AssignmentReason, ExperimentUnit
from fleetplane._values import JsonValue, from_value
from fleetplane.v1 import experiment_service_pb2 as pb

BUCKETS: Final = 10_000
"""Basis points: into so many parts units are dealt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DealtVariant:
    """What a unit sees, and why."""

    experiment: str = ""
    """Key of the experiment; empty: none runs."""
    phase: int = 0
    """Its phase."""
    reason: AssignmentReason
    """Why."""
    variant: str = ""
    """What is to be used; empty: go on as if there were no experiment."""
    prompt_version: int = 0
    """Of a prompt."""
    config_value: JsonValue = None
    """Of a path of configuration."""
    digest: str = ""
    """Of the content of the variant."""
    unit: str = ""
    """Whom it was dealt to."""

    @property
    def in_experiment(self) -> bool:
        """Whether using it is an exposure that is to be recorded."""
        return self.reason is AssignmentReason.IN_EXPERIMENT


NOT_RUNNING: Final = DealtVariant(reason=AssignmentReason.NOT_RUNNING)
"""Where no experiment runs."""


def bucket(salt: str, unit: str) -> int:
    """Return the bucket of a unit, 0-9,999: see the vectors in the documentation."""
    return _bucket(salt.encode() + b"\x1f", unit)


def _bucket(prefix: bytes, unit: str) -> int:
    digest = sha256(prefix + unit.encode()).digest()
    return (int.from_bytes(digest[:8], "big") * BUCKETS) >> 64


class Dealer:
    """Deals the variants of one running experiment; takes some microseconds per unit."""

    def __init__(self, dealt: pb.DealtExperiment, agent_name: str) -> None:
        """Deal for an agent; without a name, what is for certain agents covers nobody."""
        self._key = dealt.key
        self._phase = dealt.phase
        self._coverage = dealt.coverage_bp
        self._agent_name = agent_name
        self._by_agent = ExperimentUnit(dealt.unit) is ExperimentUnit.AGENT
        self._for_others = bool(dealt.agents) and not agent_name
        salt = f"exp:{dealt.key}:{dealt.phase}".encode()
        self._inclusion = salt + b":in\x1f"
        self._variant = salt + b":var\x1f"
        self._ends: list[tuple[int, pb.Variant, JsonValue]] = []
        end = 0
        for variant in dealt.variants:
            end += variant.weight_bp
            value = from_value(variant.config_value)
            self._ends.append((end, variant, value))
        self._control = next(one for one in self._ends if one[1].control)

    @property
    def key(self) -> str:
        """Key of the experiment."""
        return self._key

    def deal(self, unit: str) -> DealtVariant:
        """Return what a session sees; an experiment dealt by agent does not look at it."""
        dealt = self._agent_name if self._by_agent else unit
        if self._for_others:
            return self._none(dealt)
        if not dealt:
            return self._answer(AssignmentReason.NO_UNIT, dealt, self._control)
        if _bucket(self._inclusion, dealt) >= self._coverage:
            return self._none(dealt)
        place = _bucket(self._variant, dealt)
        for one in self._ends:
            if place < one[0]:
                return self._answer(AssignmentReason.IN_EXPERIMENT, dealt, one)
        return self._none(dealt)  # not reached: weights sum to 10,000

    def _none(self, unit: str) -> DealtVariant:
        return DealtVariant(
            experiment=self._key,
            phase=self._phase,
            reason=AssignmentReason.NOT_COVERED,
            unit=unit,
        )

    def _answer(
        self, reason: AssignmentReason, unit: str, one: tuple[int, pb.Variant, JsonValue]
    ) -> DealtVariant:
        _, variant, value = one
        return DealtVariant(
            experiment=self._key,
            phase=self._phase,
            reason=reason,
            variant=variant.name,
            prompt_version=variant.prompt_version,
            config_value=value,
            digest=variant.digest,
            unit=unit,
        )
