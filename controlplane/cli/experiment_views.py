"""Experiments as tables and sentences."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.struct_pb2 import Struct

from controlplane.cli.contract_words import word
from controlplane.cli.durations import compact, seconds_of
from controlplane.cli.moments import ago, moment
from controlplane.cli.rendering import Column, fields, short, table
from controlplane.cli.routes import percent
from fleetplane import (
    AssignmentReason,
    ExperimentState,
    ExperimentVerdict,
    MetricStanding,
    from_struct,
)
from fleetplane.v1 import experiment_service_pb2 as pb

_LIST: Final = (
    Column("EXPERIMENT", flexible=True),
    Column("SUBJECT", flexible=True),
    Column("STATE"),
    Column("PHASE", right=True),
    Column("COVERAGE", right=True),
    Column("VERDICT"),
    Column("CHANGED", right=True),
)
_ARMS: Final = (
    Column("VARIANT", flexible=True),
    Column("WEIGHT", right=True),
    Column("UNITS", right=True),
    Column("METRIC"),
    Column("OUTCOMES", right=True),
    Column("MEAN", right=True),
    Column("DIFFERENCE", right=True),
    Column("INTERVAL", right=True),
    Column("STANDING"),
)
_PHASES: Final = (
    Column("PHASE", right=True),
    Column("COVERAGE", right=True),
    Column("VARIANTS", flexible=True),
    Column("BEGAN", right=True),
    Column("ENDED", right=True),
    Column("REASON", flexible=True),
)


def subject_of(subject: pb.ExperimentSubject) -> str:
    """Return what is varied: `prompt greeting` or `config temperature`."""
    kind = "prompt" if subject.prompt else "config"
    return f"{kind} {subject.prompt or subject.config_path}"


def state_of(experiment: pb.Experiment) -> str:
    """Return the short name of the state."""
    return word(ExperimentState, experiment.state)


def verdict_of(verdict: int, winner: str = "") -> str:
    """Return a verdict, with the winner it names."""
    said = word(ExperimentVerdict, verdict)
    return f"{said} {winner}" if winner else said


def payload_of(variant: pb.Variant) -> str:
    """Return what a variant gives: `version 3`, or its value."""
    if variant.prompt_version:
        return f"version {variant.prompt_version}"
    return short(from_struct(Struct(fields={"value": variant.config_value}))["value"])


def experiments_table(experiments: Iterable[pb.Experiment]) -> str:
    """Lay out experiments, one per line."""
    return table(
        _LIST,
        [
            (
                one.key,
                subject_of(one.spec.subject),
                state_of(one),
                str(len(one.phases)) if one.phases else "",
                percent(_coverage(one)),
                verdict_of(one.conclusion.verdict, one.conclusion.winner),
                ago(one.updated_at),
            )
            for one in experiments
        ],
    )


def _coverage(experiment: pb.Experiment) -> int:
    return experiment.phases[-1].coverage_bp if experiment.phases else experiment.spec.coverage_bp


def experiment_details(experiment: pb.Experiment) -> str:
    """Lay out what was asked for and where it stands."""
    spec = experiment.spec
    automatic = [name for name in ("promote", "stop") if getattr(spec.auto, name)]
    variants = ", ".join(
        f"{one.name} {percent(one.weight_bp)} ({payload_of(one)}{', control' * one.control})"
        for one in (experiment.phases[-1].variants if experiment.phases else spec.variants)
    )
    return fields(
        {
            "experiment": experiment.key,
            "subject": subject_of(spec.subject),
            "state": state_of(experiment),
            "hypothesis": spec.hypothesis,
            "variants": variants,
            "coverage": percent(_coverage(experiment)),
            "agents": ", ".join(spec.agents),
            "primary": spec.primary.name,
            "guardrails": ", ".join(one.name for one in spec.guardrails),
            "ends after": f"{spec.max_units:,} units or {compact(seconds_of(spec.max_duration))}",
            "by itself": ", ".join(automatic) or "nothing",
            "verdict": verdict_of(experiment.conclusion.verdict, experiment.conclusion.winner),
            "why": experiment.conclusion.why,
            "promoted": experiment.promoted,
            "stopped by": experiment.stopped_by,
            "reason": experiment.stop_reason,
        }
    )


def phases_table(phases: Iterable[pb.ExperimentPhase]) -> str:
    """Lay out phases, one per line."""
    return table(
        _PHASES,
        [
            (
                str(one.number),
                percent(one.coverage_bp),
                ", ".join(f"{v.name} {percent(v.weight_bp)}" for v in one.variants),
                moment(one.started_at),
                moment(one.ended_at) if one.HasField("ended_at") else "",
                one.reason,
            )
            for one in phases
        ],
    )


def arms_table(analysis: pb.ExperimentAnalysis) -> str:
    """Lay out what is counted and compared, one metric of one variant per line."""
    compared = {(one.variant, one.metric): one for one in analysis.comparisons}
    rows = []
    for arm in analysis.arms:
        for index, counts in enumerate(arm.metrics):
            first = index == 0
            comparison = compared.get((arm.variant, counts.metric))
            rows.append(
                (
                    f"{arm.variant}{' (control)' * arm.control}" if first else "",
                    percent(arm.weight_bp) if first else "",
                    f"{arm.exposed:,}" if first else "",
                    counts.metric,
                    f"{counts.count:,}",
                    f"{counts.mean:.4g}" if counts.count else "-",
                    f"{comparison.difference:+.4g}" if comparison and counts.count else "",
                    _interval(comparison),
                    word(MetricStanding, comparison.standing) if comparison else "",
                )
            )
    return table(_ARMS, rows)


def _interval(one: pb.MetricComparison | None) -> str:
    if one is None:
        return ""
    if not one.HasField("lower") or not one.HasField("upper"):
        return "unknown"
    return f"{one.lower:+.4g} .. {one.upper:+.4g}"


def analysis_details(analysis: pb.ExperimentAnalysis) -> str:
    """Lay out the verdict, and whether units are dealt as they should be."""
    conflicts = ""
    if analysis.conflicting:
        conflicts = f"{analysis.conflicting:,} units ({analysis.conflict_share:.2%})"
    return fields(
        {
            "phase": str(analysis.phase),
            "verdict": verdict_of(analysis.verdict, analysis.winner),
            "why": analysis.why,
            "progress": f"{analysis.progress:.0%}",
            "sample ratio": f"p = {analysis.sample_ratio_p:.4g}",
            "conflicting": conflicts,
            "left out": f"{analysis.earlier:,} units of earlier phases" if analysis.earlier else "",
        }
    )


def assignment_details(assignment: pb.VariantAssignment) -> str:
    """Lay out what a unit sees, and why."""
    variant = assignment.variant
    return fields(
        {
            "experiment": assignment.key,
            "unit": assignment.unit,
            "variant": variant.name,
            "gives": payload_of(variant) if variant.name else "what it would without",
            "reason": word(AssignmentReason, assignment.reason),
            "phase": str(assignment.phase or ""),
        }
    )
