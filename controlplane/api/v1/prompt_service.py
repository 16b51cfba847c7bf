"""Prompts; the contract is protos/fleetplane/v1/prompt_service.proto."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert import prompts as convert
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.evaluations import (
    choice_from_proto,
    comparison_to_proto,
    evaluation_to_proto,
    gate_from_proto,
    run_from_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.convert.values import struct_to_json
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.access.name_patterns import check_agent_name
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.domain.prompts.content import check_digest, check_label, check_name
from controlplane.domain.prompts.labels import movable
from controlplane.services.prompts.evaluations import Evaluations
from controlplane.services.prompts.labels import Move, PromptLabels
from controlplane.services.prompts.ports import PromptUse
from controlplane.services.prompts.prompts import Prompts
from controlplane.services.prompts.resolution import PromptResolution, Question
from controlplane.services.prompts.watch import PromptWatch
from fleetplane.v1 import prompt_service_pb2 as pb
from fleetplane.v1 import prompt_service_pb2_grpc as pb_grpc
from fleetplane.v1 import watch_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class PromptService(pb_grpc.PromptServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        prompts: Prompts,
        labels: PromptLabels,
        resolution: PromptResolution,
        evaluations: Evaluations,
        watch_of: Callable[[str], PromptWatch],
        tokens: PageTokens,
        keeper: StreamKeeper,
    ) -> None:
        self._prompts = prompts
        self._labels = labels
        self._resolution = resolution
        self._evaluations = evaluations
        self._watch_of = watch_of
        self._tokens = tokens
        self._keeper = keeper

    async def CreatePromptVersion(
        self, request: pb.CreatePromptVersionRequest, context: Context
    ) -> pb.CreatePromptVersionResponse:
        expected = request.expected_latest if request.HasField("expected_latest") else None
        written = await self._prompts.create(
            namespace_of(request.namespace),
            check_name(request.prompt),
            convert.content_from_proto(request),
            reason=convert.written_reason(request.reason),
            force_new=request.force_new,
            expected_latest=expected,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreatePromptVersionResponse(
            version=convert.version_to_proto(written.version), created=written.created
        )

    async def GetPromptVersion(
        self, request: pb.GetPromptVersionRequest, context: Context
    ) -> pb.GetPromptVersionResponse:
        _version_or_label(request.version, request.label)
        found = await self._prompts.get(
            namespace_of(request.namespace),
            check_name(request.prompt),
            version=request.version,
            label=request.label,
            min_revision=request.min_revision,
        )
        return pb.GetPromptVersionResponse(
            version=convert.version_to_proto(found.version),
            labels=found.labels,
            position=position_to_proto(found.position),
        )

    async def ListPrompts(
        self, request: pb.ListPromptsRequest, context: Context
    ) -> pb.ListPromptsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._prompts.page(
            namespace,
            prefix=request.name_prefix,
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListPromptsResponse(
            prompts=[convert.prompt_to_proto(one) for one in page.prompts],
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def ListPromptVersions(
        self, request: pb.ListPromptVersionsRequest, context: Context
    ) -> pb.ListPromptVersionsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        page = await self._prompts.versions(
            namespace,
            check_name(request.prompt),
            before=int(cursor) if cursor else None,
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListPromptVersionsResponse(
            prompt=convert.prompt_to_proto(page.prompt),
            versions=[convert.version_to_proto(one, with_content=False) for one in page.versions],
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def DiffPromptVersions(
        self, request: pb.DiffPromptVersionsRequest, context: Context
    ) -> pb.DiffPromptVersionsResponse:
        found = await self._prompts.diff(
            namespace_of(request.namespace),
            check_name(request.prompt),
            _number(request.from_version, "from_version"),
            _number(request.to_version, "to_version"),
        )
        return convert.difference_to_proto(found)

    async def MoveLabel(
        self, request: pb.MoveLabelRequest, context: Context
    ) -> pb.MoveLabelResponse:
        move = Move(
            prompt=check_name(request.prompt),
            label=movable(request.label),
            version=_number(request.version, "version"),
            reason=convert.written_reason(request.reason),
            expected_revision=_expected_revision(request),
            override_reason=reason_from_proto(request.override_reason, field="override_reason"),
            min_revision=request.min_revision,
        )
        moved = await self._labels.move(
            namespace_of(request.namespace),
            move,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.MoveLabelResponse(
            label=convert.label_to_proto(moved.name, moved.label),
            previous_version=moved.previous_version,
            comparison=comparison_to_proto(moved.comparison) if moved.comparison else None,
            overridden=moved.overridden,
            changed=moved.changed,
        )

    async def RemoveLabel(
        self, request: pb.RemoveLabelRequest, context: Context
    ) -> pb.RemoveLabelResponse:
        revision = await self._labels.remove(
            namespace_of(request.namespace),
            check_name(request.prompt),
            movable(required(request.label, "label")),
            expected_revision=_expected_revision(request),
            reason=convert.written_reason(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.RemoveLabelResponse(revision=revision)

    async def GetLabelHistory(
        self, request: pb.GetLabelHistoryRequest, context: Context
    ) -> pb.GetLabelHistoryResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        moves, more = await self._labels.history(
            namespace,
            check_name(request.prompt),
            label=request.label,
            before=int(cursor) if cursor else None,
            limit=page_size(request.page_size),
        )
        response = pb.GetLabelHistoryResponse(moves=[convert.move_to_proto(one) for one in moves])
        if more:
            response.next_page_token = self._tokens.encode(namespace, digest, str(more))
        return response

    async def RestorePromptVersion(
        self, request: pb.RestorePromptVersionRequest, context: Context
    ) -> pb.RestorePromptVersionResponse:
        expected = request.expected_latest if request.HasField("expected_latest") else None
        written = await self._prompts.restore(
            namespace_of(request.namespace),
            check_name(request.prompt),
            _number(request.version, "version"),
            reason=convert.written_reason(request.reason),
            expected_latest=expected,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.RestorePromptVersionResponse(
            version=convert.version_to_proto(written.version), created=written.created
        )

    async def SetAgentLabel(
        self, request: pb.SetAgentLabelRequest, context: Context
    ) -> pb.SetAgentLabelResponse:
        prompt = await self._labels.set_agent_label(
            namespace_of(request.namespace),
            check_name(request.prompt),
            check_agent_name(request.agent_name),
            movable(required(request.label, "label")),
            reason=convert.written_reason(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.SetAgentLabelResponse(prompt=convert.prompt_to_proto(prompt))

    async def UnsetAgentLabel(
        self, request: pb.UnsetAgentLabelRequest, context: Context
    ) -> pb.UnsetAgentLabelResponse:
        prompt = await self._labels.set_agent_label(
            namespace_of(request.namespace),
            check_name(request.prompt),
            check_agent_name(request.agent_name),
            "",
            reason=convert.written_reason(request.reason),
            request=None,
            caller=current_caller(),
        )
        return pb.UnsetAgentLabelResponse(prompt=convert.prompt_to_proto(prompt))

    async def ResolvePrompt(
        self, request: pb.ResolvePromptRequest, context: Context
    ) -> pb.ResolvePromptResponse:
        question = Question(
            prompt=check_name(request.prompt),
            agent_id=request.agent_id,
            session_id=request.session_id,
            pin=request.pin if request.HasField("pin") else True,
            min_revision=request.min_revision,
        )
        resolved = await self._resolution.resolve(
            namespace_of(request.namespace), question, current_caller()
        )
        return convert.resolved_to_proto(resolved)

    async def RenderPrompt(
        self, request: pb.RenderPromptRequest, context: Context
    ) -> pb.RenderPromptResponse:
        _version_or_label(request.version, request.label)
        version, rendered = self._resolution.render(
            namespace_of(request.namespace),
            check_name(request.prompt),
            version=request.version,
            label=request.label,
            values=struct_to_json(request.variables, "variables"),
        )
        return convert.rendered_to_proto(version, rendered)

    async def WatchPrompts(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchPromptsRequest, context: Context
    ) -> None:
        watch = self._watch_of(namespace_of(request.namespace))
        await run_stream(
            watch.events(convert.wanted_from_proto(request)),
            context,
            render=convert.watch_event_to_proto,
            go_away=_go_away,
            keeper=self._keeper,
        )

    async def RecordEvaluation(
        self, request: pb.RecordEvaluationRequest, context: Context
    ) -> pb.RecordEvaluationResponse:
        # 10,000 items take tenths of a second to read: not while others wait.
        run, key = await asyncio.to_thread(
            lambda: (run_from_proto(request), request_key(request, request.request_id))
        )
        recorded = await self._evaluations.record(
            namespace_of(request.namespace), run, request=key, caller=current_caller()
        )
        return pb.RecordEvaluationResponse(evaluation=evaluation_to_proto(recorded))

    async def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: Context
    ) -> pb.ListEvaluationsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        if request.dataset_sha256:
            check_digest(request.dataset_sha256, "dataset_sha256")
        page = await self._evaluations.page(
            namespace,
            check_name(request.prompt),
            version=request.version,
            dataset_sha256=request.dataset_sha256,
            before=int(cursor) if cursor else None,
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListEvaluationsResponse(
            evaluations=[evaluation_to_proto(one) for one in page.evaluations],
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def ComparePromptVersions(
        self, request: pb.ComparePromptVersionsRequest, context: Context
    ) -> pb.ComparePromptVersionsResponse:
        found = await self._evaluations.compare(
            namespace_of(request.namespace), check_name(request.prompt), choice_from_proto(request)
        )
        return pb.ComparePromptVersionsResponse(comparison=comparison_to_proto(found))

    async def SetLabelGate(
        self, request: pb.SetLabelGateRequest, context: Context
    ) -> pb.SetLabelGateResponse:
        caller, reason = current_caller(), convert.written_reason(request.reason)
        gate = None
        if not request.remove:
            gate = gate_from_proto(request.gate, set_by=caller.name, reason=reason)
        prompt = await self._labels.set_gate(
            namespace_of(request.namespace),
            check_name(request.prompt),
            movable(request.gate.label, "gate.label"),
            gate,
            expected_revision=_expected_revision(request),
            reason=reason,
            request=request_key(request, request.request_id),
            caller=caller,
        )
        return pb.SetLabelGateResponse(prompt=convert.prompt_to_proto(prompt))

    async def MarkPromptUsed(
        self, request: pb.MarkPromptUsedRequest, context: Context
    ) -> pb.MarkPromptUsedResponse:
        if not request.is_fallback:
            _number(request.version, "version")
        use = PromptUse(
            prompt=check_name(request.prompt),
            version=request.version,
            content_sha256=check_digest(request.content_sha256, "content_sha256"),
            agent_name="",
            session_id=request.session_id,
            experiment=request.experiment,
            variant=request.variant,
            phase=request.experiment_phase,
        )
        recorded = await self._resolution.mark_used(
            namespace_of(request.namespace),
            use,
            agent_id=request.agent_id,
            is_fallback=request.is_fallback,
        )
        return pb.MarkPromptUsedResponse(recorded=recorded)


def _number(version: int, field: str) -> int:
    if not version:
        raise InvalidArgument.of(field, "is required")
    return version


def _version_or_label(version: int, label: str) -> None:
    if version and label:
        raise InvalidArgument.of("label", "version and label exclude each other")
    if label:
        check_label(label)


def _expected_revision(request: Any) -> int | None:
    return request.expected_revision if request.HasField("expected_revision") else None


def _go_away(message: watch_pb2.GoAway) -> pb.WatchPromptsResponse:
    return pb.WatchPromptsResponse(go_away=message)
