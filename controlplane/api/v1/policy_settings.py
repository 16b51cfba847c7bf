"""The calls about the settings of a namespace's policies; a part of PolicyService."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.policy_settings import (
    settings_change_from_proto,
    settings_to_proto,
)
from controlplane.api.convert.requests import request_key
from controlplane.domain.identity import namespace_of
from controlplane.services.policies.settings import PolicySettingsKeeper
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane.v1 import policy_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class PolicySettingsCalls(pb_grpc.PolicyServiceServicer):
    """Parses, calls, renders; mixed into `PolicyService`."""

    _settings: PolicySettingsKeeper

    async def GetPolicySettings(
        self, request: pb.GetPolicySettingsRequest, context: Context
    ) -> pb.GetPolicySettingsResponse:
        settings = await self._settings.get(
            namespace_of(request.namespace), min_revision=request.min_revision
        )
        return pb.GetPolicySettingsResponse(settings=settings_to_proto(settings))

    async def UpdatePolicySettings(
        self, request: pb.UpdatePolicySettingsRequest, context: Context
    ) -> pb.UpdatePolicySettingsResponse:
        settings = await self._settings.update(
            namespace_of(request.namespace),
            settings_change_from_proto(request, request_key(request, request.request_id)),
            caller=current_caller(),
        )
        return pb.UpdatePolicySettingsResponse(settings=settings_to_proto(settings))
