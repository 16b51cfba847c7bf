"""Rollouts; the contract is protos/fleetplane/v1/rollout_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.convert.rollouts import (
    order_from_proto,
    phases_from_proto,
    rollout_to_proto,
    watched_to_proto,
)
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.services.rollouts.rollouts import Rollouts
from fleetplane.v1 import rollout_service_pb2 as pb
from fleetplane.v1 import rollout_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class RolloutService(pb_grpc.RolloutServiceServicer):
    """Parses, calls, renders."""

    def __init__(self, rollouts: Rollouts, tokens: PageTokens, keeper: StreamKeeper) -> None:
        self._rollouts = rollouts
        self._tokens = tokens
        self._keeper = keeper

    async def StartRollout(
        self, request: pb.StartRolloutRequest, context: Context
    ) -> pb.StartRolloutResponse:
        namespace = namespace_of(request.namespace)
        rollout = await self._rollouts.start(
            namespace,
            order_from_proto(request),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.StartRolloutResponse(rollout=rollout_to_proto(rollout, namespace))

    async def GetRollout(
        self, request: pb.GetRolloutRequest, context: Context
    ) -> pb.GetRolloutResponse:
        namespace = namespace_of(request.namespace)
        _require_one(request.rollout_id, request.agent_name)
        rollout = await self._rollouts.get(
            namespace,
            rollout_id=request.rollout_id,
            agent_name=request.agent_name,
            min_revision=request.min_revision,
        )
        return pb.GetRolloutResponse(rollout=rollout_to_proto(rollout, namespace))

    async def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: Context
    ) -> pb.ListRolloutsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._rollouts.page(
            namespace,
            agent_name=request.agent_name,
            phases=phases_from_proto(request.phases),
            active_only=request.active_only,
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListRolloutsResponse(
            rollouts=[
                rollout_to_proto(rollout, namespace, with_measurements=False)
                for rollout in page.rollouts
            ],
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def WatchRollout(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchRolloutRequest, context: Context
    ) -> None:
        namespace = namespace_of(request.namespace)
        _require_one(request.rollout_id, request.agent_name)
        await run_stream(
            self._rollouts.watch(
                namespace, rollout_id=request.rollout_id, agent_name=request.agent_name
            ),
            context,
            render=lambda event: watched_to_proto(event, namespace),
            go_away=lambda last: pb.WatchRolloutResponse(go_away=last),
            keeper=self._keeper,
        )

    async def PauseRollout(
        self, request: pb.PauseRolloutRequest, context: Context
    ) -> pb.PauseRolloutResponse:
        namespace = namespace_of(request.namespace)
        rollout = await self._rollouts.pause(
            namespace,
            required(request.rollout_id, "rollout_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.PauseRolloutResponse(rollout=rollout_to_proto(rollout, namespace))

    async def ResumeRollout(
        self, request: pb.ResumeRolloutRequest, context: Context
    ) -> pb.ResumeRolloutResponse:
        namespace = namespace_of(request.namespace)
        rollout = await self._rollouts.resume(
            namespace,
            required(request.rollout_id, "rollout_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.ResumeRolloutResponse(rollout=rollout_to_proto(rollout, namespace))

    async def PromoteRollout(
        self, request: pb.PromoteRolloutRequest, context: Context
    ) -> pb.PromoteRolloutResponse:
        namespace = namespace_of(request.namespace)
        seen = request.expected_step_index if request.HasField("expected_step_index") else None
        rollout = await self._rollouts.promote(
            namespace,
            required(request.rollout_id, "rollout_id"),
            full=request.full,
            expected_step_index=seen,
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.PromoteRolloutResponse(rollout=rollout_to_proto(rollout, namespace))

    async def AbortRollout(
        self, request: pb.AbortRolloutRequest, context: Context
    ) -> pb.AbortRolloutResponse:
        namespace = namespace_of(request.namespace)
        rollout = await self._rollouts.abort(
            namespace,
            required(request.rollout_id, "rollout_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.AbortRolloutResponse(rollout=rollout_to_proto(rollout, namespace))

    async def RetryRollout(
        self, request: pb.RetryRolloutRequest, context: Context
    ) -> pb.RetryRolloutResponse:
        namespace = namespace_of(request.namespace)
        rollout = await self._rollouts.retry(
            namespace,
            required(request.rollout_id, "rollout_id"),
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.RetryRolloutResponse(rollout=rollout_to_proto(rollout, namespace))


def _require_one(rollout_id: str, agent_name: str) -> None:
    if not rollout_id and not agent_name:
        raise InvalidArgument.of("rollout_id", "is required, or an agent_name")
