"""An experiment as Python says it, and the enums of the contract in short."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from fleetplane._enums import OpenEnum
from fleetplane._values import JsonValue, to_duration, to_struct
from fleetplane.v1 import experiment_service_pb2 as pb


class ExperimentState(OpenEnum):
    """Where an experiment stands."""

    UNSPECIFIED = 0
    """Not a state."""
    DRAFT = 1
    """Planned."""
    RUNNING = 2
    """Units are dealt variants."""
    STOPPED = 3
    """Ended."""


class ExperimentUnit(OpenEnum):
    """Whom a variant is dealt to."""

    UNSPECIFIED = 0
    """Same as SESSION."""
    SESSION = 1
    """A session, by its id."""
    AGENT = 2
    """An agent, by its name."""


class AssignmentReason(OpenEnum):
    """Why a unit sees what it sees."""

    UNSPECIFIED = 0
    """Never sent."""
    IN_EXPERIMENT = 1
    """It takes part."""
    NOT_COVERED = 2
    """It sees what it would without the experiment."""
    NO_UNIT = 3
    """No unit was named: the control variant, which counts for nothing."""
    EXCLUDED = 4
    """It sees its variant and counts for nothing."""
    NOT_RUNNING = 5
    """No experiment runs."""


class ExperimentVerdict(OpenEnum):
    """What the outcomes say."""

    UNSPECIFIED = 0
    """Nothing yet."""
    CONTINUE = 1
    """Not enough is known."""
    SHIP = 2
    """A variant is better, and harms no guardrail."""
    ROLLBACK = 3
    """Every variant is worse, or one harms a guardrail."""
    KEEP_CONTROL = 4
    """Time or units are used up without a winner."""
    HOLD = 5
    """Something is wrong with how units are dealt or served."""


class MetricKind(OpenEnum):
    """What an outcome is."""

    UNSPECIFIED = 0
    """Same as BINARY."""
    BINARY = 1
    """0 or 1."""
    NUMERIC = 2
    """A number within a range."""


class MetricDirection(OpenEnum):
    """Which way a metric is better."""

    UNSPECIFIED = 0
    """Same as HIGHER."""
    HIGHER = 1
    """More is better."""
    LOWER = 2
    """Less is better."""


class MetricStanding(OpenEnum):
    """How a metric of a variant compares with the control."""

    UNSPECIFIED = 0
    """Never sent."""
    UNCERTAIN = 1
    """Not known yet."""
    BETTER = 2
    """Primary: better."""
    WORSE = 3
    """Primary: worse by more than the margin."""
    SAFE = 4
    """Guardrail: not worse by more than the margin."""
    LOSING = 5
    """Guardrail: worse, not surely by more than the margin."""
    HARMED = 6
    """Guardrail: worse by more than the margin."""


class RecordingState(OpenEnum):
    """What became of an exposure or outcome."""

    UNSPECIFIED = 0
    """It was refused."""
    RECORDED = 1
    """It counts."""
    DUPLICATE = 2
    """It was known."""
    EXCLUDED = 3
    """The unit counts for nothing."""
    IGNORED = 4
    """It is about an earlier phase, or the phase is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to do it."""

    name: str
    """1-63 of [a-z0-9._-], unique in the experiment."""
    weight_bp: int
    """Its share in basis points, 1-10,000; all sum to exactly 10,000."""
    control: bool = False
    """What the others are compared with; exactly one."""
    prompt_version: int = 0
    """Of a prompt."""
    config_value: JsonValue = None
    """Of a path of configuration."""

    def to_message(self, *, of_prompt: bool) -> pb.Variant:
        """Return the variant as it travels."""
        held = None if of_prompt else to_struct({"value": self.config_value}).fields["value"]
        return pb.Variant(
            name=self.name,
            weight_bp=self.weight_bp,
            control=self.control,
            prompt_version=self.prompt_version,
            config_value=held,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured, per unit."""

    name: str
    """1-63 of [a-z0-9._-], unique in the experiment."""
    kind: MetricKind = MetricKind.BINARY
    """0 or 1, or a number."""
    min: float = 0.0
    """NUMERIC: least value."""
    max: float = 0.0
    """NUMERIC: largest value; beyond the range an outcome counts as the nearer bound."""
    direction: MetricDirection = MetricDirection.HIGHER
    """Which way is better."""
    margin: float = 0.0
    """How much worse does not matter, in the unit of the metric."""
    non_inferiority: bool = False
    """Primary only: what is not worse by more than the margin is good enough."""

    def to_message(self) -> pb.ExperimentMetric:
        """Return the metric as it travels."""
        return pb.ExperimentMetric(
            name=self.name,
            kind=pb.ExperimentMetric.Kind.ValueType(self.kind),
            min=self.min,
            max=self.max,
            direction=pb.ExperimentMetric.Direction.ValueType(self.direction),
            margin=self.margin,
            non_inferiority=self.non_inferiority,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSpec:
    """What an experiment asks for. None: the daemon's default.

    One of `prompt` and `config_path` says what is varied.
    """

    prompt: str = ""
    """A prompt, by name."""
    config_path: str = ""
    """A path of the configuration, such as `temperature`."""
    variants: Sequence[Variant]
    """2-10 variants."""
    primary: Metric
    """What decides."""
    guardrails: Sequence[Metric] = ()
    """What must not get worse; at most 10."""
    hypothesis: str = ""
    """What is expected to happen, and why."""
    description: str = ""
    """Anything else."""
    coverage_bp: int | None = None
    """Share of the units that take part, in basis points; None: all."""
    unit: ExperimentUnit = ExperimentUnit.SESSION
    """Whom variants are dealt to."""
    agents: Sequence[str] = ()
    """Names of the agents it is for, `*` for any characters; empty: all."""
    alpha: float | None = None
    """Chance of a wrong verdict on the primary metric, 0.0001-0.2; None: 0.05."""
    n_star: int = 0
    """Units of two arms at which a decision is expected; 0: 1,000."""
    min_units_per_arm: int = 0
    """Least outcomes of an arm before anything is concluded; 0: 100."""
    max_units: int = 0
    """Units of a phase after which the control is kept; 0: 100,000."""
    max_duration: float | timedelta | None = None
    """Length of a phase after which the control is kept, in seconds; None: 30 days."""
    auto_promote: bool = False
    """SHIP: promote the winner, and stop."""
    auto_stop: bool = False
    """ROLLBACK and KEEP_CONTROL: stop."""

    def to_message(self) -> pb.ExperimentSpec:
        """Return what is asked for as it travels.

        Raises:
            ValueError: a value is no JSON, or the duration is negative.
            TypeError: a value has no counterpart in JSON.
        """
        message = pb.ExperimentSpec(
            subject=subject_message(self.prompt, self.config_path),
            variants=[one.to_message(of_prompt=bool(self.prompt)) for one in self.variants],
            primary=self.primary.to_message(),
            guardrails=[one.to_message() for one in self.guardrails],
            hypothesis=self.hypothesis,
            description=self.description,
            coverage_bp=self.coverage_bp,
            unit=pb.ExperimentUnit.ValueType(self.unit),
            agents=self.agents,
            alpha=self.alpha,
            n_star=self.n_star,
            min_units_per_arm=self.min_units_per_arm,
            max_units=self.max_units,
            max_duration=to_duration(self.max_duration),
        )
        message.auto.promote = self.auto_promote
        message.auto.stop = self.auto_stop
        return message


def subject_message(prompt: str, config_path: str) -> pb.ExperimentSubject:
    """Return what is varied as it travels: the one that is named."""
    if prompt:
        return pb.ExperimentSubject(prompt=prompt)
    if config_path:
        return pb.ExperimentSubject(config_path=config_path)
    return pb.ExperimentSubject()
