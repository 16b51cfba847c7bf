"""The plan of a rollout as Python says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from fleetplane._enums import AnalysisKind, AnalysisSource, OnInconclusive
from fleetplane._values import to_duration
from fleetplane.v1 import rollout_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep:
    """One step of a rollout."""

    weight_bp: int
    """Share of new sessions in basis points, 1-10,000; never below the step before."""
    pause_after: bool = False
    """Wait for `resume_rollout` once it has passed."""

    def to_message(self) -> pb.RolloutStep:
        """Return the step as it travels."""
        return pb.RolloutStep(weight_bp=self.weight_bp, pause_after=self.pause_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutAnalysis:
    """How the steps of a rollout are judged. None: the daemon's default."""

    kind: AnalysisKind = AnalysisKind.SEQUENTIAL
    """The rule."""
    max_error_rate: float | None = None
    """Error rate that must not be exceeded, 0.001-0.5; None: 0.05."""
    min_tasks: int | None = None
    """Least outcomes of the new version before a step may pass; None: 50, for THRESHOLD 20."""
    alpha: float | None = None
    """Chance of rolling back a healthy version, over all steps, 0.0001-0.2; None: 0.01."""
    beta: float | None = None
    """Chance of passing one at the limit, per step, 0.0001-0.2; None: 0.05."""
    source: AnalysisSource = AnalysisSource.AUTO
    """Where outcomes come from."""

    def to_message(self) -> pb.RolloutAnalysis:
        """Return the rule as it travels."""
        return pb.RolloutAnalysis(
            kind=pb.RolloutAnalysis.Kind.ValueType(self.kind),
            max_error_rate=self.max_error_rate,
            min_tasks=self.min_tasks,
            alpha=self.alpha,
            beta=self.beta,
            source=pb.RolloutAnalysis.Source.ValueType(self.source),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """The plan of a rollout. Times are in seconds; None: the daemon's default."""

    steps: Sequence[RolloutStep | int] = ()
    """1-20 steps, or their weights in basis points; the last is 10,000. Empty: 10, 50, 100 %."""
    analysis: RolloutAnalysis = RolloutAnalysis()
    """How steps are judged."""
    observe: float | timedelta | None = None
    """Least time in a step once the new version has work, 1 s - 24 h; None: 60 s."""
    max_dwell: float | timedelta | None = None
    """Longest time without a verdict, at most 7 days; None: 6 h."""
    bake: float | timedelta | None = None
    """How long the old version stays warm after the last step, 0-24 h; None: 0."""
    progress_deadline: float | timedelta | None = None
    """Longest wait for the new version to come to work, 1 s - 24 h; None: 10 min."""
    max_pause: float | timedelta | None = None
    """A pause that nobody ends becomes an abort, 1 s - 30 days; None: 24 h."""
    drain_deadline: float | timedelta | None = None
    """How long the retired version may finish its work, 1 s - 24 h; None: 15 min."""
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    """What to do without a verdict."""
    evict_on_abort: bool = False
    """On abort move sessions that are pinned to the new version at once."""
    min_fresh_instances: int = 0
    """Fresh instances of the new version before the first step, 1-1,000; 0 means 1."""

    def to_message(self) -> pb.RolloutPlan:
        """Return the plan as it travels.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: a time is negative.
        """
        steps = (
            RolloutStep(weight_bp=step) if isinstance(step, int) else step for step in self.steps
        )
        return pb.RolloutPlan(
            steps=[step.to_message() for step in steps],
            analysis=self.analysis.to_message(),
            observe=to_duration(self.observe),
            max_dwell=to_duration(self.max_dwell),
            bake=to_duration(self.bake),
            progress_deadline=to_duration(self.progress_deadline),
            max_pause=to_duration(self.max_pause),
            drain_deadline=to_duration(self.drain_deadline),
            on_inconclusive=pb.OnInconclusive.ValueType(self.on_inconclusive),
            evict_on_abort=self.evict_on_abort,
            min_fresh_instances=self.min_fresh_instances,
        )
