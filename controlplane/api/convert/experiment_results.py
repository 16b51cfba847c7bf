"""Exposures, outcomes, assignments and analyses between the wire and the domain."""

from math import sqrt

from controlplane.api.convert.experiments import VERDICTS, variant_to_proto
from controlplane.api.convert.values import EnumPair, moment
from controlplane.api.status import entry_error_of
from controlplane.domain.errors import DomainError
from controlplane.domain.experiments.analysis import Comparison, Standing, bounded
from controlplane.domain.experiments.counters import Arm
from controlplane.domain.experiments.dealing import Assignment
from controlplane.domain.experiments.model import (
    AssignmentReason,
    Exclusion,
    Experiment,
    Metric,
    Phase,
    Subject,
)
from controlplane.domain.experiments.recording import Came, Recorded, Seen
from controlplane.services.experiments.analyst import Look
from controlplane.services.experiments.recorder import Entry, Result
from fleetplane.v1 import experiment_service_pb2 as pb

REASONS = EnumPair(pb.AssignmentReason, "ASSIGNMENT_REASON_", AssignmentReason)
STANDINGS = EnumPair(pb.MetricStanding, "METRIC_STANDING_", Standing)
RECORDED = EnumPair(pb.RecordingState, "RECORDING_STATE_", Recorded)

_EXCLUSIONS = {
    why: pb.ExclusionReason.Value(f"EXCLUSION_REASON_{why.name if why else 'UNSPECIFIED'}")
    for why in Exclusion
}


def exposure_from_proto(exposure: pb.Exposure, agent_name: str) -> Entry:
    """Return a report that a unit has used something."""
    seen = Seen(
        unit=exposure.unit,
        variant=exposure.variant,
        digest=exposure.digest,
        agent_name=agent_name,
    )
    return Entry(report=seen, phase=exposure.phase)


def outcome_from_proto(outcome: pb.Outcome, agent_name: str) -> Entry:
    """Return a report of what came of a unit."""
    came = Came(
        unit=outcome.unit,
        metric=outcome.metric,
        value=outcome.value,
        replace=outcome.replace,
        agent_name=agent_name,
    )
    return Entry(report=came, phase=outcome.phase)


def result_to_proto(result: Result | DomainError) -> pb.RecordingResult:
    """Return what became of one report of a batch."""
    if isinstance(result, DomainError):
        return pb.RecordingResult(error=entry_error_of(result))
    return pb.RecordingResult(
        state=RECORDED.to_wire(result.recorded), exclusion=_EXCLUSIONS[result.exclusion]
    )


def assignment_to_proto(
    assignment: Assignment, subject: Subject, exclusion: Exclusion = Exclusion.NONE
) -> pb.VariantAssignment:
    """Return what a unit sees; with why it counts for nothing, if that is so."""
    reason = AssignmentReason.EXCLUDED if exclusion else assignment.reason
    variant = assignment.variant
    return pb.VariantAssignment(
        key=assignment.experiment,
        phase=assignment.phase,
        reason=REASONS.to_wire(reason),
        variant=None if variant is None else variant_to_proto(variant, subject),
        unit=assignment.unit,
        exclusion=_EXCLUSIONS[exclusion],
    )


def look_to_proto(look: Look) -> pb.ExperimentAnalysis:
    """Return an analysis, in the units of the metrics."""
    analysis, experiment = look.analysis, look.experiment
    phase = experiment.phases[analysis.phase - 1]
    counts = analysis.counts
    return pb.ExperimentAnalysis(
        phase=analysis.phase,
        verdict=VERDICTS.to_wire(analysis.verdict),
        winner=analysis.winner,
        why=analysis.why,
        arms=[_arm_to_proto(arm, experiment, phase) for arm in counts.arms],
        comparisons=[_comparison_to_proto(one) for one in analysis.comparisons],
        sample_ratio_p=analysis.ratio_p,
        conflicting=counts.conflicting,
        other_digest=counts.clashes.get(Exclusion.OTHER_DIGEST, 0),
        conflict_share=analysis.conflict_share,
        earlier=counts.earlier,
        progress=analysis.progress,
        at=moment(look.at_ms),
    )


def _arm_to_proto(arm: Arm, experiment: Experiment, phase: Phase) -> pb.ExperimentArm:
    variant = phase.variant(arm.variant)
    return pb.ExperimentArm(
        variant=arm.variant,
        control=variant is not None and variant.control,
        weight_bp=0 if variant is None else variant.weight_bp,
        exposed=arm.exposed,
        metrics=[_counts_to_proto(arm, metric) for metric in experiment.metrics],
    )


def _counts_to_proto(arm: Arm, metric: Metric) -> pb.MetricCounts:
    sums = arm.metrics[metric.name]
    return pb.MetricCounts(
        metric=metric.name,
        count=sums.count,
        mean=metric.low + sums.mean * metric.span if sums.count else 0.0,
        standard_deviation=sqrt(sums.variance) * metric.span,
        clamped=sums.clamped,
    )


def _comparison_to_proto(one: Comparison) -> pb.MetricComparison:
    return pb.MetricComparison(
        variant=one.variant,
        metric=one.metric,
        difference=one.interval.estimate,
        lower=bounded(one.interval.lower),
        upper=bounded(one.interval.upper),
        standing=STANDINGS.to_wire(one.standing),
    )
