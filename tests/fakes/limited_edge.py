"""A real server with budgets, around handlers that only echo; callers say who they are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from controlplane.api.concerns.access_log import access_log
from controlplane.api.concerns.admission import admission
from controlplane.api.concerns.authentication import authentication
from controlplane.api.concerns.in_flight import in_flight
from controlplane.api.concerns.rate_limit import rate_limit
from controlplane.api.concerns.request_id import request_id
from controlplane.api.concerns.status import status
from controlplane.api.context import Call, current_call
from controlplane.api.drain import Drain
from controlplane.api.limits.admission import Admission
from controlplane.api.limits.beat_budget import BeatBudget
from controlplane.api.limits.call_limits import CallLimits
from controlplane.api.pipeline import Pipeline
from controlplane.domain.identity import ANONYMOUS, Caller, CallerKind, namespace_of
from controlplane.domain.namespaces import Namespace, Quotas
from controlplane.services.access.view import AccessView
from controlplane.services.hub import Hub
from controlplane.services.read_model import ReadModel
from controlplane.services.transaction import Collection
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc
from tests.fakes.clock import FakeClock

WHO = "who"
"""Metadata with the caller's name; without it nobody calls."""


class FixedLag:
    """`admission.Lag`, as the test says."""

    seconds = 0.0


class KnownQuotas(ReadModel):
    """A read model that knows namespaces and nothing else."""

    def __init__(self) -> None:
        super().__init__(Hub())
        self.ready = True
        self.known = AccessView()

    @property
    def access(self) -> AccessView:
        return self.known

    def allow(self, name: str, **quotas: int) -> None:
        """Create a namespace with these quotas, or change them."""
        record = Namespace(name=name, quotas=Quotas(**quotas))
        self.known.apply(Collection.NAMESPACES, name, record)


def somebody(name: str) -> Caller:
    return Caller(name=name, kind=CallerKind.API_TOKEN, credential=f"token:{name}")


def identify(call: Call) -> Caller:
    """Believe what the metadata says."""
    for key, value in call.context.invocation_metadata() or ():
        if key == WHO:
            return somebody(str(value))
    return ANONYMOUS


@dataclass
class Echo(pb_grpc.RegistryServiceServicer):
    """GetAgent and Heartbeat answer; the namespace is entered as the gate would."""

    limits: CallLimits

    def _enter(self, namespace: str) -> Call:
        call = current_call()
        call.namespace = namespace_of(namespace)
        self.limits.entered(call)
        return call

    async def GetAgent(self, request, _context):  # noqa: N802
        self._enter(request.namespace)
        response = pb.GetAgentResponse()
        response.agent.agent_id = request.agent_id
        return response

    async def WatchAgents(self, request, _context):  # noqa: N802
        self._enter(request.namespace)
        yield pb.WatchAgentsResponse()
        yield pb.WatchAgentsResponse()

    async def Heartbeat(self, request_iterator, context):  # type: ignore[override]  # noqa: N802 - writer style
        budget: BeatBudget | None = None
        async for request in request_iterator:
            if budget is None:
                call = self._enter(request.namespace)
                budget = self.limits.beat_budget(call.caller)
            budget.spend(len(request.beats))
            await context.write(pb.HeartbeatResponse(batch=request.batch))


@dataclass
class LimitedEdge:
    """A listening server and a channel to it."""

    limits: CallLimits
    admission: Admission
    lag: FixedLag
    quotas: KnownQuotas
    clock: FakeClock
    channel: grpc.aio.Channel
    stub: Any = field(init=False)

    def __post_init__(self):
        self.stub = pb_grpc.RegistryServiceStub(self.channel)


@asynccontextmanager
async def limited_edge(
    *,
    calls_per_second: float = 5,
    streams_per_caller: int = 3,
    beats_per_second: float = 10,
    max_streams: int = 20,
    overload_lag_seconds: float = 0.5,
) -> AsyncIterator[LimitedEdge]:
    """Serve until the block is left. The clock stands still unless the test moves it."""
    clock, lag, quotas, drain = FakeClock(), FixedLag(), KnownQuotas(), Drain()
    limits = CallLimits(
        quotas,
        clock,
        calls_per_second=calls_per_second,
        streams_per_caller=streams_per_caller,
        beats_per_second=beats_per_second,
        max_streams=max_streams,
    )
    decide = Admission(lag, overload_lag_seconds=overload_lag_seconds)
    concerns = (
        in_flight(drain),
        request_id(),
        access_log(),
        status(drain),
        admission(decide),
        authentication(identify),
        *rate_limit(limits, authenticates=True),
    )
    server = grpc.aio.server()
    registrar = Pipeline(concerns).registrar(server)
    service = Echo(limits)  # type: ignore[abstract]  # the others are not there
    pb_grpc.add_RegistryServiceServicer_to_server(service, registrar.server)
    registrar.seal()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{port}",
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)],
    )
    try:
        yield LimitedEdge(limits, decide, lag, quotas, clock, channel)
    finally:
        await channel.close()
        await server.stop(0)
