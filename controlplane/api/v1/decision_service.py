"""Recorded decisions; the contract is protos/fleetplane/v1/decision_service.proto."""

from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.decision_log import (
    ApprovalOf,
    explained_to_proto,
    page_to_proto,
    query_from_proto,
    record_to_proto,
    report_from_proto,
)
from controlplane.api.convert.requests import required
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.identity import namespace_of
from controlplane.services.policies.decision_replay import DecisionReplay
from controlplane.services.policies.decision_reports import DecisionReports
from controlplane.services.policies.recorded_decisions import RecordedDecisions
from controlplane.services.read_model import ReadModel
from fleetplane.v1 import decision_service_pb2 as pb
from fleetplane.v1 import decision_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionUseCases:
    """What the service is made of."""

    recorded: RecordedDecisions
    replay: DecisionReplay
    reports: DecisionReports
    read_model: ReadModel


class DecisionService(pb_grpc.DecisionServiceServicer):
    """Parses, calls, renders."""

    def __init__(self, decisions: DecisionUseCases, tokens: PageTokens) -> None:
        self._decisions = decisions
        self._tokens = tokens

    async def GetDecision(
        self, request: pb.GetDecisionRequest, context: Context
    ) -> pb.GetDecisionResponse:
        namespace = namespace_of(request.namespace)
        record = await self._decisions.recorded.get(
            namespace, required(request.decision_id, "decision_id")
        )
        return pb.GetDecisionResponse(
            decision=record_to_proto(record, self._approval_of(namespace))
        )

    async def QueryDecisions(
        self, request: pb.QueryDecisionsRequest, context: Context
    ) -> pb.QueryDecisionsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        limit = page_size(request.page_size)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        page = await self._decisions.recorded.query(
            namespace, query_from_proto(request), cursor=cursor, limit=limit
        )
        response = page_to_proto(page, self._approval_of(namespace))
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def ExplainDecision(
        self, request: pb.ExplainDecisionRequest, context: Context
    ) -> pb.ExplainDecisionResponse:
        namespace = namespace_of(request.namespace)
        explained = await self._decisions.replay.explain(
            namespace,
            required(request.decision_id, "decision_id"),
            why_not_policy_id=request.why_not_policy_id,
        )
        return explained_to_proto(explained, self._approval_of(namespace))

    async def RecordDecisions(
        self, request: pb.RecordDecisionsRequest, context: Context
    ) -> pb.RecordDecisionsResponse:
        recorded = await self._decisions.reports.record(
            namespace_of(request.namespace),
            report_from_proto(request),
            caller=current_caller().name,
        )
        return pb.RecordDecisionsResponse(recorded=recorded)

    def _approval_of(self, namespace: str) -> ApprovalOf:
        return self._decisions.read_model.view(namespace).governance.approval_of
