"""Lifecycle; the contract is protos/fleetplane/v1/lifecycle_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import May, current_caller
from controlplane.api.convert.agents import agent_to_proto
from controlplane.api.convert.lifecycle import (
    DEFAULT_DEADLINE_MS,
    drain_deadline_from_proto,
    drain_to_proto,
    drain_wait_from_proto,
    require_selector,
    short_reason_from_proto,
    status_reason_from_proto,
    stop_to_proto,
    stop_wait_from_proto,
    target_from_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.drain import Drain as Shutdown
from controlplane.api.patience import patience_ms, while_serving
from controlplane.api.stream_guard import StreamGuard
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import PermissionDenied
from controlplane.domain.agents import Agent
from controlplane.domain.drains import DrainThen
from controlplane.domain.identity import namespace_of
from controlplane.services.lifecycle.drains import Drains
from controlplane.services.lifecycle.emergency_stops import EmergencyStops
from controlplane.services.lifecycle.lifecycle import Lifecycle
from controlplane.services.live_instances import AgentEntry
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import lifecycle_service_pb2 as pb
from fleetplane.v1 import lifecycle_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class LifecycleService(pb_grpc.LifecycleServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        drains: Drains,
        stops: EmergencyStops,
        shutdown: Shutdown,
        guard: StreamGuard,
        may: May,
    ) -> None:
        """Serve the use cases; waits end when `shutdown` begins, or `guard` says so.

        `may` is asked whether who confirms an activation may approve.
        """
        self._lifecycle = lifecycle
        self._drains = drains
        self._stops = stops
        self._shutdown = shutdown
        self._guard = guard
        self._may = may

    async def Activate(self, request: pb.ActivateRequest, context: Context) -> pb.ActivateResponse:
        namespace, caller = namespace_of(request.namespace), current_caller()
        if request.confirm_pending and not self._may(caller, Permission.APPROVE, namespace):
            why = "confirm_pending is a vote for its approval"
            raise PermissionDenied(caller.name, Permission.APPROVE, namespace, why)
        agent = await self._lifecycle.activate(
            namespace,
            required(request.agent_id, "agent_id"),
            reason=reason_from_proto(request.reason),
            expected_revision=request.expected_revision,
            confirm_pending=request.confirm_pending,
            request=request_key(request, request.request_id),
            caller=caller,
        )
        return pb.ActivateResponse(agent=_agent(agent, namespace))

    async def Deactivate(
        self, request: pb.DeactivateRequest, context: Context
    ) -> pb.DeactivateResponse:
        namespace, drain_ms = namespace_of(request.namespace), None
        if request.HasField("drain_deadline"):
            drain_ms = drain_deadline_from_proto(request.drain_deadline, "drain_deadline")
        outcome = await self._lifecycle.deactivate(
            namespace,
            required(request.agent_id, "agent_id"),
            reason=status_reason_from_proto(request.reason),
            drain_ms=drain_ms,
            expected_revision=request.expected_revision,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.DeactivateResponse(
            agent=_agent(outcome.agent, namespace),
            drain=drain_to_proto(outcome.drain) if outcome.drain is not None else None,
            tasks_requeued=outcome.requeued,
            tasks_failed=outcome.failed,
        )

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        agent_id, instance_id = target_from_proto(request)
        deadline_ms = DEFAULT_DEADLINE_MS
        if request.HasField("deadline"):
            deadline_ms = drain_deadline_from_proto(request.deadline, "deadline")
        report = await self._drains.start(
            namespace_of(request.namespace),
            agent_id=agent_id,
            instance_id=instance_id,
            deadline_ms=deadline_ms,
            then=DrainThen.STAY,
            reason=short_reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.DrainResponse(drain=drain_to_proto(report))

    async def GetDrain(self, request: pb.GetDrainRequest, context: Context) -> pb.GetDrainResponse:
        agent_id, instance_id = target_from_proto(request)
        wait_ms = patience_ms(drain_wait_from_proto(request), context.time_remaining())
        asked = self._drains.get(
            namespace_of(request.namespace),
            agent_id=agent_id,
            instance_id=instance_id,
            wait_ms=wait_ms,
        )
        report = await while_serving(self._shutdown, self._guard.while_permitted(asked))
        return pb.GetDrainResponse(drain=drain_to_proto(report))

    async def CancelDrain(
        self, request: pb.CancelDrainRequest, context: Context
    ) -> pb.CancelDrainResponse:
        agent_id, instance_id = target_from_proto(request)
        report = await self._drains.cancel(
            namespace_of(request.namespace),
            agent_id=agent_id,
            instance_id=instance_id,
            reason=short_reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.CancelDrainResponse(drain=drain_to_proto(report))

    async def Decommission(
        self, request: pb.DecommissionRequest, context: Context
    ) -> pb.DecommissionResponse:
        namespace = namespace_of(request.namespace)
        agent, removed = await self._lifecycle.decommission(
            namespace,
            required(request.agent_id, "agent_id"),
            reason=short_reason_from_proto(request.reason),
            force=request.force,
            expected_revision=request.expected_revision,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.DecommissionResponse(agent=_agent(agent, namespace), instances_removed=removed)

    async def EmergencyStop(
        self, request: pb.EmergencyStopRequest, context: Context
    ) -> pb.EmergencyStopResponse:
        require_selector(request.tags, request.names, request.all)
        report = await self._stops.stop(
            namespace_of(request.namespace),
            tags=dict(request.tags),
            names=tuple(request.names),
            everything=request.all,
            reason=status_reason_from_proto(request.reason),
            wait_ms=patience_ms(stop_wait_from_proto(request), context.time_remaining()),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.EmergencyStopResponse(stop=stop_to_proto(report))

    async def GetEmergencyStop(
        self, request: pb.GetEmergencyStopRequest, context: Context
    ) -> pb.GetEmergencyStopResponse:
        report = await self._stops.get(
            namespace_of(request.namespace), required(request.stop_id, "stop_id")
        )
        return pb.GetEmergencyStopResponse(stop=stop_to_proto(report))


def _agent(agent: Agent, namespace: str) -> agent_pb2.Agent:
    return agent_to_proto(AgentEntry(agent), namespace, include_instances=False)
