"""The audit; the contract is protos/fleetplane/v1/audit_service.proto."""

from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.audit import (
    audited_from_proto,
    checkpoint_from_proto,
    checkpoint_to_proto,
    event_to_proto,
    filter_from_proto,
    query_from_proto,
    result_to_proto,
    sequence_from_proto,
    status_to_proto,
)
from controlplane.api.convert.requests import reason_from_proto
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.services.audit.events import AuditEvent, AuditEvents
from controlplane.services.audit.exporting import AuditExport
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.verifying import AuditVerifier, VerificationResult
from fleetplane.v1 import audit_service_pb2 as pb
from fleetplane.v1 import audit_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditUseCases:
    """What the service is made of."""

    events: AuditEvents
    keeper: AuditKeeper
    verifier: AuditVerifier
    export: AuditExport


class AuditService(pb_grpc.AuditServiceServicer):
    """Parses, calls, renders."""

    def __init__(self, audit: AuditUseCases, tokens: PageTokens, keeper: StreamKeeper) -> None:
        self._audit = audit
        self._tokens = tokens
        self._keeper = keeper

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        namespace, digest = audited_from_proto(request.namespace), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        page = await self._audit.events.page(
            namespace,
            query_from_proto(request),
            cursor=int(cursor or 0),
            limit=page_size(request.page_size),
        )
        response = pb.ListEventsResponse(events=map(event_to_proto, page.events))
        if page.cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, str(page.cursor))
        return response

    async def WatchEvents(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchEventsRequest, context: Context
    ) -> None:
        after = None
        if request.HasField("after_sequence"):
            after = sequence_from_proto(request.after_sequence, "after_sequence")
        await run_stream(
            self._audit.events.watch(
                audited_from_proto(request.namespace),
                filter_from_proto(request.filter),
                after=after,
            ),
            context,
            render=_watched,
            go_away=lambda last: pb.WatchEventsResponse(go_away=last),
            keeper=self._keeper,
        )

    async def GetAuditStatus(
        self, request: pb.GetAuditStatusRequest, context: Context
    ) -> pb.GetAuditStatusResponse:
        keeper = self._audit.keeper
        status = await keeper.status(audited_from_proto(request.namespace))
        return status_to_proto(status, key_id=keeper.key_id, retention_days=keeper.retention_days)

    async def VerifyAudit(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.VerifyAuditRequest, context: Context
    ) -> None:
        expected = None
        if request.HasField("expected"):
            expected = checkpoint_from_proto(request.expected, "expected", anywhere=True)
        await run_stream(
            self._audit.verifier.verify(audited_from_proto(request.namespace), expected),
            context,
            render=_verified,
            go_away=lambda last: pb.VerifyAuditResponse(go_away=last),
            keeper=self._keeper,
        )

    async def ExportAudit(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.ExportAuditRequest, context: Context
    ) -> None:
        after = sequence_from_proto(request.after_sequence, "after_sequence")
        await run_stream(
            self._audit.export.export(audited_from_proto(request.namespace), after=after),
            context,
            render=_exported,
            go_away=lambda last: pb.ExportAuditResponse(go_away=last),
            keeper=self._keeper,
        )

    async def ConfirmAuditExport(
        self, request: pb.ConfirmAuditExportRequest, context: Context
    ) -> pb.ConfirmAuditExportResponse:
        await self._audit.keeper.confirm(
            audited_from_proto(request.namespace),
            checkpoint_from_proto(request.checkpoint, "checkpoint"),
            reason=reason_from_proto(request.reason),
            actor=current_caller().name,
        )
        return pb.ConfirmAuditExportResponse()

    async def TrimAudit(
        self, request: pb.TrimAuditRequest, context: Context
    ) -> pb.TrimAuditResponse:
        first, removed = await self._audit.keeper.trim(
            audited_from_proto(request.namespace),
            checkpoint_from_proto(request.checkpoint, "checkpoint"),
            reason=reason_from_proto(request.reason),
            actor=current_caller().name,
        )
        return pb.TrimAuditResponse(first_sequence=first, removed=removed)


def _watched(said: AuditEvent | int) -> pb.WatchEventsResponse:
    if isinstance(said, AuditEvent):
        return pb.WatchEventsResponse(event=event_to_proto(said))
    return pb.WatchEventsResponse(bookmark=said)


def _verified(said: int | VerificationResult) -> pb.VerifyAuditResponse:
    if isinstance(said, VerificationResult):
        return pb.VerifyAuditResponse(result=result_to_proto(said))
    return pb.VerifyAuditResponse(verified_through=said)


def _exported(said: bytes | Checkpoint) -> pb.ExportAuditResponse:
    if isinstance(said, Checkpoint):
        return pb.ExportAuditResponse(checkpoint=checkpoint_to_proto(said))
    return pb.ExportAuditResponse(lines=said)
