"""Experiments as stored. Values only; times are milliseconds on the store's clock.

An experiment gives the units of one subject, a prompt or a path of configuration, different
variants of it, and compares what comes of them.

    DRAFT -> RUNNING -> STOPPED

A phase is a period in which the weights stay as they are. Another phase deals anew, with other
salts, and counts from nothing; what earlier phases counted is kept.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

WHOLE_BP: Final = 10_000
"""Basis points of all units."""

FIXED_ONE: Final = 10_000
"""How 1.0 of a normalised metric is counted: outcomes are kept to 1/10,000 of the metric's range.
Squares are up to 10^8 each, so counters stay below 2^53, where they are exact in every store, up to
9 * 10^7 outcomes of one variant; `MAX_UNITS` is far below."""


class SubjectKind(StrEnum):
    """What is varied."""

    PROMPT = "PROMPT"
    CONFIG = "CONFIG"


class UnitKind(StrEnum):
    """Whom a variant is dealt to."""

    SESSION = "SESSION"
    AGENT = "AGENT"
    """The agent's name: all its sessions see one variant."""


class MetricKind(StrEnum):
    """What the outcome of a unit is."""

    BINARY = "BINARY"
    """0 or 1."""
    NUMERIC = "NUMERIC"
    """Between `low` and `high`; beyond, it counts as the nearer bound."""


class Direction(StrEnum):
    """Which way a metric is better."""

    HIGHER = "HIGHER"
    LOWER = "LOWER"


class ExperimentState(StrEnum):
    """Where an experiment stands."""

    DRAFT = "DRAFT"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


class AssignmentReason(StrEnum):
    """Why a unit sees what it sees."""

    IN_EXPERIMENT = "IN_EXPERIMENT"
    NOT_COVERED = "NOT_COVERED"
    """Outside of the coverage, or of the agents it is for: it sees what it would without."""
    NO_UNIT = "NO_UNIT"
    """The caller names no unit, so it gets the control variant and counts for nothing."""
    EXCLUDED = "EXCLUDED"
    """It sees its variant, and counts for nothing: see `Exclusion`."""
    NOT_RUNNING = "NOT_RUNNING"


class Exclusion(StrEnum):
    """Why what a unit does is not counted."""

    NONE = ""
    OTHER_VARIANT = "OTHER_VARIANT"
    """It was seen with a variant that is not its own, or with several."""
    OTHER_DIGEST = "OTHER_DIGEST"
    """It was seen with other content than that of its variant."""
    EARLIER_PHASE = "EARLIER_PHASE"
    """It was exposed in an earlier phase, and this one excludes such units."""


class Verdict(StrEnum):
    """What the outcomes say."""

    CONTINUE = "CONTINUE"
    SHIP = "SHIP"
    ROLLBACK = "ROLLBACK"
    KEEP_CONTROL = "KEEP_CONTROL"
    """The time or the units are used up without a winner."""
    HOLD = "HOLD"
    """Something is wrong with how units are dealt; nothing is concluded from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is varied: a prompt by name, or one path of the configuration."""

    kind: SubjectKind
    name: str

    @property
    def key(self) -> str:
        """Return the key that one running experiment at a time can hold."""
        return subject_key(self.kind, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to do it."""

    name: str
    weight_bp: int
    """1-10,000 basis points of the units that are covered."""
    control: bool = False
    prompt_version: int = 0
    """PROMPT: which version."""
    config_value: Any = None
    """CONFIG: the value at the path, JSON."""
    digest: str = ""
    """Of the content: what a unit of this variant must have been served. Empty: not known, and
    not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured per unit."""

    name: str
    kind: MetricKind = MetricKind.BINARY
    low: float = 0.0
    high: float = 1.0
    direction: Direction = Direction.HIGHER
    margin: float = 0.0
    """In the unit of the metric. Primary: how much worse is still no reason to roll back.
    Guardrail: how much worse is harm."""
    non_inferiority: bool = False
    """Primary only: a variant that is not worse by more than the margin is good enough."""

    @property
    def span(self) -> float:
        """Return the width of the range; above 0."""
        return self.high - self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Automation:
    """What the plane may do by itself; nothing unless said."""

    promote: bool = False
    """SHIP: promote the winner and stop."""
    stop: bool = False
    """ROLLBACK and KEEP_CONTROL: stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How it is judged."""

    primary: Metric
    guardrails: tuple[Metric, ...] = ()
    alpha: float = 0.05
    """Chance of a wrong SHIP or ROLLBACK on the primary metric, over all variants and all looks."""
    n_star: int = 1_000
    """Units of both arms at which a decision is expected: the interval is narrowest there."""
    min_units_per_arm: int = 100
    max_units: int = 100_000
    """Units of a phase, all arms together, after which it is KEEP_CONTROL; later ones are not
    recorded."""
    max_ms: int = 2_592_000_000
    """Length of a phase after which it is KEEP_CONTROL: 30 days."""
    automation: Automation = Automation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A period with fixed weights."""

    number: int
    """From 1."""
    variants: tuple[Variant, ...]
    coverage_bp: int
    """Share of the units that are dealt a variant, 0-10,000; may grow, never shrink."""
    started_at_ms: int
    ended_at_ms: int = 0
    exclude_exposed: bool = False
    """Units that an earlier phase exposed count for nothing in this one."""
    started_by: str = ""
    reason: str = ""

    @property
    def control(self) -> Variant:
        """Return the variant that the others are compared with."""
        return next(variant for variant in self.variants if variant.control)

    def variant(self, name: str) -> Variant | None:
        """Return the variant of that name."""
        return next((one for one in self.variants if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What the newest analysis said; replaced when it says something else."""

    phase: int
    verdict: Verdict
    winner: str = ""
    """SHIP: name of the variant."""
    why: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment: what was asked for, and where it stands."""

    key: str
    subject: Subject
    plan: Plan
    variants: tuple[Variant, ...]
    """As planned; those in force are in `phases`."""
    coverage_bp: int = WHOLE_BP
    unit: UnitKind = UnitKind.SESSION
    agents: tuple[str, ...] = ()
    """Names of agents that it is for, `*` for any characters; empty: all."""
    hypothesis: str = ""
    description: str = ""
    created_by: str = ""
    state: ExperimentState = ExperimentState.DRAFT
    phases: tuple[Phase, ...] = ()
    """All of them, the present one last."""
    conclusion: Conclusion | None = None
    promoted: str = ""
    """STOPPED: name of the variant that was promoted; empty: none."""
    stopped_by: str = ""
    stop_reason: str = ""
    revision: int = 0
    generation: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0

    @property
    def phase(self) -> Phase | None:
        """Return the present or last phase; None before it was started."""
        return self.phases[-1] if self.phases else None

    @property
    def running(self) -> bool:
        """Whether units are dealt."""
        return self.state is ExperimentState.RUNNING

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the primary metric and the guardrails, in that order."""
        return (self.plan.primary, *self.plan.guardrails)

    def metric(self, name: str) -> Metric | None:
        """Return the metric of that name."""
        return next((one for one in self.metrics if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a unit, in one metric."""

    metric: str
    value: int
    """0-10,000 of the metric's range; see `FIXED_ONE`."""
    clamped: bool = False
    """The value was beyond the range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A unit that was exposed in one phase, with what came of it: one record per unit.

    Outcomes are in the same record, so that taking a unit out of the analysis and recording its
    outcomes cannot pass each other.
    """

    unit: str
    variant: str
    """The first it was seen with."""
    digest: str
    exposed_at_ms: int
    agents: tuple[str, ...] = ()
    """Who exposed it; at most `MAX_EXPOSING_AGENTS`."""
    excluded: Exclusion = Exclusion.NONE
    outcomes: tuple[Outcome, ...] = ()
    revision: int = 0

    def outcome(self, metric: str) -> Outcome | None:
        """Return what came of it in a metric."""
        return next((one for one in self.outcomes if one.metric == metric), None)


MAX_EXPOSING_AGENTS: Final = 8
"""Agents remembered per unit; each of them may record outcomes of it."""


def subject_key(kind: SubjectKind, name: str) -> str:
    """Return the key of a subject in the table of running experiments."""
    return f"{kind}/{name}"


def unit_key(key: str, phase: int, unit: str) -> str:
    """Return the key of a unit's record; the key of an experiment holds no slash."""
    return f"{key}/{phase}/{unit}"


def units_history(key: str) -> str:
    """Return the history that lists which units have records, so that they can be removed."""
    return f"experiments/{key}/units"
