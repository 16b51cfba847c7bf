"""Namespaces; the contract is protos/fleetplane/v1/namespace_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.namespaces import (
    namespace_to_proto,
    quotas_from_proto,
    quotas_to_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.identity import namespace_of
from controlplane.domain.namespaces import Namespace
from controlplane.services.namespaces.namespaces import NamespaceChange, Namespaces
from controlplane.services.namespaces.usage import Usage
from fleetplane.v1 import namespace_service_pb2 as pb
from fleetplane.v1 import namespace_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class NamespaceService(pb_grpc.NamespaceServiceServicer):
    """Parses, calls, renders."""

    def __init__(self, namespaces: Namespaces, usage: Usage, tokens: PageTokens) -> None:
        self._namespaces = namespaces
        self._usage = usage
        self._tokens = tokens

    async def CreateNamespace(
        self, request: pb.CreateNamespaceRequest, context: Context
    ) -> pb.CreateNamespaceResponse:
        namespace = await self._namespaces.create(
            Namespace(
                name=request.name,
                description=request.description,
                labels=dict(request.labels),
                quotas=quotas_from_proto(request.quotas),
            ),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreateNamespaceResponse(namespace=namespace_to_proto(namespace))

    async def GetNamespace(
        self, request: pb.GetNamespaceRequest, context: Context
    ) -> pb.GetNamespaceResponse:
        namespace = self._namespaces.get(namespace_of(request.namespace))
        return pb.GetNamespaceResponse(namespace=namespace_to_proto(namespace))

    async def ListNamespaces(
        self, request: pb.ListNamespacesRequest, context: Context
    ) -> pb.ListNamespacesResponse:
        digest = digest_of_arguments(request)
        page = self._namespaces.page(
            current_caller(),
            after=self._tokens.decode(request.page_token, SYSTEM_NAMESPACE, digest),
            limit=page_size(request.page_size),
        )
        response = pb.ListNamespacesResponse(
            namespaces=[namespace_to_proto(namespace) for namespace in page.namespaces]
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(
                SYSTEM_NAMESPACE, digest, page.next_cursor
            )
        return response

    async def UpdateNamespace(
        self, request: pb.UpdateNamespaceRequest, context: Context
    ) -> pb.UpdateNamespaceResponse:
        change = NamespaceChange(
            description=request.description if request.HasField("description") else None,
            labels=dict(request.labels),
            quotas=quotas_from_proto(request.quotas) if request.HasField("quotas") else None,
            expected_revision=request.expected_revision,
            reason=reason_from_proto(request.reason),
        )
        namespace = await self._namespaces.update(
            namespace_of(request.namespace), change, caller=current_caller()
        )
        return pb.UpdateNamespaceResponse(namespace=namespace_to_proto(namespace))

    async def DeleteNamespace(
        self, request: pb.DeleteNamespaceRequest, context: Context
    ) -> pb.DeleteNamespaceResponse:
        removed = await self._namespaces.delete(
            namespace_of(request.namespace),
            expected_revision=request.expected_revision,
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.DeleteNamespaceResponse(removed=removed)

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        namespace = self._namespaces.get(namespace_of(request.namespace))
        report = await self._usage.of(namespace.name)
        return pb.GetUsageResponse(
            used=quotas_to_proto(report.used),
            quotas=quotas_to_proto(namespace.quotas),
            position=position_to_proto(report.position),
        )
