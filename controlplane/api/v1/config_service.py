"""Configuration of agents; the contract is protos/fleetplane/v1/config_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_call, current_caller
from controlplane.api.convert.configs import (
    change_from_proto,
    changed_to_proto,
    convergence_to_proto,
    effective_to_proto,
    layer_to_proto,
    position_to_proto,
    readable_scope_from_proto,
    scope_from_proto,
    sources_to_proto,
    watch_event_to_proto,
    watched_from_proto,
)
from controlplane.api.convert.extra_schemas import (
    extra_schema_to_proto,
    schema_change_from_proto,
    schema_changed_to_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.services.config_watch import ConfigWatch
from controlplane.services.configs import Configs
from controlplane.services.convergence import Convergence
from controlplane.services.extra_schemas import ExtraSchemas
from controlplane.services.read_model import ReadModel
from fleetplane.v1 import config_service_pb2 as pb
from fleetplane.v1 import config_service_pb2_grpc as pb_grpc
from fleetplane.v1 import watch_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class ConfigService(pb_grpc.ConfigServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        configs: Configs,
        extra_schemas: ExtraSchemas,
        convergence: Convergence,
        read_model: ReadModel,
        tokens: PageTokens,
        keeper: StreamKeeper,
        guard: StreamGuard,
    ) -> None:
        self._configs = configs
        self._extra_schemas = extra_schemas
        self._convergence = convergence
        self._read_model = read_model
        self._tokens = tokens
        self._keeper = keeper
        self._guard = guard

    async def GetConfig(
        self, request: pb.GetConfigRequest, context: Context
    ) -> pb.GetConfigResponse:
        scope = readable_scope_from_proto(request.scope)
        view = await self._configs.view(namespace_of(request.namespace), request.min_revision)
        config = self._configs.effective(view, scope)
        response = pb.GetConfigResponse(
            config=effective_to_proto(config), position=position_to_proto(view.position)
        )
        if request.explain:
            response.sources.extend(sources_to_proto(config))
            response.layers.extend(layer_to_proto(x) for x in self._configs.layers(view, scope))
            if current_call().confined:
                # Who changed what for the whole namespace, and why, is not about the agent.
                for layer in response.layers:
                    layer.ClearField("author")
                    layer.ClearField("reason")
        return response

    async def UpdateConfig(
        self, request: pb.UpdateConfigRequest, context: Context
    ) -> pb.UpdateConfigResponse:
        change = change_from_proto(request, request_key(request, request.request_id))
        outcome = await self._configs.update(
            namespace_of(request.namespace), change, caller=current_caller()
        )
        return changed_to_proto(outcome)

    async def WatchConfig(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchConfigRequest, context: Context
    ) -> None:
        watch = ConfigWatch(
            self._read_model,
            self._read_model.hub,
            self._configs,
            namespace_of(request.namespace),
        )
        events = watch.events(watched_from_proto(request.scopes))
        await run_stream(
            events,
            context,
            render=watch_event_to_proto,
            go_away=_go_away,
            keeper=self._keeper,
        )

    async def ListConfigRevisions(
        self, request: pb.ListConfigRevisionsRequest, context: Context
    ) -> pb.ListConfigRevisionsResponse:
        namespace, scope = namespace_of(request.namespace), scope_from_proto(request.scope)
        size, digest = page_size(request.page_size), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        layers = await self._configs.history(
            namespace, scope, before=int(cursor) if cursor else None, limit=size + 1
        )
        response = pb.ListConfigRevisionsResponse(
            revisions=[layer_to_proto(layer) for layer in layers[:size]]
        )
        if len(layers) > size:
            last = str(layers[size - 1].revision)
            response.next_page_token = self._tokens.encode(namespace, digest, last)
        return response

    async def RollbackConfig(
        self, request: pb.RollbackConfigRequest, context: Context
    ) -> pb.RollbackConfigResponse:
        if not request.to_revision:
            raise InvalidArgument.of("to_revision", "is required")
        layer = await self._configs.rollback(
            namespace_of(request.namespace),
            scope_from_proto(request.scope),
            request.to_revision,
            expected_revision=(
                request.expected_revision if request.HasField("expected_revision") else None
            ),
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.RollbackConfigResponse(layer=layer_to_proto(layer))

    async def WaitForConvergence(
        self, request: pb.WaitForConvergenceRequest, context: Context
    ) -> pb.WaitForConvergenceResponse:
        if not request.revision:
            raise InvalidArgument.of("revision", "is required")
        asked = self._convergence.wait(
            namespace_of(request.namespace),
            readable_scope_from_proto(request.scope),
            request.revision,
            seconds=context.time_remaining(),
        )
        outcome = await self._guard.while_permitted(asked)
        return convergence_to_proto(outcome)

    async def SetExtraSchema(
        self, request: pb.SetExtraSchemaRequest, context: Context
    ) -> pb.SetExtraSchemaResponse:
        change = schema_change_from_proto(request, request_key(request, request.request_id))
        outcome = await self._extra_schemas.set(
            namespace_of(request.namespace), change, caller=current_caller()
        )
        return schema_changed_to_proto(outcome)

    async def GetExtraSchema(
        self, request: pb.GetExtraSchemaRequest, context: Context
    ) -> pb.GetExtraSchemaResponse:
        view = await self._configs.view(namespace_of(request.namespace), request.min_revision)
        return pb.GetExtraSchemaResponse(
            schema=extra_schema_to_proto(view.extra_schema) if view.extra_schema else None,
            position=position_to_proto(view.position),
        )


def _go_away(message: watch_pb2.GoAway) -> pb.WatchConfigResponse:
    return pb.WatchConfigResponse(go_away=message)
