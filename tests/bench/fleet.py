"""Fleets for the benchmark: registered in batches, brought to life by beats."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import grpc

from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as pb
from tests.bench.wire import exchange, next_reply

REGISTRY = "/fleetplane.v1.RegistryService/"
BATCH = 500
"""Registrations, or beats, in one message."""

REQUEST_SECONDS = 60.0
"""Longest wait for one batch of registrations."""

POLL_SECONDS = 0.01
"""Between two looks at whether a fleet lives."""

_SEQ = count(1)


@dataclass(frozen=True, slots=True)
class Member:
    """One agent with its one instance."""

    agent_id: str
    instance_id: str
    generation: int


SpecOf = Callable[[int], agent_pb2.AgentSpec]


def ordinary_spec(number: int) -> agent_pb2.AgentSpec:
    """Return what agent `number` declares: about 300 bytes, like the examples of the docs."""
    return agent_pb2.AgentSpec(
        name=f"worker-{number:06d}",
        version="1.0.0",
        description="Summarises documents and answers questions about them.",
        owner=f"team-{number % 20}",
        capabilities=["summarise", f"topic-{number % 50}", "translate"],
        tools=["search", "browser"],
        model="gpt-4o",
        max_concurrency=8,
        timeout_seconds=60,
        tags={"region": "eu", "tier": "gold" if number % 10 == 0 else "standard"},
    )


def batch_requests(
    size: int, spec_of: SpecOf = ordinary_spec, *, batch: int = BATCH, first: int = 0
) -> Iterator[pb.BatchRegisterRequest]:
    """Yield the registrations of agents `first` to `first + size - 1` with an instance each."""
    for start in range(first, first + size, batch):
        yield pb.BatchRegisterRequest(
            requests=[
                pb.RegisterRequest(
                    spec=spec_of(number), instance=pb.InstanceSpec(instance_id=f"i-{number:06d}")
                )
                for number in range(start, min(start + batch, first + size))
            ]
        )


async def register(
    channel: grpc.aio.Channel, size: int, spec_of: SpecOf = ordinary_spec, *, first: int = 0
) -> list[Member]:
    """Register a fleet, four batches at a time.

    Raises:
        RuntimeError: an entry was refused.
    """
    call = channel.unary_unary(
        f"{REGISTRY}BatchRegister",
        request_serializer=pb.BatchRegisterRequest.SerializeToString,
        response_deserializer=pb.BatchRegisterResponse.FromString,
    )
    requests = list(batch_requests(size, spec_of, first=first))
    members: list[list[Member]] = [[] for _ in requests]
    places = iter(range(len(requests)))

    async def send() -> None:
        for place in places:
            response = await call(requests[place], timeout=REQUEST_SECONDS)
            for result in response.results:
                if result.HasField("error"):
                    raise RuntimeError(result.error.message)
                members[place].append(_member(result.registered))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(send())
    return [member for batch in members for member in batch]


def _member(response: pb.RegisterResponse) -> Member:
    instance = response.instance
    return Member(instance.agent_id, instance.instance_id, instance.generation)


def beats(members: Sequence[Member], *, variant: int = 0) -> pb.HeartbeatRequest:
    """Return one message with a beat of every member; each has a load that `variant` changes."""
    request = pb.HeartbeatRequest(batch=next(_SEQ))
    for number, member in enumerate(members):
        request.beats.add(
            instance_id=member.instance_id,
            generation=member.generation,
            # The same in every variant: ready messages are sent again and again, and only a
            # sequence that goes back is ignored.
            seq=1,
            in_flight=(number + variant) % 8,
            completed=1000 + variant,
            failed=number % 3,
            latency_ms=120.0 + variant,
            progress_token="" if number % 4 else f"step-{variant}",
        )
    return request


async def bring_to_life(channel: grpc.aio.Channel, members: Sequence[Member]) -> None:
    """Beat until every instance is fresh and its agent ACTIVE."""
    stream = exchange(channel, f"{REGISTRY}Heartbeat")
    try:
        async with asyncio.timeout(REQUEST_SECONDS + len(members) / 500):
            for start in range(0, len(members), BATCH):
                part = members[start : start + BATCH]
                while True:
                    await stream.write(beats(part).SerializeToString())
                    reply = pb.HeartbeatResponse.FromString(await next_reply(stream))
                    if not reply.results:
                        break
                    await asyncio.sleep(POLL_SECONDS)
            await _until_active(channel, len(members))
    finally:
        stream.cancel()


async def _until_active(channel: grpc.aio.Channel, size: int) -> None:
    """Wait until the replica has followed the commits: an answered beat may be ahead of them."""
    call = channel.unary_unary(
        f"{REGISTRY}ListAgents",
        request_serializer=pb.ListAgentsRequest.SerializeToString,
        response_deserializer=pb.ListAgentsResponse.FromString,
    )
    active = pb.AgentFilter(statuses=[agent_pb2.AGENT_STATUS_ACTIVE])
    while True:
        page = await call(pb.ListAgentsRequest(filter=active, page_size=1))
        if page.total_size >= size:
            return
        await asyncio.sleep(POLL_SECONDS)


async def living_fleet(
    channel: grpc.aio.Channel, size: int, spec_of: SpecOf = ordinary_spec
) -> list[Member]:
    """Return a registered fleet of active agents."""
    members = await register(channel, size, spec_of)
    await bring_to_life(channel, members)
    return members
