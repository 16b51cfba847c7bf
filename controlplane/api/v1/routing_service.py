"""Routes; the contract is protos/fleetplane/v1/routing_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.convert.routes import route_to_proto, shares_from_proto
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.identity import namespace_of
from controlplane.services.routing.routes import Routes
from fleetplane.v1 import routing_service_pb2 as pb
from fleetplane.v1 import routing_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class RoutingService(pb_grpc.RoutingServiceServicer):
    """Parses, calls, renders."""

    def __init__(self, routes: Routes, tokens: PageTokens) -> None:
        self._routes = routes
        self._tokens = tokens

    async def SetRoute(self, request: pb.SetRouteRequest, context: Context) -> pb.SetRouteResponse:
        route = await self._routes.set(
            namespace_of(request.namespace),
            required(request.agent_name, "agent_name"),
            shares_from_proto(request.shares),
            reason=reason_from_proto(request.reason),
            expected_revision=request.expected_revision,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.SetRouteResponse(route=route_to_proto(route))

    async def GetRoute(self, request: pb.GetRouteRequest, context: Context) -> pb.GetRouteResponse:
        route = await self._routes.get(
            namespace_of(request.namespace),
            required(request.agent_name, "agent_name"),
            min_revision=request.min_revision,
        )
        return pb.GetRouteResponse(route=route_to_proto(route))

    async def ListRoutes(
        self, request: pb.ListRoutesRequest, context: Context
    ) -> pb.ListRoutesResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._routes.page(
            namespace,
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListRoutesResponse(
            routes=[route_to_proto(route) for route in page.routes],
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def DeleteRoute(
        self, request: pb.DeleteRouteRequest, context: Context
    ) -> pb.DeleteRouteResponse:
        revision = await self._routes.delete(
            namespace_of(request.namespace),
            required(request.agent_name, "agent_name"),
            reason=reason_from_proto(request.reason),
            expected_revision=request.expected_revision,
            caller=current_caller(),
        )
        return pb.DeleteRouteResponse(revision=revision)
