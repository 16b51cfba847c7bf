"""A real server with the real pipeline, around handlers that a test writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from controlplane.api.concerns import standard_concerns
from controlplane.api.drain import Drain
from controlplane.api.gate import Gate
from controlplane.api.health import Health
from controlplane.api.identification import Identification
from controlplane.api.methods import METHODS, Method
from controlplane.api.pipeline import Pipeline
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper, StreamLimits, run_stream
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc

Answer = Callable[[Any, Any], Awaitable[Any]]
Messages = Callable[[Any], AsyncIterator[Any]]


async def echo(request: pb.GetAgentRequest, _context: Any) -> pb.GetAgentResponse:
    response = pb.GetAgentResponse()
    response.agent.agent_id = request.agent_id
    return response


async def two_deltas(_request: Any) -> AsyncIterator[pb.WatchAgentsResponse]:
    yield delta("first")
    yield delta("second")


async def echo_batch(request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
    return pb.HeartbeatResponse(batch=request.batch)


def delta(agent_id: str) -> pb.WatchAgentsResponse:
    response = pb.WatchAgentsResponse()
    response.delta.removed_agent_ids.append(agent_id)
    return response


@dataclass
class EchoService(pb_grpc.RegistryServiceServicer):
    """GetAgent, WatchAgents and Heartbeat do what the test says; the others are not there."""

    keeper: StreamKeeper
    answer: Answer = echo
    messages: Messages = two_deltas
    handle: Callable[[pb.HeartbeatRequest], Awaitable[Any]] = echo_batch
    events: Messages | None = None

    async def GetAgent(self, request, context):  # noqa: N802
        return await self.answer(request, context)

    async def WatchAgents(self, request, context):  # type: ignore[override]  # noqa: N802 - writer style
        await run_stream(
            self.messages(request),
            context,
            render=lambda message: message,
            go_away=lambda last: pb.WatchAgentsResponse(go_away=last),
            keeper=self.keeper,
        )

    async def Heartbeat(self, request_iterator, context):  # type: ignore[override]  # noqa: N802 - writer style
        async for request in request_iterator:
            await context.write(await self.handle(request))


@dataclass
class Edge:
    """A listening server and a channel to it."""

    server: grpc.aio.Server
    drain: Drain
    health: Health
    address: str
    service: EchoService
    channel: grpc.aio.Channel
    stub: Any = field(init=False)

    def __post_init__(self):
        self.stub = pb_grpc.RegistryServiceStub(self.channel)


@asynccontextmanager
async def edge(
    *,
    limits: StreamLimits | None = None,
    methods: Mapping[str, Method] = METHODS,
    options: ServerOptions | None = None,
    gate: Gate | None = None,
    guard: StreamGuard | None = None,
    identification: Identification | None = None,
    add_more: Callable[[grpc.aio.Server], None] = lambda _server: None,
    **handlers: Any,
) -> AsyncIterator[Edge]:
    """Serve an `EchoService` until the block is left, which must leave no task behind."""
    before = asyncio.all_tasks()
    drain = Drain()
    keeper = StreamKeeper(drain=drain, limits=limits or StreamLimits(), guard=guard)
    service = EchoService(keeper, **handlers)  # type: ignore[abstract]  # the others are not there
    chosen = options or ServerOptions(address="127.0.0.1:0")

    def add_services(server: grpc.aio.Server) -> None:
        pb_grpc.add_RegistryServiceServicer_to_server(service, server)
        add_more(server)

    pipeline = Pipeline(standard_concerns(drain, identification), methods, gate=gate)
    server, health = create_server(chosen, pipeline, add_services)
    address = bind(server, chosen)
    await server.start()
    channel = grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.http2.bdp_probe", 0),  # windows that do not grow make slow readers repeatable
        ],
    )
    try:
        yield Edge(server, drain, health, address, service, channel)
    finally:
        await channel.close()
        await server.stop(0)
    async with asyncio.timeout(2):
        while asyncio.all_tasks() - before:
            await asyncio.wait(asyncio.all_tasks() - before)
