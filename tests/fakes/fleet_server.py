"""A control plane in memory behind a real grpc.aio server: what the SDK is tested against.

It behaves (revisions, generations, idempotency, resumable watches, rich errors) without a store,
and can be told to misbehave: refuse, fall silent, go away, fence, die and come back on its port.
"""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc

from fleetplane.v1 import (
    config_service_pb2,
    config_service_pb2_grpc,
    lifecycle_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
    rollout_service_pb2_grpc,
    routing_service_pb2_grpc,
    task_service_pb2_grpc,
)
from tests.fakes.fleet_operations import LifecycleFake, RolloutFake, RoutingFake
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.fleet_registry import GO_AWAY, RegistryFake, Service
from tests.fakes.fleet_tasks import TaskDesk, TaskFake


def _key(scope: config_service_pb2.ConfigScope) -> tuple[str, str]:
    if scope.agent_id:
        return ("id", scope.agent_id)
    return ("name", scope.agent_name) if scope.agent_name else ("", "")


class ConfigFake(Service, config_service_pb2_grpc.ConfigServiceServicer):
    """Configuration in three layers, without bounds."""

    async def GetConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("GetConfig", context)
        return config_service_pb2.GetConfigResponse(
            config=self.plane.effective(request.scope), position=self.plane.position()
        )

    async def UpdateConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("UpdateConfig", context, request)
        if known := self.plane.answers.get(request.request_id):
            return known
        revision = self.plane.put_config(_key(request.scope), **dict(request.set.items()))
        response = config_service_pb2.UpdateConfigResponse(changed=True)
        response.layer.revision = revision
        response.layer.values.CopyFrom(request.set)
        self.plane.answers[request.request_id] = response
        return response

    async def WatchConfig(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self.enter("WatchConfig", context)
        plane, message = self.plane, config_service_pb2.WatchConfigResponse
        plane.watched.append(request)
        held = {
            index: one.held.revision if one.held.epoch == plane.epoch else -1
            for index, one in enumerate(request.scopes)
        }
        synced = False
        with self.stream("WatchConfig") as sent_away:
            while plane.sent_away == sent_away:
                position = plane.position()
                for index, watched in enumerate(request.scopes):
                    config = plane.effective(watched.scope)
                    if config.revision > held[index]:
                        held[index] = config.revision
                        yield message(scopes=[watched.scope], config=config, position=position)
                if not synced:
                    synced = True
                    yield message(synced=True, position=position)
                if plane.revision == position.revision and plane.sent_away == sent_away:
                    await plane.changed()
            yield message(go_away=GO_AWAY)

    async def ListConfigRevisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("ListConfigRevisions", context)
        start, size = int(request.page_token or 0), request.page_size or 100
        revisions = [config_service_pb2.ConfigLayer(revision=number) for number in (5, 4, 3, 2, 1)]
        end = start + size
        return config_service_pb2.ListConfigRevisionsResponse(
            revisions=revisions[start:end],
            next_page_token=str(end) if end < len(revisions) else "",
        )

    async def RollbackConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("RollbackConfig", context, request)
        layer = config_service_pb2.ConfigLayer(restored_from=request.to_revision)
        return config_service_pb2.RollbackConfigResponse(layer=layer)

    async def SetExtraSchema(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("SetExtraSchema", context, request)
        return config_service_pb2.SetExtraSchemaResponse()

    async def GetExtraSchema(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("GetExtraSchema", context, request)
        return config_service_pb2.GetExtraSchemaResponse()

    async def WaitForConvergence(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("WaitForConvergence", context)
        instances = self.plane.instances.values()
        late = [one for one in instances if one.config.running_revision < request.revision]
        response = config_service_pb2.WaitForConvergenceResponse(converged=not late)
        for one in late:
            response.laggards.add(instance_id=one.instance_id, agent_id=one.agent_id)
        return response


class PolicyFake(Service, policy_service_pb2_grpc.PolicyServiceServicer):
    """Policies that are stored, and decisions that are looked up by action."""

    def _decide(self, item: Any, into: policy_service_pb2.PolicyDecision) -> None:
        if item.action == "malformed":
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
                violations=(("action", "is malformed"),),
            )
        if item.agent_id == "nobody":
            raise Refusal(
                grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", metadata={"agent_id": "nobody"}
            )
        into.action = self.plane.verdicts.get(item.action, policy_service_pb2.POLICY_ACTION_ALLOW)
        into.message = item.action
        into.decision_id = f"{item.agent_id}/{item.tool}"
        into.policy_revision = 1

    async def EvaluatePolicy(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("EvaluatePolicy", context)
        response = policy_service_pb2.EvaluatePolicyResponse()
        try:
            self._decide(request, response.decision)
        except Refusal as refusal:
            await self.refuse(context, refusal)
        return response

    async def BatchEvaluatePolicy(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("BatchEvaluatePolicy", context)
        self.plane.batch_sizes.append(len(request.items))
        response = policy_service_pb2.BatchEvaluatePolicyResponse(policy_revision=1)
        for item in request.items:
            result = response.results.add()
            try:
                self._decide(item, result.decision)
            except Refusal as refusal:
                result.error.CopyFrom(refusal.entry())
        return response

    async def CreatePolicy(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("CreatePolicy", context, request)
        policy_id = request.policy.policy_id
        if policy_id in self.plane.policies:
            taken = {"policy_id": policy_id}
            await self.refuse(
                context, Refusal(grpc.StatusCode.ALREADY_EXISTS, "POLICY_EXISTS", metadata=taken)
            )
        self.plane.policies[policy_id] = request.policy
        return policy_service_pb2.CreatePolicyResponse(policy=request.policy)

    async def _get(self, policy_id: str, context: Any) -> policy_service_pb2.Policy:
        if policy_id not in self.plane.policies:
            missing = {"policy_id": policy_id}
            await self.refuse(
                context, Refusal(grpc.StatusCode.NOT_FOUND, "POLICY_NOT_FOUND", metadata=missing)
            )
        return self.plane.policies[policy_id]

    async def GetPolicy(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("GetPolicy", context)
        policy = await self._get(request.policy_id, context)
        return policy_service_pb2.GetPolicyResponse(policy=policy)

    async def ListPolicies(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("ListPolicies", context)
        start, size = int(request.page_token or 0), request.page_size or 100
        names = sorted(self.plane.policies)
        end = start + size
        return policy_service_pb2.ListPoliciesResponse(
            policies=[self.plane.policies[name] for name in names[start:end]],
            next_page_token=str(end) if end < len(names) else "",
        )

    async def UpdatePolicy(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("UpdatePolicy", context, request)
        policy = await self._get(request.policy.policy_id, context)
        request.update_mask.MergeMessage(request.policy, policy, True, True)
        return policy_service_pb2.UpdatePolicyResponse(policy=policy)

    async def DeletePolicy(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("DeletePolicy", context, request)
        await self._get(request.policy_id, context)
        del self.plane.policies[request.policy_id]
        return policy_service_pb2.DeletePolicyResponse(revision=7)


class FleetServer:
    """Serves a plane on loopback; stops and starts again on the same port."""

    def __init__(self, plane: Plane | None = None) -> None:
        self.plane = plane or Plane()
        self.desk = TaskDesk(self.plane)
        self.rollouts = RolloutFake(self.plane)
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, on the port of the last time if there was one."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
            RegistryFake(self.plane), server
        )
        config_service_pb2_grpc.add_ConfigServiceServicer_to_server(ConfigFake(self.plane), server)
        policies = PolicyFake(self.plane)  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(
            TaskFake(self.plane, self.desk), server
        )
        lifecycle_service_pb2_grpc.add_LifecycleServiceServicer_to_server(
            LifecycleFake(self.plane, self.desk), server
        )
        routing_service_pb2_grpc.add_RoutingServiceServicer_to_server(
            RoutingFake(self.plane), server
        )
        rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server(self.rollouts, server)
        self.bind(server)
        await server.start()
        self._server = server

    def bind(self, server: grpc.aio.Server) -> None:
        """Open the ports, and add what else is served."""
        self.port = server.add_insecure_port(self.target)

    async def stop(self) -> None:
        """Die: every stream breaks at once."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def restart(self) -> None:
        """Die and come back on the same port."""
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
