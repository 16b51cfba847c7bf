"""Rights; the contract is protos/fleetplane/v1/access_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.access import (
    binding_to_proto,
    explanation_to_proto,
    place_from_proto,
    role_to_proto,
    wanted_binding_from_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.access.permissions import ROLES
from controlplane.services.access.bindings import Bindings
from controlplane.services.access.explain import AccessCheck
from fleetplane.v1 import access_service_pb2 as pb
from fleetplane.v1 import access_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class AccessService(pb_grpc.AccessServiceServicer):
    """Parses, calls, renders."""

    def __init__(self, bindings: Bindings, check: AccessCheck, tokens: PageTokens) -> None:
        self._bindings = bindings
        self._check = check
        self._tokens = tokens

    async def ListRoles(
        self, request: pb.ListRolesRequest, context: Context
    ) -> pb.ListRolesResponse:
        return pb.ListRolesResponse(roles=[role_to_proto(role) for role in ROLES.values()])

    async def CreateRoleBinding(
        self, request: pb.CreateRoleBindingRequest, context: Context
    ) -> pb.CreateRoleBindingResponse:
        namespace = place_from_proto(request.namespace)
        wanted = wanted_binding_from_proto(request)
        binding = await self._bindings.create(
            namespace,
            wanted.subject,
            wanted.role,
            description=wanted.description,
            ttl_ms=wanted.ttl_ms,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreateRoleBindingResponse(binding=binding_to_proto(binding))

    async def ListRoleBindings(
        self, request: pb.ListRoleBindingsRequest, context: Context
    ) -> pb.ListRoleBindingsResponse:
        namespace, digest = place_from_proto(request.namespace), digest_of_arguments(request)
        page = self._bindings.page(
            namespace,
            subject=request.subject,
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
        )
        response = pb.ListRoleBindingsResponse(
            bindings=[binding_to_proto(binding) for binding in page.bindings]
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def DeleteRoleBinding(
        self, request: pb.DeleteRoleBindingRequest, context: Context
    ) -> pb.DeleteRoleBindingResponse:
        removed = await self._bindings.delete(
            place_from_proto(request.namespace),
            required(request.binding_id, "binding_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.DeleteRoleBindingResponse(removed=removed)

    async def CheckAccess(
        self, request: pb.CheckAccessRequest, context: Context
    ) -> pb.CheckAccessResponse:
        explanation = self._check.explain(
            current_caller(),
            required(request.action, "action"),
            place_from_proto(request.namespace),
            subjects=request.subjects,
            agent_name=request.agent_name,
        )
        return explanation_to_proto(explanation)
