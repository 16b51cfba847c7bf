"""The registry of the control plane in memory: registration, look-up, watch, heartbeat."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from google.protobuf import duration_pb2

from fleetplane.v1 import (
    agent_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    watch_pb2,
)
from tests.fakes.fleet_plane import Plane, Refusal, duration

Context = grpc.aio.ServicerContext[Any, Any]
BeatOutcome = registry_service_pb2.BeatResult


class Service:
    """What the services share."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    async def enter(self, method: str, context: Context, request: Any = None) -> None:
        self.plane.calls[method] += 1
        if request_id := getattr(request, "request_id", ""):
            self.plane.request_ids.append(request_id)
        self.plane.touch()
        if self.plane.gate is not None and (refusal := self.plane.gate(method, context)):
            await self.refuse(context, refusal)
        if self.plane.failures[method]:
            await self.refuse(context, self.plane.failures[method].popleft())

    async def refuse(self, context: Context, refusal: Refusal) -> NoReturn:
        await context.abort_with_status(refusal.status())
        raise AssertionError("abort raises")

    @contextlib.contextmanager
    def stream(self, method: str) -> Any:
        self.plane.streams[method] += 1
        self.plane.opened[method] += 1
        self.plane.touch()
        try:
            yield self.plane.sent_away
        finally:
            self.plane.streams[method] -= 1
            self.plane.touch()


GO_AWAY = watch_pb2.GoAway(
    reason=watch_pb2.GoAway.REASON_DRAINING, retry_after=duration_pb2.Duration(nanos=10_000_000)
)


class RegistryFake(Service, registry_service_pb2_grpc.RegistryServiceServicer):
    """The registry, without expiry."""

    def _register(
        self, request: registry_service_pb2.RegisterRequest
    ) -> registry_service_pb2.RegisterResponse:
        plane, spec = self.plane, request.spec
        if known := plane.answers.get(request.request_id):
            return known
        if not spec.version:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
                violations=(("spec.version", "must not be empty"),),
            )
        agent_id = request.agent_id or f"{spec.name}-{spec.version}"
        agent = plane.agents.get(agent_id)
        if agent is not None and agent.spec != spec:
            raise Refusal(
                grpc.StatusCode.ALREADY_EXISTS, "AGENT_EXISTS", metadata={"agent_id": agent_id}
            )
        created = agent is None
        if agent is None:
            agent = plane.put_agent(agent_id)
            agent.spec.CopyFrom(spec)
        response = registry_service_pb2.RegisterResponse(agent=agent, created=created)
        if request.HasField("instance"):
            response.instance.CopyFrom(self._instance(agent_id, request.instance))
        plane.answers[request.request_id] = response
        plane.touch()
        return response

    def _instance(
        self, agent_id: str, spec: registry_service_pb2.InstanceSpec
    ) -> agent_pb2.Instance:
        current = self.plane.instances.get(spec.instance_id)
        if current is not None and 0 < spec.generation < current.generation:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "INSTANCE_FENCED")
        if current is None or spec.generation != current.generation:
            self.plane.revision += 1
            current = agent_pb2.Instance(
                instance_id=spec.instance_id, agent_id=agent_id, generation=self.plane.revision
            )
            self.plane.instances[spec.instance_id] = current
        return current

    async def Register(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("Register", context, request)
        try:
            return self._register(request)
        except Refusal as refusal:
            await self.refuse(context, refusal)

    async def BatchRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("BatchRegister", context)
        self.plane.batch_sizes.append(len(request.requests))
        response = registry_service_pb2.BatchRegisterResponse()
        for one in request.requests:
            self.plane.request_ids.append(one.request_id)
            try:
                response.results.add(registered=self._register(one))
            except Refusal as refusal:
                response.results.add(error=refusal.entry())
        return response

    async def Deregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("Deregister", context, request)
        removed = self.plane.instances.pop(request.instance_id, None) is not None
        return registry_service_pb2.DeregisterResponse(removed=removed)

    async def GetAgent(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("GetAgent", context)
        agent = self.plane.agents.get(request.agent_id)
        if agent is None:
            missing = {"agent_id": request.agent_id}
            await self.refuse(
                context, Refusal(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", metadata=missing)
            )
        return registry_service_pb2.GetAgentResponse(agent=agent)

    def _page(self, request: Any, response: Any) -> Any:
        names = sorted(self.plane.agents)
        names = [name for name in names if self._matches(self.plane.agents[name], request.filter)]
        start = int(request.page_token or 0)
        size = request.page_size or 100
        response.agents.extend(self.plane.agents[name] for name in names[start : start + size])
        response.next_page_token = str(start + size) if start + size < len(names) else ""
        response.total_size = len(names)
        response.position.CopyFrom(self.plane.position())
        return response

    @staticmethod
    def _matches(agent: agent_pb2.Agent, wanted: registry_service_pb2.AgentFilter) -> bool:
        return set(wanted.capabilities) <= set(agent.spec.capabilities) and all(
            agent.spec.tags.get(key) == value for key, value in wanted.tags.items()
        )

    async def ListAgents(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("ListAgents", context)
        return self._page(request, registry_service_pb2.ListAgentsResponse())

    async def Discover(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("Discover", context)
        self.plane.discovered.append(request)
        return self._page(request, registry_service_pb2.DiscoverResponse())

    async def UpdateAgent(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("UpdateAgent", context, request)
        agent = self.plane.agents[request.agent_id]
        if request.expected_revision not in {0, agent.revision}:
            current = {"current_revision": str(agent.revision)}
            await self.refuse(
                context, Refusal(grpc.StatusCode.ABORTED, "REVISION_CONFLICT", metadata=current)
            )
        request.update_mask.MergeMessage(request.spec, agent.spec, True, True)
        self.plane.revision += 1
        agent.revision = self.plane.revision
        self.plane.touch()
        return registry_service_pb2.UpdateAgentResponse(agent=agent)

    async def FindBestAgent(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.enter("FindBestAgent", context)
        agents = self.plane.agents.values()
        best = next((one for one in agents if self._matches(one, request.filter)), None)
        if best is None:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "NO_CANDIDATE"))
        return registry_service_pb2.FindBestAgentResponse(agent=best)

    async def WatchAgents(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self.enter("WatchAgents", context)
        plane, message = self.plane, registry_service_pb2.WatchAgentsResponse
        held = request.resume_from
        with self.stream("WatchAgents") as sent_away:
            while plane.sent_away == sent_away:
                position = plane.position()
                if held.epoch != position.epoch:
                    agents = [plane.agents[name] for name in sorted(plane.agents)]
                    parts = [agents[at : at + 2] for at in range(0, len(agents), 2)] or [[]]
                    for part in parts:
                        snapshot = message.Snapshot(agents=part, complete=part is parts[-1])
                        yield message(snapshot=snapshot, position=position)
                elif held.revision < position.revision:
                    since = held.revision
                    delta = message.Delta(
                        agents=[one for one in plane.agents.values() if one.revision > since],
                        removed_agent_ids=[k for k, at in plane.removed.items() if at > since],
                    )
                    yield message(delta=delta, position=position)
                else:
                    await plane.changed()
                held = position
            yield message(go_away=GO_AWAY)

    async def Heartbeat(self, _: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802  # reader/writer style
        await self.enter("Heartbeat", context)
        with self.stream("Heartbeat") as sent_away:
            while (request := await context.read()) is not grpc.aio.EOF:
                results = [result for beat in request.beats if (result := self._beat(beat))]
                self.plane.touch()
                if self.plane.silent:
                    continue
                commands = [self.plane.commands.popleft() for _ in range(len(self.plane.commands))]
                response = registry_service_pb2.HeartbeatResponse(
                    batch=request.batch,
                    next_interval=duration(self.plane.interval),
                    ttl=duration(self.plane.ttl),
                    results=results,
                    commands=commands,
                )
                if self.plane.sent_away != sent_away:
                    response.go_away.CopyFrom(GO_AWAY)
                await context.write(response)
                if response.HasField("go_away"):
                    return

    def _beat(self, beat: registry_service_pb2.Beat) -> registry_service_pb2.BeatResult | None:
        plane = self.plane
        plane.beats.append(beat)
        plane.latest[beat.instance_id] = beat
        current = plane.instances.get(beat.instance_id)
        if current is None:
            outcome = BeatOutcome.OUTCOME_UNKNOWN
        elif beat.generation < current.generation:
            outcome = BeatOutcome.OUTCOME_FENCED
        elif beat.goodbye and plane.goodbyes_to_lose:
            plane.goodbyes_to_lose -= 1
            return None
        elif beat.goodbye:
            del plane.instances[beat.instance_id]
            outcome = BeatOutcome.OUTCOME_REMOVED
        elif beat.instance_id in plane.outcomes:
            outcome = plane.outcomes[beat.instance_id]
        else:
            if beat.HasField("config"):
                current.config.CopyFrom(beat.config)
            current.load.in_flight = beat.in_flight
            return None
        return BeatOutcome(instance_id=beat.instance_id, outcome=outcome, detail="says the fake")
