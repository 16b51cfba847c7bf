"""A whole replica over the memory store, behind a real gRPC server, in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.drain import Drain
from controlplane.api.identification import Identification
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.services.ids import TimeSortedIds
from controlplane.services.store_clock import StoreClock
from controlplane.settings import Settings
from controlplane.storage.memory.audit_log import MemoryAuditLog
from controlplane.storage.memory.beat_log import MemoryBeatLog
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.storage.memory.decision_log import MemoryDecisionLog
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore
from controlplane.tasks.runner import run_tasks
from controlplane.wiring import Ports, build_replica
from fleetplane.v1 import (
    agent_pb2,
    config_service_pb2_grpc,
    decision_service_pb2_grpc,
    experiment_service_pb2_grpc,
    lifecycle_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    rollout_service_pb2_grpc,
    routing_service_pb2_grpc,
    task_service_pb2_grpc,
)
from tests.fakes.eventually import SOON_SECONDS


@dataclass
class MemoryReplica:
    """What a test sees of it."""

    channel: grpc.aio.Channel
    store: MemoryStore
    shutdown: Drain

    def __post_init__(self) -> None:
        self.config: Any = config_service_pb2_grpc.ConfigServiceStub(self.channel)
        self.decisions: Any = decision_service_pb2_grpc.DecisionServiceStub(self.channel)
        self.policies: Any = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self.registry: Any = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        self.tasks: Any = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.routing: Any = routing_service_pb2_grpc.RoutingServiceStub(self.channel)
        self.rollouts: Any = rollout_service_pb2_grpc.RolloutServiceStub(self.channel)
        self.experiments: Any = experiment_service_pb2_grpc.ExperimentServiceStub(self.channel)
        self.lifecycle: Any = lifecycle_service_pb2_grpc.LifecycleServiceStub(self.channel)

    async def working(self, name: str, version: str = "1.0.0", **spec: Any) -> agent_pb2.Instance:
        """Register `<name>-<version>` with one instance, and let it beat."""
        pb, identity = registry_service_pb2, f"{name}-{version}"
        registered = await self.registry.Register(
            pb.RegisterRequest(
                agent_id=identity,
                spec=agent_pb2.AgentSpec(name=name, version=version, **spec),
                instance=pb.InstanceSpec(instance_id=f"box-{identity}"),
            )
        )
        instance: agent_pb2.Instance = registered.instance
        beat = pb.Beat(instance_id=instance.instance_id, generation=instance.generation, seq=1)
        call = self.registry.Heartbeat()
        await call.write(pb.HeartbeatRequest(batch=1, beats=[beat]))
        await call.read()
        await call.done_writing()
        return instance


@asynccontextmanager
async def memory_replica(
    settings: Settings | None = None, identification: Identification | None = None
) -> AsyncIterator[MemoryReplica]:
    """Serve until the block is left; `identification` replaces the one that was wired."""
    clock, shutdown = StoreClock(), Drain()
    store = MemoryStore(clock)
    async with MemoryChangeFeed(store) as feed:
        ports = Ports(
            ledger=MemoryLedger(store),
            feed=feed,
            beat_log=MemoryBeatLog(store, "replica"),
            decision_log=MemoryDecisionLog(store),
            audit_log=MemoryAuditLog(store),
            clock=clock,
            ids=TimeSortedIds(),
        )
        replica = build_replica(settings or Settings(), ports, shutdown, b"s" * 32, lambda *_: None)
        options = ServerOptions(address="127.0.0.1:0")
        replica.access.identification = identification or replica.access.identification
        pipeline = replica.access.pipeline(shutdown)
        server, _ = create_server(options, pipeline, replica.add_services)
        address = bind(server, options)
        await server.start()
        loops = asyncio.create_task(run_tasks(*replica.loops))
        try:
            async with asyncio.timeout(SOON_SECONDS):
                await replica.caught_up.wait()
            async with grpc.aio.insecure_channel(address) as channel:
                yield MemoryReplica(channel, store, shutdown)
        finally:
            await server.stop(0)
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)
