"""Rollouts between the wire and the domain."""

from collections.abc import Iterable

from controlplane.api.convert.agents import spec_from_proto
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import collecting, reason_from_proto
from controlplane.api.convert.values import EnumPair, duration_to_ms, moment, ms_to_duration
from controlplane.domain.agents import AgentSpec
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.rollouts.machine import phase_deadline_ms, step_may_pass_at_ms
from controlplane.domain.rollouts.model import (
    Analysis,
    AnalysisKind,
    Counts,
    Frozen,
    Measurement,
    OnInconclusive,
    OutcomeSource,
    Pause,
    PauseReason,
    Phase,
    Plan,
    Rollout,
    Step,
    Verdict,
)
from controlplane.services.ports import Position
from controlplane.services.rollouts.rollouts import RolloutOrder
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import rollout_service_pb2 as pb

LEAST_TASKS_OF_A_THRESHOLD = 20
"""`min_tasks` of a THRESHOLD unless the caller says otherwise, by contract."""

PHASES = EnumPair(pb.RolloutPhase, "ROLLOUT_PHASE_", Phase)
VERDICTS = EnumPair(pb.RolloutVerdict, "ROLLOUT_VERDICT_", Verdict)
KINDS = EnumPair(pb.RolloutAnalysis.Kind, "KIND_", AnalysisKind)
SOURCES = EnumPair(pb.RolloutAnalysis.Source, "SOURCE_", OutcomeSource)
ON_INCONCLUSIVE = EnumPair(pb.OnInconclusive, "ON_INCONCLUSIVE_", OnInconclusive)

_PAUSES = {
    reason: pb.RolloutPauseReason.Value(
        f"ROLLOUT_PAUSE_REASON_{'UNSPECIFIED' if reason is PauseReason.NONE else reason.name}"
    )
    for reason in PauseReason
}

_DURATIONS = (
    "observe",
    "max_dwell",
    "bake",
    "progress_deadline",
    "max_pause",
    "drain_deadline",
)
"""Fields of a plan; `<name>_ms` in the domain."""

_DEFAULTS = Plan()


def order_from_proto(request: pb.StartRolloutRequest) -> RolloutOrder:
    """Return what StartRollout asks for; the bounds of the plan are judged by the domain.

    Raises:
        InvalidArgument: with every wrong field.
    """
    wrong = [
        FieldViolation(field, "is required")
        for field in ("agent_name", "to_version")
        if not getattr(request, field)
    ]
    plan, canary, reason = _DEFAULTS, None, ""
    with collecting(wrong):
        plan = plan_from_proto(request.plan)
    if not wrong:
        with collecting(wrong):
            spec = _canary_from_proto(request)
            canary = spec if request.HasField("canary") else None
    with collecting(wrong):
        reason = reason_from_proto(request.reason)
    if wrong:
        raise InvalidArgument(*wrong)
    return RolloutOrder(
        name=request.agent_name,
        to_version=request.to_version,
        from_version=request.from_version,
        canary=canary,
        plan=plan,
        reason=reason,
        supersede=request.supersede,
    )


def _canary_from_proto(request: pb.StartRolloutRequest) -> AgentSpec:
    """Return what is registered as the new version; its name and version need not be repeated.

    Without a canary this is what any new version must be: a name and a semantic version.
    """
    spec = agent_pb2.AgentSpec()
    spec.CopyFrom(request.canary)
    wrong: list[FieldViolation] = []
    for field, named_by in (("name", "agent_name"), ("version", "to_version")):
        named = getattr(request, named_by)
        if getattr(spec, field) not in {"", named}:
            wrong.append(FieldViolation(f"canary.{field}", f"must be empty, or the {named_by}"))
        setattr(spec, field, named)
    if wrong:
        raise InvalidArgument(*wrong)
    try:
        return spec_from_proto(spec, "canary")
    except InvalidArgument as refusal:
        raise InvalidArgument(*(_as_written(v) for v in refusal.violations)) from None


def _as_written(violation: FieldViolation) -> FieldViolation:
    """Name the field that the caller wrote: name and version of the canary are filled in."""
    written = {"canary.name": "agent_name", "canary.version": "to_version"}
    field = written.get(violation.field, violation.field)
    return FieldViolation(field, violation.description)


def plan_from_proto(plan: pb.RolloutPlan, field: str = "plan") -> Plan:
    """Return a plan, with the defaults of the contract filled in; its bounds are not judged.

    Raises:
        InvalidArgument: with a violation for every unknown value and malformed duration.
    """
    wrong: list[FieldViolation] = []
    durations = {
        f"{name}_ms": _duration_from_proto(plan, name, field, wrong) for name in _DURATIONS
    }
    analysis, on_inconclusive = Analysis(), OnInconclusive.PAUSE
    with collecting(wrong):
        analysis = _analysis_from_proto(plan.analysis, f"{field}.analysis")
    with collecting(wrong):
        on_inconclusive = ON_INCONCLUSIVE.from_wire(
            plan.on_inconclusive, f"{field}.on_inconclusive", unspecified=OnInconclusive.PAUSE
        )
    if wrong:
        raise InvalidArgument(*wrong)
    steps = tuple(Step(weight_bp=s.weight_bp, pause_after=s.pause_after) for s in plan.steps)
    return Plan(
        steps=steps or _DEFAULTS.steps,
        analysis=analysis,
        on_inconclusive=on_inconclusive,
        evict_on_abort=plan.evict_on_abort,
        min_fresh_instances=plan.min_fresh_instances or _DEFAULTS.min_fresh_instances,
        **durations,
    )


def _duration_from_proto(
    plan: pb.RolloutPlan, name: str, field: str, wrong: list[FieldViolation]
) -> int:
    milliseconds: int = getattr(_DEFAULTS, f"{name}_ms")
    if name in {given.name for given, _ in plan.ListFields()}:
        with collecting(wrong):
            milliseconds = duration_to_ms(getattr(plan, name), f"{field}.{name}")
    return milliseconds


def _analysis_from_proto(analysis: pb.RolloutAnalysis, field: str) -> Analysis:
    defaults = Analysis()
    kind = KINDS.from_wire(analysis.kind, f"{field}.kind", unspecified=defaults.kind)
    least_tasks = (
        LEAST_TASKS_OF_A_THRESHOLD if kind is AnalysisKind.THRESHOLD else defaults.min_tasks
    )
    given = analysis.HasField
    return Analysis(
        kind=kind,
        max_error_rate=(
            analysis.max_error_rate if given("max_error_rate") else defaults.max_error_rate
        ),
        min_tasks=analysis.min_tasks if given("min_tasks") else least_tasks,
        alpha=analysis.alpha if given("alpha") else defaults.alpha,
        beta=analysis.beta if given("beta") else defaults.beta,
        source=SOURCES.from_wire(analysis.source, f"{field}.source", unspecified=defaults.source),
    )


def plan_to_proto(plan: Plan) -> pb.RolloutPlan:
    """Return a plan, with everything said."""
    analysis = plan.analysis
    return pb.RolloutPlan(
        steps=[
            pb.RolloutStep(weight_bp=s.weight_bp, pause_after=s.pause_after) for s in plan.steps
        ],
        analysis=pb.RolloutAnalysis(
            kind=KINDS.to_wire(analysis.kind),
            max_error_rate=analysis.max_error_rate,
            min_tasks=analysis.min_tasks,
            alpha=analysis.alpha,
            beta=analysis.beta,
            source=SOURCES.to_wire(analysis.source),
        ),
        observe=ms_to_duration(plan.observe_ms),
        max_dwell=ms_to_duration(plan.max_dwell_ms),
        bake=ms_to_duration(plan.bake_ms),
        progress_deadline=ms_to_duration(plan.progress_deadline_ms),
        max_pause=ms_to_duration(plan.max_pause_ms),
        drain_deadline=ms_to_duration(plan.drain_deadline_ms),
        on_inconclusive=ON_INCONCLUSIVE.to_wire(plan.on_inconclusive),
        evict_on_abort=plan.evict_on_abort,
        min_fresh_instances=plan.min_fresh_instances,
    )


def phases_from_proto(numbers: Iterable[int]) -> frozenset[Phase]:
    """Return which phases are listed; an unspecified one among them means any.

    Raises:
        InvalidArgument: naming every unknown phase.
    """
    phases: set[Phase] = set()
    wrong: list[FieldViolation] = []
    for index, number in enumerate(numbers):
        phase = PHASES.get(number)
        if phase is not None:
            phases.add(phase)
        elif number == pb.ROLLOUT_PHASE_UNSPECIFIED:
            phases.update(Phase)
        else:
            wrong.append(FieldViolation(f"phases[{index}]", "is not known here"))
    if wrong:
        raise InvalidArgument(*wrong)
    return frozenset(phases)


def rollout_to_proto(
    rollout: Rollout, namespace: str, *, with_measurements: bool = True
) -> pb.Rollout:
    """Return a rollout as it stands; lists leave out the measurements."""
    measurements = rollout.measurements if with_measurements else ()
    frozen, pause = rollout.frozen, rollout.pause
    return pb.Rollout(
        rollout_id=rollout.rollout_id,
        namespace=namespace,
        agent_name=rollout.name,
        from_version=rollout.from_version,
        to_version=rollout.to_version,
        from_agent_id=rollout.from_agent_id,
        to_agent_id=rollout.to_agent_id,
        plan=plan_to_proto(rollout.plan),
        reason=rollout.reason,
        started_by=rollout.started_by,
        started_at=moment(rollout.started_at_ms),
        phase=PHASES.to_wire(rollout.phase),
        phase_since=moment(rollout.phase_since_ms),
        step_index=rollout.step_index,
        step_entered_at=moment(rollout.step_entered_at_ms),
        traffic_since=moment(rollout.traffic_since_ms),
        weight_bp=rollout.weight_bp,
        canary=_counts_to_proto(rollout.canary),
        stable=_counts_to_proto(rollout.stable),
        llr=rollout.llr,
        hypotheses=_hypotheses_to_proto(frozen) if frozen is not None else None,
        pause=_pause_to_proto(pause) if pause is not None else None,
        message=rollout.message,
        measurements=[_measurement_to_proto(one) for one in measurements],
        superseded_by=rollout.superseded_by,
        retry_of=rollout.retry_of,
        ended_at=moment(rollout.ended_at_ms),
        step_may_pass_at=moment(step_may_pass_at_ms(rollout)),
        phase_deadline=moment(phase_deadline_ms(rollout)),
        revision=rollout.revision,
    )


def _counts_to_proto(counts: Counts) -> pb.OutcomeCounts:
    return pb.OutcomeCounts(total=counts.total, failed=counts.failed)


def _hypotheses_to_proto(frozen: Frozen) -> pb.RolloutHypotheses:
    return pb.RolloutHypotheses(
        p0=frozen.p0,
        p1=frozen.p1,
        accept_at=frozen.accept_at,
        reject_at=frozen.reject_at,
        baseline=_counts_to_proto(frozen.baseline),
    )


def _pause_to_proto(pause: Pause) -> pb.RolloutPause:
    return pb.RolloutPause(
        reason=_PAUSES[pause.reason],
        since=moment(pause.since_ms),
        by=pause.by,
        message=pause.message,
    )


def _measurement_to_proto(one: Measurement) -> pb.RolloutMeasurement:
    return pb.RolloutMeasurement(
        at=moment(one.at_ms),
        step_index=one.step_index,
        weight_bp=one.weight_bp,
        canary=_counts_to_proto(one.canary),
        stable=_counts_to_proto(one.stable),
        llr=one.llr,
        verdict=VERDICTS.to_wire(one.verdict),
        message=one.message,
    )


def watched_to_proto(event: Rollout | Position, namespace: str) -> pb.WatchRolloutResponse:
    """Return what a watcher is told; `go_away` is not an event of the domain."""
    if isinstance(event, Position):
        return pb.WatchRolloutResponse(bookmark=position_to_proto(event))
    return pb.WatchRolloutResponse(rollout=rollout_to_proto(event, namespace))
