"""Rollouts as stored: a plan, and where it stands. Values only.

    PENDING -> PROGRESSING <-> PAUSED -> PROMOTING -> DRAINING_OLD -> SUCCEEDED
    any of these five -> ABORTING -> DRAINING_NEW -> ROLLED_BACK
    PENDING, or PAUSED before the first step -> FAILED (the new version never came to work)
    any that is not terminal -> SUPERSEDED, but DRAINING_OLD: there the new version has won

Every transition is one commit on condition that the record is as it was read: that is the fence.
The weights of the route, the state of agents and the start of drains are part of that commit.
Times are milliseconds on the store's clock, shares 0-1, weights basis points of new sessions.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Where a rollout stands."""

    PENDING = "PENDING"
    """Waits for the new version: registered, activated, with a fresh instance."""
    PROGRESSING = "PROGRESSING"
    """A step is being observed."""
    PAUSED = "PAUSED"
    PROMOTING = "PROMOTING"
    """Every step has passed; the new version has everything and the old one is kept warm."""
    DRAINING_OLD = "DRAINING_OLD"
    SUCCEEDED = "SUCCEEDED"
    ABORTING = "ABORTING"
    """The old version has everything again."""
    DRAINING_NEW = "DRAINING_NEW"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"
    """The new version never came to work; nothing was shifted."""
    SUPERSEDED = "SUPERSEDED"
    """Another rollout took over; the version that was being rolled out drains by itself."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows."""
        return self in _TERMINAL


_TERMINAL = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED, Phase.SUPERSEDED})


class PauseReason(StrEnum):
    """Why a rollout waits."""

    NONE = ""
    OPERATOR = "OPERATOR"
    INCONCLUSIVE = "INCONCLUSIVE"
    """No decision within `max_dwell_ms`: too little traffic, or a rate between the hypotheses."""
    ENVIRONMENT = "ENVIRONMENT"
    """Both versions fail alike: an incident, not this version."""
    METRICS = "METRICS"
    """The error rate could not be read five times in a row."""
    STEP = "STEP"
    """The plan asks for a word of the operator after this step."""


class AnalysisKind(StrEnum):
    """How a step is judged."""

    SEQUENTIAL = "SEQUENTIAL"
    """Wald's sequential probability ratio test, with a concurrent baseline."""
    THRESHOLD = "THRESHOLD"
    """The error rate at the end of the observation, if there were enough tasks."""


class OutcomeSource(StrEnum):
    """Where outcomes are counted."""

    AUTO = "AUTO"
    """Tasks, if the plane assigned any to either version in this step; else beats."""
    TASKS = "TASKS"
    BEATS = "BEATS"


class OnInconclusive(StrEnum):
    """What to do when a step ends without a decision."""

    PAUSE = "PAUSE"
    ROLLBACK = "ROLLBACK"
    PROMOTE = "PROMOTE"
    """Go on to the next step; never without any data."""


class Verdict(StrEnum):
    """What one look at the outcomes says."""

    CONTINUE = "CONTINUE"
    PASS = "PASS"  # noqa: S105 - a verdict
    BREACH = "BREACH"
    """The new version is worse than the limit, and worse than the old one now."""
    ENVIRONMENT = "ENVIRONMENT"
    """It is worse than the limit, and the old one is as bad."""
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    """The outcomes could not be read, or make no sense. Never a pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the plan."""

    weight_bp: int
    """1-10,000."""
    pause_after: bool = False
    """Wait for the operator once it has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """How steps are judged; see `analysis`."""

    kind: AnalysisKind = AnalysisKind.SEQUENTIAL
    max_error_rate: float = 0.05
    min_tasks: int = 50
    """Least outcomes of the new version in a step before it may pass."""
    alpha: float = 0.01
    """Chance of rolling back a healthy version, over all steps (SEQUENTIAL)."""
    beta: float = 0.05
    """Chance of passing one that is at the limit, per step (SEQUENTIAL)."""
    source: OutcomeSource = OutcomeSource.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the operator asked for."""

    steps: tuple[Step, ...] = (
        Step(weight_bp=1_000),
        Step(weight_bp=5_000),
        Step(weight_bp=10_000),
    )
    analysis: Analysis = field(default_factory=Analysis)
    observe_ms: int = 60_000
    """Least time in a step with traffic on the new version."""
    max_dwell_ms: int = 21_600_000
    """Longest in a step without a decision: 6 h."""
    bake_ms: int = 0
    """How long the old version stays warm at 100 %, still observed: 0-24 h."""
    progress_deadline_ms: int = 600_000
    """Longest wait for the new version to come to work."""
    max_pause_ms: int = 86_400_000
    """A pause that nobody ends becomes an abort: 24 h."""
    drain_deadline_ms: int = 900_000
    """How long the retired version may finish its tasks."""
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    evict_on_abort: bool = False
    """On abort move sessions that are pinned to the new version at once; else they finish there
    until its drain ends."""
    min_fresh_instances: int = 1
    """Fresh instances of the new version before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Outcomes of one version since the step began."""

    total: int = 0
    failed: int = 0


NO_COUNTS = Counts()


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatMark:
    """Counters of one instance: at the start of the step, and last seen."""

    instance_id: str
    generation: int
    canary: bool
    completed_at_entry: int
    failed_at_entry: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What is fixed when a step begins, so that a crash or another replica judges alike."""

    p0: float
    """Error rate of a healthy version."""
    p1: float
    """Error rate that must not be."""
    accept_at: float
    """Log-likelihood ratio at or below which the step passes."""
    reject_at: float
    """Log-likelihood ratio at or above which it is a breach."""
    baseline: Counts = Counts()
    """Outcomes of the old version in the window before the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One look at the outcomes that was worth keeping."""

    at_ms: int
    step_index: int
    weight_bp: int
    canary: Counts
    stable: Counts
    llr: float
    verdict: Verdict
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Why and since when."""

    reason: PauseReason
    since_ms: int
    by: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout: the plan and where it stands."""

    rollout_id: str
    name: str
    """Agent name."""
    from_version: str
    to_version: str
    from_agent_id: str
    to_agent_id: str = ""
    """Empty until the new version is registered."""
    plan: Plan = Plan()
    reason: str = ""
    started_by: str = ""
    started_at_ms: int = 0
    phase: Phase = Phase.PENDING
    phase_since_ms: int = 0
    step_index: int = 0
    step_token: int = 0
    """Counts step entries, repeated ones too; with the id it names the cohort."""
    step_entered_at_ms: int = 0
    traffic_since_ms: int = 0
    """When the new version was first seen to get work in this step; 0: not yet. The observation
    counts from here."""
    weight_bp: int = 0
    """Of the new version."""
    frozen: Frozen | None = None
    marks: tuple[BeatMark, ...] = ()
    canary: Counts = Counts()
    stable: Counts = Counts()
    """Outcomes in the current step, as last measured."""
    llr: float = 0.0
    errors_in_a_row: int = 0
    """Looks that failed."""
    pause: Pause | None = None
    promote_requested: bool = False
    """The operator said: all the way, without further judgement."""
    activated: bool = False
    """The new version was seen ACTIVE in this rollout; if it no longer is, an operator did that."""
    stopped_before: bool = False
    """The new version was INACTIVE by decision, or about to be, when the rollout began: to bring it
    back is what was asked for. Stopped after that, it stays stopped."""
    approval_since_ms: int = 0
    """PENDING: since when its activation waits for an approval; 0: it does not. `max_pause_ms`
    limits that wait, and the progress deadline stands still."""
    progress_since_ms: int = 0
    """PENDING: when that approval was given and the progress deadline began anew; 0: never."""
    entering: bool = False
    """The step is to be entered as soon as the new version can carry it: after a resume or a
    promotion. Until then the weight is what it was."""
    step_passed: bool = False
    """The present step has passed; what follows waits for capacity, or for the operator."""
    fresh_at_entry: int = 0
    """Fresh instances of the new version when the step was entered."""
    silent_at_entry: int = 0
    """Silent and lost ones at that time: leftovers that say nothing about this step."""
    evicting: bool = False
    """ABORTING: sessions leave the new version at once instead of finishing there."""
    retire_by_ms: int = 0
    """Until when the version that goes may finish its work; 0: none goes yet."""
    message: str = ""
    """In words: what it waits for, or why it ended."""
    measurements: tuple[Measurement, ...] = ()
    superseded_by: str = ""
    retry_of: str = ""
    """The rollout that this one repeats."""
    ended_at_ms: int = 0
    revision: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0

    @property
    def cohort(self) -> str:
        """Return the name under which attempts of the current step are counted."""
        return f"{self.rollout_id}/{self.step_token}"


KEPT_ENDED = 20
"""Ended rollouts kept per agent name, the newest."""

MAX_MEASUREMENTS = 100
"""Measurements kept on a rollout, the newest."""


def outcome_counter(cohort: str, agent_id: str, outcome: str) -> str:
    """Return the counter of attempts of a version that started in a cohort; `ok` or `failed`."""
    return f"outcomes/{cohort}/{agent_id}/{outcome}"


def active_rollout_key(name: str) -> str:
    """Return the key that only one rollout per agent name can hold."""
    return name
