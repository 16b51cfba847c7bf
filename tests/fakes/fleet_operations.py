# ruff: noqa: N802  # the names of the methods are those of the contract
"""Lifecycle, routes and rollouts of the control plane in memory."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from fleetplane.v1 import (
    agent_pb2,
    lifecycle_service_pb2,
    lifecycle_service_pb2_grpc,
    registry_service_pb2,
    rollout_service_pb2,
    rollout_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
)
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.fleet_registry import GO_AWAY, Service
from tests.fakes.fleet_tasks import HELD, TaskDesk

Command = registry_service_pb2.Command


class LifecycleFake(Service, lifecycle_service_pb2_grpc.LifecycleServiceServicer):
    """Moves of agents; drains look at the desk and at beats."""

    def __init__(self, plane: Plane, desk: TaskDesk) -> None:
        super().__init__(plane)
        self.desk = desk

    async def Activate(self, request: Any, context: Any) -> Any:
        await self.enter("Activate", context, request)
        agent = await self._agent(request.agent_id, context)
        agent.status = agent_pb2.AGENT_STATUS_ACTIVE
        return lifecycle_service_pb2.ActivateResponse(agent=agent)

    async def Deactivate(self, request: Any, context: Any) -> Any:
        await self.enter("Deactivate", context, request)
        agent = await self._agent(request.agent_id, context)
        agent.status, agent.status_reason = agent_pb2.AGENT_STATUS_INACTIVE, request.reason
        return lifecycle_service_pb2.DeactivateResponse(agent=agent)

    async def Decommission(self, request: Any, context: Any) -> Any:
        await self.enter("Decommission", context, request)
        agent = await self._agent(request.agent_id, context)
        agent.status = agent_pb2.AGENT_STATUS_DECOMMISSIONED
        return lifecycle_service_pb2.DecommissionResponse(agent=agent, instances_removed=1)

    async def _agent(self, agent_id: str, context: Any) -> agent_pb2.Agent:
        if agent_id not in self.plane.agents:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"))
        return self.plane.agents[agent_id]

    async def Drain(self, request: Any, context: Any) -> Any:
        await self.enter("Drain", context, request)
        me = request.instance_id
        self.desk.draining.add(me)
        self.plane.commands.append(
            Command(instance_id=me, kind=Command.KIND_DRAIN, reason=request.reason)
        )
        return lifecycle_service_pb2.DrainResponse(drain=self._drain(me))

    def _drain(self, instance_id: str) -> lifecycle_service_pb2.Drain:
        held = sum(
            one.instance_id == instance_id and one.state in HELD for one in self.desk.tasks.values()
        )
        beat = self.plane.latest.get(instance_id)
        idle = held == 0 and (beat is None or beat.in_flight == 0)
        return lifecycle_service_pb2.Drain(
            instance_id=instance_id,
            phase=lifecycle_service_pb2.DRAIN_PHASE_DRAINING,
            tasks_in_flight=held,
            safe_to_stop=idle,
        )

    async def GetDrain(self, request: Any, context: Any) -> Any:
        await self.enter("GetDrain", context)
        if request.instance_id not in self.desk.draining:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "DRAIN_NOT_FOUND"))
        if request.HasField("wait"):
            await self.plane.until(lambda: self._drain(request.instance_id).safe_to_stop)
        return lifecycle_service_pb2.GetDrainResponse(drain=self._drain(request.instance_id))

    async def CancelDrain(self, request: Any, context: Any) -> Any:
        await self.enter("CancelDrain", context)
        me = request.instance_id
        self.desk.draining.discard(me)
        self.plane.commands.append(Command(instance_id=me, kind=Command.KIND_RESUME))
        return lifecycle_service_pb2.CancelDrainResponse(
            drain=lifecycle_service_pb2.Drain(
                instance_id=me, phase=lifecycle_service_pb2.DRAIN_PHASE_CANCELLED
            )
        )

    async def EmergencyStop(self, request: Any, context: Any) -> Any:
        await self.enter("EmergencyStop", context, request)
        told = list(self.plane.instances)
        for name in told:
            self.plane.outcomes[name] = registry_service_pb2.BeatResult.OUTCOME_INACTIVE
            self.plane.commands.append(
                Command(
                    instance_id=name,
                    kind=Command.KIND_STOP,
                    reason=request.reason,
                    stop_id="stop-1",
                )
            )
        await self.plane.until(
            lambda: all(self.plane.latest[name].acknowledged_stop == "stop-1" for name in told)
        )
        return lifecycle_service_pb2.EmergencyStopResponse(
            stop=lifecycle_service_pb2.EmergencyStop(
                stop_id="stop-1", reason=request.reason, acknowledged=len(told)
            )
        )

    async def GetEmergencyStop(self, request: Any, context: Any) -> Any:
        await self.enter("GetEmergencyStop", context, request)
        await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "STOP_NOT_FOUND"))


class RoutingFake(Service, routing_service_pb2_grpc.RoutingServiceServicer):
    """Routes by agent name."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(plane)
        self.routes: dict[str, routing_service_pb2.Route] = {}

    async def SetRoute(self, request: Any, context: Any) -> Any:
        await self.enter("SetRoute", context, request)
        route = routing_service_pb2.Route(
            agent_name=request.agent_name, shares=request.shares, reason=request.reason
        )
        self.routes[request.agent_name] = route
        return routing_service_pb2.SetRouteResponse(route=route)

    async def GetRoute(self, request: Any, context: Any) -> Any:
        await self.enter("GetRoute", context)
        if request.agent_name not in self.routes:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND"))
        return routing_service_pb2.GetRouteResponse(route=self.routes[request.agent_name])

    async def ListRoutes(self, request: Any, context: Any) -> Any:
        await self.enter("ListRoutes", context)
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        names = sorted(self.routes)
        return routing_service_pb2.ListRoutesResponse(
            routes=[self.routes[name] for name in names[start:end]],
            next_page_token=str(end) if end < len(names) else "",
        )

    async def DeleteRoute(self, request: Any, context: Any) -> Any:
        await self.enter("DeleteRoute", context)
        revision = 9 if self.routes.pop(request.agent_name, None) else 0
        return routing_service_pb2.DeleteRouteResponse(revision=revision)


class RolloutFake(Service, rollout_service_pb2_grpc.RolloutServiceServicer):
    """Rollouts that do what they are told and nothing by themselves."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(plane)
        self.rollouts: dict[str, rollout_service_pb2.Rollout] = {}

    def move(self, rollout_id: str, phase: int, message: str = "") -> rollout_service_pb2.Rollout:
        """Put a rollout into a phase."""
        rollout = self.rollouts[rollout_id]
        rollout.phase, rollout.message = rollout_service_pb2.RolloutPhase.ValueType(phase), message
        self.plane.revision += 1
        rollout.revision = self.plane.revision
        self.plane.touch()
        return rollout

    def _find(self, request: Any) -> rollout_service_pb2.Rollout | None:
        if request.rollout_id:
            return self.rollouts.get(request.rollout_id)
        same = [one for one in self.rollouts.values() if one.agent_name == request.agent_name]
        return same[-1] if same else None

    async def _get(self, request: Any, context: Any) -> rollout_service_pb2.Rollout:
        rollout = self._find(request)
        if rollout is None:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "ROLLOUT_NOT_FOUND"))
        return rollout

    def _new(self, **fields: Any) -> rollout_service_pb2.Rollout:
        rollout_id = f"rollout-{len(self.rollouts) + 1}"
        self.rollouts[rollout_id] = rollout_service_pb2.Rollout(rollout_id=rollout_id, **fields)
        return self.move(rollout_id, rollout_service_pb2.ROLLOUT_PHASE_PENDING)

    async def StartRollout(self, request: Any, context: Any) -> Any:
        await self.enter("StartRollout", context, request)
        rollout = self._new(
            agent_name=request.agent_name, to_version=request.to_version, plan=request.plan
        )
        return rollout_service_pb2.StartRolloutResponse(rollout=rollout)

    async def RetryRollout(self, request: Any, context: Any) -> Any:
        await self.enter("RetryRollout", context, request)
        before = await self._get(_named(request), context)
        rollout = self._new(agent_name=before.agent_name, retry_of=before.rollout_id)
        return rollout_service_pb2.RetryRolloutResponse(rollout=rollout)

    async def GetRollout(self, request: Any, context: Any) -> Any:
        await self.enter("GetRollout", context)
        return rollout_service_pb2.GetRolloutResponse(rollout=await self._get(request, context))

    async def ListRollouts(self, request: Any, context: Any) -> Any:
        await self.enter("ListRollouts", context)
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        rollouts = [
            one
            for one in self.rollouts.values()
            if not request.phases or one.phase in request.phases
        ]
        return rollout_service_pb2.ListRolloutsResponse(
            rollouts=rollouts[start:end],
            next_page_token=str(end) if end < len(rollouts) else "",
        )

    async def WatchRollout(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.enter("WatchRollout", context)
        rollout, told = await self._get(request, context), -1
        message = rollout_service_pb2.WatchRolloutResponse
        with self.stream("WatchRollout") as sent_away:
            while self.plane.sent_away == sent_away:
                if rollout.revision > told:
                    told = rollout.revision
                    yield message(rollout=rollout)
                if rollout.phase == rollout_service_pb2.ROLLOUT_PHASE_SUCCEEDED:
                    return
                yield message(bookmark=self.plane.position())
                if rollout.revision == told and self.plane.sent_away == sent_away:
                    await self.plane.changed()
            yield message(go_away=GO_AWAY)

    async def _command(self, method: str, phase: int, request: Any, context: Any) -> Any:
        await self.enter(method, context)
        rollout = await self._get(_named(request), context)
        return self.move(rollout.rollout_id, phase, request.reason)

    async def PauseRollout(self, request: Any, context: Any) -> Any:
        rollout = await self._command("PauseRollout", 3, request, context)
        return rollout_service_pb2.PauseRolloutResponse(rollout=rollout)

    async def ResumeRollout(self, request: Any, context: Any) -> Any:
        rollout = await self._command("ResumeRollout", 2, request, context)
        return rollout_service_pb2.ResumeRolloutResponse(rollout=rollout)

    async def PromoteRollout(self, request: Any, context: Any) -> Any:
        rollout = await self._command("PromoteRollout", 4 if request.full else 2, request, context)
        rollout.step_index = request.expected_step_index + 1
        return rollout_service_pb2.PromoteRolloutResponse(rollout=rollout)

    async def AbortRollout(self, request: Any, context: Any) -> Any:
        rollout = await self._command("AbortRollout", 7, request, context)
        return rollout_service_pb2.AbortRolloutResponse(rollout=rollout)


def _named(request: Any) -> rollout_service_pb2.GetRolloutRequest:
    return rollout_service_pb2.GetRolloutRequest(rollout_id=request.rollout_id)
