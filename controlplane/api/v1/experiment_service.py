"""Experiments; the contract is protos/fleetplane/v1/experiment_service.proto."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.experiment_results import (
    assignment_to_proto,
    exposure_from_proto,
    look_to_proto,
    outcome_from_proto,
    result_to_proto,
)
from controlplane.api.convert.experiments import (
    experiment_from_proto,
    experiment_to_proto,
    states_from_proto,
    subject_from_proto,
    variants_from_proto,
    watched_to_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.errors import DomainError, FieldViolation, InvalidArgument
from controlplane.domain.experiments.dealing import Assignment, deal
from controlplane.domain.experiments.model import (
    AssignmentReason,
    Exclusion,
    Subject,
    SubjectKind,
)
from controlplane.domain.experiments.validation import check_unit
from controlplane.domain.identity import namespace_of
from controlplane.services.experiments.analyst import Analyst
from controlplane.services.experiments.assignment import running_on
from controlplane.services.experiments.dealt import watch
from controlplane.services.experiments.experiments import Experiments, PhaseOrder
from controlplane.services.experiments.explaining import exclusion_of
from controlplane.services.experiments.recorder import MAX_BATCH, Entry, Recorder, Result, Results
from controlplane.services.ports import Ledger
from controlplane.services.read_model import ReadModel
from fleetplane.v1 import experiment_service_pb2 as pb
from fleetplane.v1 import experiment_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentUseCases:
    """What the service calls."""

    experiments: Experiments
    recorder: Recorder
    analyst: Analyst
    ledger: Ledger
    read_model: ReadModel


class ExperimentService(pb_grpc.ExperimentServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self, use_cases: ExperimentUseCases, tokens: PageTokens, keeper: StreamKeeper
    ) -> None:
        self._experiments = use_cases.experiments
        self._recorder = use_cases.recorder
        self._analyst = use_cases.analyst
        self._ledger = use_cases.ledger
        self._read_model = use_cases.read_model
        self._tokens = tokens
        self._keeper = keeper

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.CreateExperimentResponse:
        namespace = namespace_of(request.namespace)
        created = await self._experiments.create(
            namespace,
            experiment_from_proto(request.key, request.spec),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreateExperimentResponse(experiment=experiment_to_proto(created, namespace))

    async def GetExperiment(
        self, request: pb.GetExperimentRequest, context: Context
    ) -> pb.GetExperimentResponse:
        namespace = namespace_of(request.namespace)
        found = await self._experiments.get(
            namespace, required(request.key, "key"), min_revision=request.min_revision
        )
        return pb.GetExperimentResponse(experiment=experiment_to_proto(found, namespace))

    async def ListExperiments(
        self, request: pb.ListExperimentsRequest, context: Context
    ) -> pb.ListExperimentsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._experiments.page(
            namespace,
            states=states_from_proto(request.states),
            subjects=_subjects_from_proto(request),
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListExperimentsResponse(
            experiments=[experiment_to_proto(one, namespace) for one in page.experiments],
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def StartExperiment(
        self, request: pb.StartExperimentRequest, context: Context
    ) -> pb.StartExperimentResponse:
        namespace = namespace_of(request.namespace)
        started = await self._experiments.start(
            namespace,
            required(request.key, "key"),
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.StartExperimentResponse(experiment=experiment_to_proto(started, namespace))

    async def SetCoverage(
        self, request: pb.SetCoverageRequest, context: Context
    ) -> pb.SetCoverageResponse:
        namespace = namespace_of(request.namespace)
        ramped = await self._experiments.ramp(
            namespace,
            required(request.key, "key"),
            request.coverage_bp,
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.SetCoverageResponse(experiment=experiment_to_proto(ramped, namespace))

    async def StartNewPhase(
        self, request: pb.StartNewPhaseRequest, context: Context
    ) -> pb.StartNewPhaseResponse:
        namespace, key = namespace_of(request.namespace), required(request.key, "key")
        subject = (await self._experiments.get(namespace, key)).subject
        order = PhaseOrder(
            variants=variants_from_proto(request.variants, subject),
            coverage_bp=request.coverage_bp if request.HasField("coverage_bp") else None,
            exclude_exposed=request.exclude_exposed,
            expected_phase=request.expected_phase,
            reason=reason_from_proto(request.reason),
        )
        begun = await self._experiments.next_phase(
            namespace,
            key,
            order,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.StartNewPhaseResponse(experiment=experiment_to_proto(begun, namespace))

    async def StopExperiment(
        self, request: pb.StopExperimentRequest, context: Context
    ) -> pb.StopExperimentResponse:
        namespace = namespace_of(request.namespace)
        stopped = await self._experiments.stop(
            namespace,
            required(request.key, "key"),
            promote=request.promote,
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.StopExperimentResponse(experiment=experiment_to_proto(stopped, namespace))

    async def DeleteExperiment(
        self, request: pb.DeleteExperimentRequest, context: Context
    ) -> pb.DeleteExperimentResponse:
        deleted = await self._experiments.delete(
            namespace_of(request.namespace),
            required(request.key, "key"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.DeleteExperimentResponse(deleted=deleted)

    async def AssignVariant(
        self, request: pb.AssignVariantRequest, context: Context
    ) -> pb.AssignVariantResponse:
        namespace = namespace_of(request.namespace)
        if request.unit:
            check_unit(request.unit)
        if request.key:
            experiment = await self._experiments.get(namespace, request.key)
        else:
            subject = subject_from_proto(request.subject, "key")
            view = self._read_model.view(namespace)
            running = running_on(view, (subject.kind.lower(), subject.name))
            if running is None:
                none = Assignment(experiment="", phase=0, reason=AssignmentReason.NOT_RUNNING)
                return pb.AssignVariantResponse(assignment=assignment_to_proto(none, subject))
            experiment = running
        dealt = deal(experiment, agent_name=_agent_name(request.agent_name), unit=request.unit)
        exclusion = Exclusion.NONE
        if dealt.in_experiment:
            exclusion = await exclusion_of(self._ledger, namespace, experiment, dealt.unit)
        return pb.AssignVariantResponse(
            assignment=assignment_to_proto(dealt, experiment.subject, exclusion)
        )

    async def WatchExperiments(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchExperimentsRequest, context: Context
    ) -> None:
        await run_stream(
            watch(
                self._read_model,
                namespace_of(request.namespace),
                agent_name=_agent_name(request.agent_name),
            ),
            context,
            render=watched_to_proto,
            go_away=lambda last: pb.WatchExperimentsResponse(go_away=last),
            keeper=self._keeper,
        )

    async def RecordExposure(
        self, request: pb.RecordExposureRequest, context: Context
    ) -> pb.RecordExposureResponse:
        entry = exposure_from_proto(request.exposure, _agent_name(request.agent_name))
        result = await self._record_one(request.namespace, request.key, entry, "exposure")
        return pb.RecordExposureResponse(result=result_to_proto(result))

    async def BatchRecordExposures(
        self, request: pb.BatchRecordExposuresRequest, context: Context
    ) -> pb.BatchRecordExposuresResponse:
        _check_size(request.exposures, "exposures")
        agent_name = _agent_name(request.agent_name)
        entries = [exposure_from_proto(one, agent_name) for one in request.exposures]
        results = await self._record(request.namespace, request.key, entries)
        return pb.BatchRecordExposuresResponse(results=map(result_to_proto, results))

    async def RecordOutcome(
        self, request: pb.RecordOutcomeRequest, context: Context
    ) -> pb.RecordOutcomeResponse:
        entry = outcome_from_proto(request.outcome, _agent_name(request.agent_name))
        result = await self._record_one(request.namespace, request.key, entry, "outcome")
        return pb.RecordOutcomeResponse(result=result_to_proto(result))

    async def BatchRecordOutcomes(
        self, request: pb.BatchRecordOutcomesRequest, context: Context
    ) -> pb.BatchRecordOutcomesResponse:
        _check_size(request.outcomes, "outcomes")
        agent_name = _agent_name(request.agent_name)
        entries = [outcome_from_proto(one, agent_name) for one in request.outcomes]
        results = await self._record(request.namespace, request.key, entries)
        return pb.BatchRecordOutcomesResponse(results=map(result_to_proto, results))

    async def AnalyzeExperiment(
        self, request: pb.AnalyzeExperimentRequest, context: Context
    ) -> pb.AnalyzeExperimentResponse:
        look = await self._analyst.analyse(
            namespace_of(request.namespace), required(request.key, "key"), request.phase
        )
        return pb.AnalyzeExperimentResponse(analysis=look_to_proto(look))

    async def _record(self, namespace: str, key: str, entries: Sequence[Entry]) -> Results:
        return await self._recorder.record(
            namespace_of(namespace), required(key, "key"), entries, caller=current_caller()
        )

    async def _record_one(self, namespace: str, key: str, entry: Entry, field: str) -> Result:
        (result,) = await self._record(namespace, key, (entry,))
        if isinstance(result, InvalidArgument):
            raise InvalidArgument(
                *(FieldViolation(f"{field}.{v.field}", v.description) for v in result.violations)
            )
        if isinstance(result, DomainError):
            raise result
        return result


def _agent_name(named: str) -> str:
    """Return who calls: an agent by its certificate, anybody else as it says."""
    agent = current_caller().agent
    return named if agent is None else agent.agent_name


def _check_size(entries: Sequence[object], field: str) -> None:
    if not 1 <= len(entries) <= MAX_BATCH:
        raise InvalidArgument.of(field, f"must have 1 - {MAX_BATCH} entries")


def _subjects_from_proto(request: pb.ListExperimentsRequest) -> frozenset[Subject]:
    named = ((SubjectKind.PROMPT, request.prompt), (SubjectKind.CONFIG, request.config_path))
    return frozenset(Subject(kind=kind, name=name) for kind, name in named if name)
