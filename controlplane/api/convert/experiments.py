"""Experiments between the wire and the domain: what is asked for, and what there is."""

from collections.abc import Iterable, Sequence

from google.protobuf.struct_pb2 import Struct, Value

from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import collecting
from controlplane.api.convert.values import (
    EnumPair,
    duration_to_ms,
    json_to_value,
    moment,
    ms_to_duration,
    struct_to_json,
)
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.experiments.model import (
    WHOLE_BP,
    Automation,
    Direction,
    Experiment,
    ExperimentState,
    Metric,
    MetricKind,
    Phase,
    Plan,
    Subject,
    SubjectKind,
    UnitKind,
    Variant,
    Verdict,
)
from controlplane.services.experiments.dealt import Dealt
from controlplane.services.ports import Position
from fleetplane.v1 import experiment_service_pb2 as pb

STATES = EnumPair(pb.ExperimentState, "EXPERIMENT_STATE_", ExperimentState)
UNITS = EnumPair(pb.ExperimentUnit, "EXPERIMENT_UNIT_", UnitKind)
KINDS = EnumPair(pb.ExperimentMetric.Kind, "KIND_", MetricKind)
DIRECTIONS = EnumPair(pb.ExperimentMetric.Direction, "DIRECTION_", Direction)
VERDICTS = EnumPair(pb.ExperimentVerdict, "EXPERIMENT_VERDICT_", Verdict)

_NO_METRIC = Metric(name="")
_DEFAULTS = Plan(primary=_NO_METRIC)
_NO_SUBJECT = Subject(kind=SubjectKind.PROMPT, name="")


def experiment_from_proto(key: str, spec: pb.ExperimentSpec) -> Experiment:
    """Return what CreateExperiment asks for; the bounds are judged by the domain.

    Raises:
        InvalidArgument: with every field that cannot be read.
    """
    wrong: list[FieldViolation] = []
    variants: tuple[Variant, ...] = ()
    subject, plan, unit = _NO_SUBJECT, _DEFAULTS, UnitKind.SESSION
    with collecting(wrong):
        subject = subject_from_proto(spec.subject)
    with collecting(wrong):
        variants = variants_from_proto(spec.variants, subject)
    with collecting(wrong):
        unit = UNITS.from_wire(spec.unit, "unit", unspecified=UnitKind.SESSION)
    with collecting(wrong):
        plan = _plan_from_proto(spec)
    if wrong:
        raise InvalidArgument(*wrong)
    return Experiment(
        key=key,
        subject=subject,
        plan=plan,
        variants=variants,
        coverage_bp=spec.coverage_bp if spec.HasField("coverage_bp") else WHOLE_BP,
        unit=unit,
        agents=tuple(spec.agents),
        hypothesis=spec.hypothesis,
        description=spec.description,
    )


def subject_from_proto(subject: pb.ExperimentSubject, field: str = "subject") -> Subject:
    """Return what is varied.

    Raises:
        InvalidArgument: nothing is named.
    """
    if subject.prompt:
        return Subject(kind=SubjectKind.PROMPT, name=subject.prompt)
    if subject.config_path:
        return Subject(kind=SubjectKind.CONFIG, name=subject.config_path)
    raise InvalidArgument.of(field, "is required: a prompt or a config_path")


def variants_from_proto(
    variants: Sequence[pb.Variant], subject: Subject, field: str = "variants"
) -> tuple[Variant, ...]:
    """Return variants.

    Raises:
        InvalidArgument: one has a payload that its subject does not have, or none, or no JSON.
    """
    wrong: list[FieldViolation] = []
    read: list[Variant] = []
    of_prompt = subject.kind is SubjectKind.PROMPT
    for index, one in enumerate(variants):
        where = f"{field}[{index}]"
        value = None
        if of_prompt and one.HasField("config_value"):
            wrong.append(FieldViolation(f"{where}.config_value", "is for paths of configuration"))
        elif not of_prompt and one.prompt_version:
            wrong.append(FieldViolation(f"{where}.prompt_version", "is for prompts"))
        elif not of_prompt and not one.HasField("config_value"):
            wrong.append(FieldViolation(f"{where}.config_value", "is required"))
        elif not of_prompt:
            with collecting(wrong):
                value = struct_to_json(Struct(fields={"config_value": one.config_value}), where)[
                    "config_value"
                ]
        read.append(
            Variant(
                name=one.name,
                weight_bp=one.weight_bp,
                control=one.control,
                prompt_version=one.prompt_version,
                config_value=value,
            )
        )
    if wrong:
        raise InvalidArgument(*wrong)
    return tuple(read)


def _plan_from_proto(spec: pb.ExperimentSpec) -> Plan:
    wrong: list[FieldViolation] = []
    primary, max_ms, guardrails = _NO_METRIC, _DEFAULTS.max_ms, []
    if not spec.HasField("primary"):
        wrong.append(FieldViolation("primary", "is required"))
    with collecting(wrong):
        primary = _metric_from_proto(spec.primary, "primary")
    for index, one in enumerate(spec.guardrails):
        with collecting(wrong):
            guardrails.append(_metric_from_proto(one, f"guardrails[{index}]"))
    if spec.HasField("max_duration"):
        with collecting(wrong):
            max_ms = duration_to_ms(spec.max_duration, "max_duration")
    if wrong:
        raise InvalidArgument(*wrong)
    return Plan(
        primary=primary,
        guardrails=tuple(guardrails),
        alpha=spec.alpha if spec.HasField("alpha") else _DEFAULTS.alpha,
        n_star=spec.n_star or _DEFAULTS.n_star,
        min_units_per_arm=spec.min_units_per_arm or _DEFAULTS.min_units_per_arm,
        max_units=spec.max_units or _DEFAULTS.max_units,
        max_ms=max_ms,
        automation=Automation(promote=spec.auto.promote, stop=spec.auto.stop),
    )


def _metric_from_proto(metric: pb.ExperimentMetric, field: str) -> Metric:
    kind = KINDS.from_wire(metric.kind, f"{field}.kind", unspecified=MetricKind.BINARY)
    binary = kind is MetricKind.BINARY and not metric.min and not metric.max
    return Metric(
        name=metric.name,
        kind=kind,
        low=0.0 if binary else metric.min,
        high=1.0 if binary else metric.max,
        direction=DIRECTIONS.from_wire(
            metric.direction, f"{field}.direction", unspecified=Direction.HIGHER
        ),
        margin=metric.margin,
        non_inferiority=metric.non_inferiority,
    )


def states_from_proto(states: Iterable[int]) -> frozenset[ExperimentState]:
    """Return the states of a filter; empty: any.

    Raises:
        InvalidArgument: one is unknown.
    """
    return frozenset(
        STATES.from_wire(number, f"states[{index}]")
        for index, number in enumerate(states)
        if number
    )


def experiment_to_proto(experiment: Experiment, namespace: str) -> pb.Experiment:
    """Return an experiment, with everything said."""
    said = experiment.conclusion
    message = pb.Experiment(
        key=experiment.key,
        namespace=namespace,
        spec=_spec_to_proto(experiment),
        state=STATES.to_wire(experiment.state),
        phases=[_phase_to_proto(phase) for phase in experiment.phases],
        promoted=experiment.promoted,
        created_by=experiment.created_by,
        created_at=moment(experiment.created_at_ms),
        stopped_by=experiment.stopped_by,
        stop_reason=experiment.stop_reason,
        updated_at=moment(experiment.updated_at_ms),
        revision=experiment.revision,
    )
    if said is not None:
        message.conclusion.CopyFrom(
            pb.ExperimentConclusion(
                phase=said.phase,
                verdict=VERDICTS.to_wire(said.verdict),
                winner=said.winner,
                why=said.why,
                at=moment(said.at_ms),
            )
        )
    return message


def _spec_to_proto(experiment: Experiment) -> pb.ExperimentSpec:
    plan = experiment.plan
    return pb.ExperimentSpec(
        subject=subject_to_proto(experiment.subject),
        hypothesis=experiment.hypothesis,
        description=experiment.description,
        variants=[variant_to_proto(one, experiment.subject) for one in experiment.variants],
        coverage_bp=experiment.coverage_bp,
        unit=UNITS.to_wire(experiment.unit),
        agents=experiment.agents,
        primary=_metric_to_proto(plan.primary),
        guardrails=[_metric_to_proto(one) for one in plan.guardrails],
        alpha=plan.alpha,
        n_star=plan.n_star,
        min_units_per_arm=plan.min_units_per_arm,
        max_units=plan.max_units,
        max_duration=ms_to_duration(plan.max_ms),
        auto=pb.ExperimentAutomation(promote=plan.automation.promote, stop=plan.automation.stop),
    )


def subject_to_proto(subject: Subject) -> pb.ExperimentSubject:
    """Return what is varied."""
    if subject.kind is SubjectKind.PROMPT:
        return pb.ExperimentSubject(prompt=subject.name)
    return pb.ExperimentSubject(config_path=subject.name)


def variant_to_proto(variant: Variant, subject: Subject) -> pb.Variant:
    """Return a variant with its payload."""
    is_config = subject.kind is SubjectKind.CONFIG
    value: Value | None = json_to_value(variant.config_value) if is_config else None
    return pb.Variant(
        name=variant.name,
        weight_bp=variant.weight_bp,
        control=variant.control,
        prompt_version=variant.prompt_version,
        config_value=value,
        digest=variant.digest,
    )


def _metric_to_proto(metric: Metric) -> pb.ExperimentMetric:
    return pb.ExperimentMetric(
        name=metric.name,
        kind=KINDS.to_wire(metric.kind),
        min=metric.low,
        max=metric.high,
        direction=DIRECTIONS.to_wire(metric.direction),
        margin=metric.margin,
        non_inferiority=metric.non_inferiority,
    )


def _phase_to_proto(phase: Phase) -> pb.ExperimentPhase:
    kind = SubjectKind.PROMPT if phase.control.prompt_version else SubjectKind.CONFIG
    subject = Subject(kind=kind, name="")
    return pb.ExperimentPhase(
        number=phase.number,
        variants=[variant_to_proto(one, subject) for one in phase.variants],
        coverage_bp=phase.coverage_bp,
        started_at=moment(phase.started_at_ms),
        ended_at=moment(phase.ended_at_ms),
        exclude_exposed=phase.exclude_exposed,
        started_by=phase.started_by,
        reason=phase.reason,
    )


def watched_to_proto(event: Dealt | Position) -> pb.WatchExperimentsResponse:
    """Return what a watcher is told; `go_away` is not an event of the domain."""
    if isinstance(event, Position):
        return pb.WatchExperimentsResponse(bookmark=position_to_proto(event))
    dealt = pb.DealtExperiments(
        experiments=[_dealt_to_proto(one) for one in event.experiments],
        position=position_to_proto(event.position),
    )
    return pb.WatchExperimentsResponse(dealt=dealt)


def _dealt_to_proto(experiment: Experiment) -> pb.DealtExperiment:
    phase = experiment.phases[-1]
    return pb.DealtExperiment(
        key=experiment.key,
        subject=subject_to_proto(experiment.subject),
        unit=UNITS.to_wire(experiment.unit),
        phase=phase.number,
        coverage_bp=phase.coverage_bp,
        variants=[variant_to_proto(one, experiment.subject) for one in phase.variants],
        agents=experiment.agents,
        revision=experiment.revision,
    )
