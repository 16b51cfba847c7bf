"""A whole replica that authenticates, two agents and some people who call it, each by name."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.identification import Identification
from controlplane.settings import Settings
from controlplane.storage.memory.ledger import MemoryLedger
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.callers import KnownCallers, agent, make_namespace, showing, user
from tests.fakes.memory_replica import MemoryReplica, memory_replica

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors

MINE, OTHER, TEAMS = agent("mine"), agent("other"), agent("mine", "team")
ROOT, ANN, BEN = user("root", is_admin=True), user("ann"), user("ben")
AS_MINE, AS_OTHER, AS_TEAMS = showing("mine"), showing("other"), showing("teams")
AS_ROOT, AS_ANN, AS_BEN = showing("root"), showing("ann"), showing("ben")


@dataclass
class Place:
    """A replica with two agents, `mine` and `other`, of one instance each."""

    replica: MemoryReplica
    ledger: MemoryLedger
    mine: agent_pb2.Instance
    other: agent_pb2.Instance


@asynccontextmanager
async def two_agents() -> AsyncIterator[Place]:
    """Run a replica with two agents here, and a namespace `team`."""
    known = KnownCallers(mine=MINE, other=OTHER, teams=TEAMS, root=ROOT, ann=ANN, ben=BEN)
    who = Identification(known, reads_certificates=False)
    async with memory_replica(Settings(secure=True), who) as replica:
        ledger = MemoryLedger(replica.store)
        await make_namespace(ledger, "team")
        mine = await registered(replica, AS_MINE, "mine")
        other = await registered(replica, AS_OTHER, "other")
        yield Place(replica, ledger, mine, other)


def registration(name: str, **fields: Any) -> pb.RegisterRequest:
    """Return the request of an agent that registers itself and an instance `box-<name>`."""
    spec = agent_pb2.AgentSpec(name=name, version="1.0.0", capabilities=["chat"])
    instance = pb.InstanceSpec(instance_id=f"box-{name}")
    return pb.RegisterRequest(
        **{"agent_id": f"{name}-1", "spec": spec, "instance": instance, **fields}
    )


async def registered(replica: MemoryReplica, who: Any, name: str) -> agent_pb2.Instance:
    """Register an agent; return its instance."""
    answer = await replica.registry.Register(registration(name), metadata=who)
    instance: agent_pb2.Instance = answer.instance
    return instance


async def refused(call: Awaitable[Any]) -> str:
    """Return the reason that a call is refused with; empty if it is answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        for packed in rpc_status.from_call(error).details:
            if packed.Unpack(info):
                return str(info.reason)
        return error.code().name
    return ""


def beat(instance: agent_pb2.Instance, **fields: Any) -> pb.Beat:
    """Return a beat of an instance."""
    return pb.Beat(instance_id=instance.instance_id, generation=instance.generation, **fields)


async def beating(place: Place, who: Any, *beats: pb.Beat, namespace: str = "") -> Any:
    """Return a stream of beats on which these have been sent."""
    call = place.replica.registry.Heartbeat(metadata=who)
    await call.write(pb.HeartbeatRequest(namespace=namespace, batch=1, beats=beats))
    return call


async def shown(place: Place, instance: agent_pb2.Instance, agent_id: str) -> bool:
    """Return whether an agent is shown with this instance."""
    request = pb.GetAgentRequest(agent_id=agent_id)
    answer = await place.replica.registry.GetAgent(request, metadata=AS_ROOT)
    return instance.instance_id in {one.instance_id for one in answer.agent.instances}


async def read_to_the_end(call: Any) -> None:
    """Read a stream until it ends; raises what it is refused with."""
    while await call.read() is not grpc.aio.EOF:
        pass
