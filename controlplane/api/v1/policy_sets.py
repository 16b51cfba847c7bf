"""The calls about sets of policies, part of PolicyService: revisions, candidates, stages, tests."""

from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.policy_replay import report_to_proto, sample_from_proto
from controlplane.api.convert.policy_sets import (
    DIFFERENCES_ALONE_BYTES,
    activated_to_proto,
    activation_from_proto,
    candidate_to_proto,
    created_to_proto,
    differences_to_proto,
    draft_from_proto,
    set_to_proto,
    shown_to_proto,
    stage_to_proto,
    stated_from_proto,
    summary_to_proto,
)
from controlplane.api.convert.policy_tests import failures_to_proto, test_to_proto, tests_from_proto
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.domain.policy_sets.candidates import StageKind
from controlplane.services.policies.activations import PolicyActivations
from controlplane.services.policies.candidates import CandidateDraft, Candidates
from controlplane.services.policies.policy_tests import LiveTests, TestsChange
from controlplane.services.policies.revisions import Revisions
from controlplane.services.policies.simulation import Simulations
from controlplane.services.policies.stages import StageReports, Stages
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane.v1 import policy_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySetUseCases:
    """What these calls call."""

    revisions: Revisions
    candidates: Candidates
    tests: LiveTests
    simulations: Simulations
    activations: PolicyActivations
    stages: Stages
    reports: StageReports


class PolicySetCalls(pb_grpc.PolicyServiceServicer):
    """Parses, calls, renders; mixed into `PolicyService`."""

    _sets: PolicySetUseCases
    _tokens: PageTokens

    async def ListPolicyRevisions(
        self, request: pb.ListPolicyRevisionsRequest, context: Context
    ) -> pb.ListPolicyRevisionsResponse:
        namespace = namespace_of(request.namespace)
        size, digest = page_size(request.page_size), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        page = await self._sets.revisions.page(
            namespace,
            before=int(cursor) if cursor else None,
            limit=size,
            min_revision=request.min_revision,
        )
        response = pb.ListPolicyRevisionsResponse(
            revisions=[summary_to_proto(one) for one in page.revisions],
            live_revision=page.live_revision,
        )
        if page.next_before:
            token = self._tokens.encode(namespace, digest, str(page.next_before))
            response.next_page_token = token
        return response

    async def GetPolicyRevision(
        self, request: pb.GetPolicyRevisionRequest, context: Context
    ) -> pb.GetPolicyRevisionResponse:
        found = await self._sets.revisions.at(
            namespace_of(request.namespace), request.revision, min_revision=request.min_revision
        )
        return set_to_proto(found)

    async def DiffPolicyRevisions(
        self, request: pb.DiffPolicyRevisionsRequest, context: Context
    ) -> pb.DiffPolicyRevisionsResponse:
        before, after, found = await self._sets.revisions.difference(
            namespace_of(request.namespace), request.from_revision, request.to_revision
        )
        return pb.DiffPolicyRevisionsResponse(
            differences=differences_to_proto(found, room=DIFFERENCES_ALONE_BYTES),
            from_digest=before.digest,
            to_digest=after.digest,
        )

    async def CreatePolicyCandidate(
        self, request: pb.CreatePolicyCandidateRequest, context: Context
    ) -> pb.CreatePolicyCandidateResponse:
        shown = await self._sets.candidates.create(
            namespace_of(request.namespace),
            draft_from_proto(request, request_key(request, request.request_id)),
            caller=current_caller(),
        )
        return created_to_proto(shown)

    async def GetPolicyCandidate(
        self, request: pb.GetPolicyCandidateRequest, context: Context
    ) -> pb.GetPolicyCandidateResponse:
        shown = await self._sets.candidates.get(
            namespace_of(request.namespace),
            required(request.candidate_id, "candidate_id"),
            min_revision=request.min_revision,
        )
        return shown_to_proto(shown)

    async def ListPolicyCandidates(
        self, request: pb.ListPolicyCandidatesRequest, context: Context
    ) -> pb.ListPolicyCandidatesResponse:
        found = await self._sets.candidates.list(
            namespace_of(request.namespace), min_revision=request.min_revision
        )
        return pb.ListPolicyCandidatesResponse(
            candidates=[candidate_to_proto(one, whole=False) for one in found]
        )

    async def DeletePolicyCandidate(
        self, request: pb.DeletePolicyCandidateRequest, context: Context
    ) -> pb.DeletePolicyCandidateResponse:
        revision = await self._sets.candidates.delete(
            namespace_of(request.namespace),
            required(request.candidate_id, "candidate_id"),
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.DeletePolicyCandidateResponse(revision=revision)

    async def GetPolicyTests(
        self, request: pb.GetPolicyTestsRequest, context: Context
    ) -> pb.GetPolicyTestsResponse:
        tests, failed = await self._sets.tests.get(
            namespace_of(request.namespace), min_revision=request.min_revision
        )
        return pb.GetPolicyTestsResponse(
            tests=[test_to_proto(test) for test in tests.tests],
            revision=tests.revision,
            failures=failures_to_proto(failed),
        )

    async def ReplacePolicyTests(
        self, request: pb.ReplacePolicyTestsRequest, context: Context
    ) -> pb.ReplacePolicyTestsResponse:
        tests, failed = await self._sets.tests.put(
            namespace_of(request.namespace),
            TestsChange(
                tests=tests_from_proto(request.tests, "tests"),
                expected_revision=(
                    request.expected_revision if request.HasField("expected_revision") else None
                ),
                reason=reason_from_proto(request.reason),
                dry_run=request.dry_run,
                request=request_key(request, request.request_id),
            ),
            caller=current_caller(),
        )
        return pb.ReplacePolicyTestsResponse(
            revision=tests.revision, failures=failures_to_proto(failed)
        )

    async def SimulatePolicies(
        self, request: pb.SimulatePoliciesRequest, context: Context
    ) -> pb.SimulatePoliciesResponse:
        namespace, sample = namespace_of(request.namespace), sample_from_proto(request)
        stated = stated_from_proto(request)
        if request.candidate_id:
            if stated or request.delete or request.whole:
                raise InvalidArgument.of("candidate_id", "does not go with policies stated here")
            view, candidate = await self._sets.candidates.kept(namespace, request.candidate_id)
        else:
            view, candidate = await self._sets.candidates.stated(
                namespace,
                CandidateDraft(
                    whole=stated if request.whole else None,
                    put=() if request.whole else stated,
                    delete=tuple(request.delete),
                ),
            )
        live = view.policies
        report = await self._sets.simulations.run(view, candidate.applied_to(live).values(), sample)
        return pb.SimulatePoliciesResponse(
            report=report_to_proto(report),
            differences=differences_to_proto(candidate.changes_to(live)),
            live_revision=view.policy_set.revision,
        )

    async def ActivatePolicyRevision(
        self, request: pb.ActivatePolicyRevisionRequest, context: Context
    ) -> pb.ActivatePolicyRevisionResponse:
        done = await self._sets.activations.activate(
            namespace_of(request.namespace),
            activation_from_proto(request, request_key(request, request.request_id)),
            caller=current_caller(),
        )
        return activated_to_proto(done)

    async def GetPolicyStage(
        self, request: pb.GetPolicyStageRequest, context: Context
    ) -> pb.GetPolicyStageResponse:
        found = await self._sets.reports.of(
            namespace_of(request.namespace), min_revision=request.min_revision
        )
        if found is None:
            return pb.GetPolicyStageResponse()
        shadow = found.shadow if found.stage.kind is StageKind.SHADOW else None
        return pb.GetPolicyStageResponse(
            stage=stage_to_proto(found.stage),
            agents=found.agents,
            agents_total=found.agents_total,
            report=None if shadow is None else report_to_proto(shadow.report),
            dropped=0 if shadow is None else shadow.dropped,
        )

    async def StopPolicyStage(
        self, request: pb.StopPolicyStageRequest, context: Context
    ) -> pb.StopPolicyStageResponse:
        stage = await self._sets.stages.stop(
            namespace_of(request.namespace),
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.StopPolicyStageResponse(stage=None if stage is None else stage_to_proto(stage))

    async def RollbackPolicyRevision(
        self, request: pb.RollbackPolicyRevisionRequest, context: Context
    ) -> pb.RollbackPolicyRevisionResponse:
        if not request.to_revision:
            raise InvalidArgument.of("to_revision", "is required")
        done = await self._sets.activations.rollback(
            namespace_of(request.namespace),
            request.to_revision,
            expected_revision=(
                request.expected_revision if request.HasField("expected_revision") else None
            ),
            reason=required(reason_from_proto(request.reason), "reason"),
            request=request_key(request, request.request_id),
            dry_run=request.dry_run,
            caller=current_caller(),
        )
        return pb.RollbackPolicyRevisionResponse(
            live_revision=done.live_revision, differences=differences_to_proto(done.changes)
        )
