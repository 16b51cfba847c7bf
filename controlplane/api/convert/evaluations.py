"""Evaluations, comparisons and gates on the wire and in the domain."""

from typing import Final

from controlplane.api.convert.values import EnumPair, moment
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.prompts.comparison import Comparison, Verdict
from controlplane.domain.prompts.content import check_digest, check_name
from controlplane.domain.prompts.evaluations import MAX_ITEMS, Evaluation, ScoredItem
from controlplane.domain.prompts.model import LabelGate
from controlplane.services.prompts.evaluations import Choice, Run
from fleetplane.v1 import prompt_service_pb2 as pb

_VERDICTS: Final = EnumPair(pb.GateVerdict, "GATE_VERDICT_", Verdict)
_DEFAULTS: Final = LabelGate()


def run_from_proto(request: pb.RecordEvaluationRequest) -> Run:
    """Return what is recorded; the domain judges it. Takes tenths of a second for large ones.

    Raises:
        InvalidArgument: prompt or version are missing, or there are too many items.
    """
    if not request.version:
        raise InvalidArgument.of("version", "is required")
    if not 1 <= len(request.items) <= MAX_ITEMS:
        raise InvalidArgument.of("items", f"must have 1-{MAX_ITEMS:,} entries")
    return Run(
        prompt=check_name(request.prompt),
        version=request.version,
        dataset_sha256=request.dataset_sha256,
        scorer=request.scorer,
        scorer_version=request.scorer_version,
        model=request.model,
        seed=request.seed,
        items=tuple(
            ScoredItem(
                item_id=one.item_id,
                scores=tuple(one.scores),
                passed=tuple(one.passed),
                critical=one.critical,
                cost=one.cost,
                latency_ms=one.latency_ms,
            )
            for one in request.items
        ),
    )


def evaluation_to_proto(run: Evaluation) -> pb.PromptEvaluation:
    """Return an evaluation without its items."""
    return pb.PromptEvaluation(
        evaluation_id=run.evaluation_id,
        prompt=run.prompt,
        version=run.version,
        content_sha256=run.content_sha256,
        dataset_sha256=run.dataset_sha256,
        scorer=run.scorer,
        scorer_version=run.scorer_version,
        model=run.model,
        seed=run.seed,
        items=run.items,
        trials=run.trials,
        mean_score=run.mean_score,
        cost=run.cost,
        p95_latency_ms=run.p95_latency_ms,
        recorded_by=run.recorded_by,
        recorded_at=moment(run.created_at_ms),
        revision=run.revision,
    )


def choice_from_proto(request: pb.ComparePromptVersionsRequest) -> Choice:
    """Return which evaluations are compared.

    Raises:
        InvalidArgument: a malformed digest.
    """
    if request.dataset_sha256:
        check_digest(request.dataset_sha256, "dataset_sha256")
    return Choice(
        candidate_version=request.candidate_version,
        baseline_version=request.baseline_version,
        baseline_label=request.baseline_label,
        candidate_id=request.candidate_evaluation_id,
        baseline_id=request.baseline_evaluation_id,
        dataset_sha256=request.dataset_sha256,
        gate_label=request.gate_label,
        min_revision=request.min_revision,
    )


def comparison_to_proto(found: Comparison) -> pb.PromptComparison:
    """Return what two evaluations say about each other."""
    return pb.PromptComparison(
        verdict=_VERDICTS.to_wire(found.verdict),
        reasons=found.reasons,
        candidate_version=found.candidate_version,
        baseline_version=found.baseline_version,
        candidate_evaluation_id=found.candidate_id,
        baseline_evaluation_id=found.baseline_id,
        dataset_sha256=found.dataset_sha256,
        items=found.items,
        mean_difference=found.mean_difference,
        interval_low=found.low,
        interval_high=found.high,
        resamples=found.resamples,
        seed=found.seed,
        worse_items=found.worse,
        better_items=found.better,
        mcnemar_p=found.mcnemar_p,
        regressed=[
            pb.RegressedItem(
                item_id=one.item_id,
                critical=one.critical,
                baseline_score=one.baseline,
                candidate_score=one.candidate,
            )
            for one in found.regressed
        ],
        cost_growth=found.cost_growth,
        latency_growth=found.latency_growth,
    )


def gate_from_proto(gate: pb.LabelGate, *, set_by: str, reason: str) -> LabelGate:
    """Return a gate with its defaults filled in; the domain judges it."""
    return LabelGate(
        dataset_sha256=gate.dataset_sha256,
        scorer=gate.scorer,
        scorer_version=gate.scorer_version,
        min_items=gate.min_items or _DEFAULTS.min_items,
        max_drop=gate.max_drop if gate.HasField("max_drop") else _DEFAULTS.max_drop,
        pass_score=gate.pass_score if gate.HasField("pass_score") else _DEFAULTS.pass_score,
        max_cost_growth=(
            gate.max_cost_growth if gate.HasField("max_cost_growth") else _DEFAULTS.max_cost_growth
        ),
        max_latency_growth=(
            gate.max_latency_growth
            if gate.HasField("max_latency_growth")
            else _DEFAULTS.max_latency_growth
        ),
        critical_items=tuple(dict.fromkeys(gate.critical_items)),
        set_by=set_by,
        reason=reason,
    )


def gate_to_proto(label: str, gate: LabelGate) -> pb.LabelGate:
    """Return a gate, complete."""
    return pb.LabelGate(
        label=label,
        dataset_sha256=gate.dataset_sha256,
        scorer=gate.scorer,
        scorer_version=gate.scorer_version,
        min_items=gate.min_items,
        max_drop=gate.max_drop,
        pass_score=gate.pass_score,
        max_cost_growth=gate.max_cost_growth,
        max_latency_growth=gate.max_latency_growth,
        critical_items=gate.critical_items,
        set_by=gate.set_by,
        reason=gate.reason,
        baseline_version=gate.baseline_version,
    )
