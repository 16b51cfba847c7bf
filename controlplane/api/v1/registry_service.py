"""The registry; the contract is protos/fleetplane/v1/registry_service.proto."""

from collections.abc import AsyncIterator, Hashable
from typing import Any

import grpc

from controlplane.api.context import Call, current_caller
from controlplane.api.convert.agents import agent_to_proto, filter_from_proto, spec_from_proto
from controlplane.api.convert.discovery import (
    best_query_from_proto,
    discover_response,
    find_best_response,
    list_agents_response,
    watch_event_to_proto,
)
from controlplane.api.convert.registration import (
    registered_to_proto,
    registration_from_proto,
    registrations_from_proto,
    required_ids,
)
from controlplane.api.convert.requests import reason_from_proto, request_key
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.pipeline import raw_unary
from controlplane.api.remembered import RememberedReplies
from controlplane.api.status import entry_error_of
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.api.v1.heartbeat import HeartbeatStream
from controlplane.domain.errors import AgentNotFound, DomainError
from controlplane.domain.identity import namespace_of
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.agent_watch import AgentWatch
from controlplane.services.discovery import Discovery
from controlplane.services.live_instances import AgentEntry
from controlplane.services.liveness import Liveness
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registration import Registered, Registration
from controlplane.services.registry import Registry
from controlplane.services.routing.choice import version_of_routes
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc
from fleetplane.v1 import watch_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryService(pb_grpc.RegistryServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        registry: Registry,
        discovery: Discovery,
        liveness: Liveness,
        heartbeat: HeartbeatStream,
        read_model: ReadModel,
        clock: Clock,
        settings: LivenessSettings,
        tokens: PageTokens,
        keeper: StreamKeeper,
    ) -> None:
        self._registry = registry
        self._discovery = discovery
        self._liveness = liveness
        self._heartbeat = heartbeat
        self._read_model = read_model
        self._clock = clock
        self._settings = settings
        self._tokens = tokens
        self._keeper = keeper
        self._discoveries = RememberedReplies(
            read_model, pb.DiscoverRequest.FromString, self._version_of_records, self._discover
        )
        self._choices = RememberedReplies(
            read_model, pb.FindBestAgentRequest.FromString, self._version_of_loads, self._find_best
        )

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        namespace = namespace_of(request.namespace)
        registration = registration_from_proto(request)
        outcome = await self._registry.register(namespace, registration, caller=current_caller())
        return registered_to_proto(outcome, namespace, self._settings.interval_ms)

    async def BatchRegister(
        self, request: pb.BatchRegisterRequest, context: Context
    ) -> pb.BatchRegisterResponse:
        namespace = namespace_of(request.namespace)
        entries = registrations_from_proto(request)
        valid = [entry for entry in entries if isinstance(entry, Registration)]
        outcomes = iter(
            await self._registry.register_many(namespace, valid, caller=current_caller())
        )
        answers = [next(outcomes) if isinstance(e, Registration) else e for e in entries]
        return pb.BatchRegisterResponse(
            results=[self._batch_result(answer, namespace) for answer in answers]
        )

    def _batch_result(
        self, answer: Registered | DomainError, namespace: str
    ) -> pb.BatchRegisterResult:
        if isinstance(answer, DomainError):
            return pb.BatchRegisterResult(error=entry_error_of(answer))
        return pb.BatchRegisterResult(
            registered=registered_to_proto(answer, namespace, self._settings.interval_ms)
        )

    async def Deregister(
        self, request: pb.DeregisterRequest, context: Context
    ) -> pb.DeregisterResponse:
        required_ids(instance_id=request.instance_id)
        removed = await self._liveness.depart(
            namespace_of(request.namespace),
            request.instance_id,
            request.generation,
            actor=current_caller().name,
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
        )
        return pb.DeregisterResponse(removed=removed)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        required_ids(agent_id=request.agent_id)
        namespace = namespace_of(request.namespace)
        view = await self._read_model.at_least(namespace, request.min_revision)
        entry = view.agents.get(request.agent_id)
        if entry is None:
            raise AgentNotFound(request.agent_id)
        return pb.GetAgentResponse(agent=agent_to_proto(entry, namespace, include_instances=True))

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: Context
    ) -> pb.ListAgentsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._discovery.list_agents(
            namespace,
            filter_from_proto(request.filter),
            page_size=page_size(request.page_size),
            after_id=self._tokens.decode(request.page_token, namespace, digest),
            min_revision=request.min_revision,
        )
        token = self._next_token(page.next_after_id, namespace, digest)
        return await list_agents_response(page, namespace, token, request.include_instances)

    async def UpdateAgent(
        self, request: pb.UpdateAgentRequest, context: Context
    ) -> pb.UpdateAgentResponse:
        required_ids(agent_id=request.agent_id)
        namespace, paths = namespace_of(request.namespace), tuple(request.update_mask.paths)
        agent = await self._registry.update(
            namespace,
            request.agent_id,
            spec_from_proto(request.spec, mask=paths),
            paths,
            expected_revision=request.expected_revision,
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        rendered = agent_to_proto(AgentEntry(agent), namespace, include_instances=False)
        return pb.UpdateAgentResponse(agent=rendered)

    @raw_unary
    async def Discover(self, raw: bytes, call: Call) -> bytes:  # type: ignore[override]  # raw
        return await self._discoveries.reply(raw)

    async def _discover(self, request: pb.DiscoverRequest) -> tuple[pb.DiscoverResponse, bool]:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._discovery.discover(
            namespace,
            filter_from_proto(request.filter),
            page_size=page_size(request.page_size),
            after_id=self._tokens.decode(request.page_token, namespace, digest),
            min_revision=request.min_revision,
            include_draining=request.include_draining,
            route=request.route,
            session_id=request.session_id,
        )
        token = self._next_token(page.next_after_id, namespace, digest)
        return await discover_response(page, namespace, token), not page.dealt

    @raw_unary
    async def FindBestAgent(self, raw: bytes, call: Call) -> bytes:  # type: ignore[override]  # raw
        return await self._choices.reply(raw)

    async def _find_best(
        self, request: pb.FindBestAgentRequest
    ) -> tuple[pb.FindBestAgentResponse, bool]:
        best = await self._discovery.find_best(best_query_from_proto(request))
        return find_best_response(best, namespace_of(request.namespace)), not best.dealt

    def _version_of_records(self, view: NamespaceView) -> Hashable:
        # The last heartbeats in a remembered reply are at most a second old.
        second = int(self._clock.monotonic())
        return view.position.epoch, view.agents_revision, version_of_routes(view), second

    def _version_of_loads(self, view: NamespaceView) -> Hashable:
        routes = version_of_routes(view)
        return view.position.epoch, view.agents_revision, routes, view.load_version

    async def WatchAgents(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchAgentsRequest, context: Context
    ) -> None:
        namespace = namespace_of(request.namespace)
        watch = AgentWatch(
            self._read_model,
            namespace,
            filter_from_proto(request.filter),
            with_instances=request.include_instances,
        )
        resume = request.resume_from
        events = watch.events(resume.epoch, resume.revision)
        await run_stream(
            events,
            context,
            render=lambda e: watch_event_to_proto(e, namespace, request.include_instances),
            go_away=_go_away,
            keeper=self._keeper,
        )

    async def Heartbeat(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, requests: AsyncIterator[pb.HeartbeatRequest], context: Context
    ) -> None:
        await self._heartbeat.run(requests, context)

    def _next_token(self, after_id: str, namespace: str, digest: bytes) -> str:
        return self._tokens.encode(namespace, digest, after_id) if after_id else ""


def _go_away(message: watch_pb2.GoAway) -> pb.WatchAgentsResponse:
    return pb.WatchAgentsResponse(go_away=message)
