"""A crowd of heartbeat streams in a process of its own: what many SDK processes look like.

    python -m tests.fakes.beating_crowd TARGET PREFIX STREAMS INSTANCES

registers one agent per stream with so many instances each, and beats on every stream at the pace
the plane asks for, reconnecting whenever a stream breaks. It answers lines on its standard input
with one JSON line each: `report` with a `Report`, `mark` likewise, beginning to count anew.

`Crowd` is the other side of it, for tests.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import grpc

from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as rpc
from tests.fakes.eventually import eventually

STREAMS_PER_CHANNEL: Final = 100
"""Connections are shared, as those of a sidecar are; more than the server allows would queue."""

REGISTRATIONS: Final = 500
"""In one BatchRegister."""

RETRY_SECONDS: Final = 0.2
"""Mean pause before a stream is opened again."""

CALL_SECONDS: Final = 30.0
"""Longest wait for a registration, or for a line of the process."""


@dataclass
class Report:
    """What the crowd has seen since the last `mark`; times in seconds."""

    streams: int = 0
    answered: int = 0
    """Streams with at least one answer."""
    longest_wait: float = 0.0
    """From a beat to its answer."""
    longest_silence: float = 0.0
    """Between two answers on what one stream became."""
    broken: int = 0
    """Streams that ended."""
    refused: dict[str, int] = field(default_factory=dict)
    """Outcomes other than plain acceptance, by name."""


class Member:
    """One stream with its instances."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub
        self.generations: dict[str, int] = {}
        self.interval = 1.0
        self.answered_at = 0.0
        self.batch = 0


class Beating:
    """The crowd inside its process."""

    def __init__(self, target: str, prefix: str, streams: int, instances: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
        stubs: list[Any] = [
            rpc.RegistryServiceStub(grpc.aio.insecure_channel(target, options=options))
            for _ in range(0, streams, STREAMS_PER_CHANNEL)
        ]
        self._prefix = prefix
        self._instances = instances
        self._members = [Member(stubs[n // STREAMS_PER_CHANNEL]) for n in range(streams)]
        self._now = asyncio.get_running_loop().time
        self._heard: set[int] = set()
        self._report = Report(streams=streams)
        self._refused: Counter[str] = Counter()

    async def register(self) -> None:
        """Register everybody, the first instance of each agent before its second."""
        for instance in range(self._instances):
            for start in range(0, len(self._members), REGISTRATIONS):
                some = range(start, min(start + REGISTRATIONS, len(self._members)))
                request = pb.BatchRegisterRequest(
                    requests=[self._registration(number, instance) for number in some]
                )
                response = await self._members[start].stub.BatchRegister(
                    request, timeout=CALL_SECONDS, wait_for_ready=True
                )
                for number, result in zip(some, response.results, strict=True):
                    made = result.registered.instance
                    assert made.generation, result.error.message
                    self._members[number].generations[made.instance_id] = made.generation

    def _registration(self, number: int, instance: int) -> pb.RegisterRequest:
        name = f"{self._prefix}-{number}"
        return pb.RegisterRequest(
            spec=agent_pb2.AgentSpec(name=name, version="1.0.0", capabilities=["crowd"]),
            instance=pb.InstanceSpec(instance_id=f"{name}-{instance}"),
        )

    async def run(self) -> None:
        """Beat until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, member in enumerate(self._members):
                group.create_task(self._beat_on(number, member))

    async def _beat_on(self, number: int, member: Member) -> None:
        while True:
            # InvalidStateError: a write on a call that was over already.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._beat_until_over(number, member)
            self._report.broken += 1
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))

    async def _beat_until_over(self, number: int, member: Member) -> None:
        call = member.stub.Heartbeat(wait_for_ready=True)
        goes_on = True
        while goes_on:
            goes_on = await self._beat(number, member, call)
            await asyncio.sleep(member.interval * random.uniform(0.9, 1.1))

    async def _beat(self, number: int, member: Member, call: Any) -> bool:
        """Beat once; return False when the stream is over."""
        member.batch += 1
        request = pb.HeartbeatRequest(batch=member.batch)
        for instance_id, generation in member.generations.items():
            request.beats.add(instance_id=instance_id, generation=generation, seq=member.batch)
        began = self._now()
        await call.write(request)
        reply = await call.read()
        if reply is grpc.aio.EOF or reply.HasField("go_away"):
            return False
        now, report = self._now(), self._report
        report.longest_wait = max(report.longest_wait, now - began)
        if member.answered_at:
            report.longest_silence = max(report.longest_silence, now - member.answered_at)
        member.answered_at = now
        member.interval = reply.next_interval.ToMilliseconds() / 1000
        self._heard.add(number)
        for result in reply.results:
            self._refused[pb.BeatResult.Outcome.Name(result.outcome)] += 1
        return True

    def obey(self, command: str) -> str:
        """Return the answer to a line."""
        report = self._report
        report.answered, report.refused = len(self._heard), dict(self._refused)
        if command == "mark":
            self._report = Report(streams=len(self._members))
            self._heard.clear()
            self._refused.clear()
        return json.dumps(asdict(report))


async def main(target: str, prefix: str, streams: str, instances: str) -> None:
    """Run the crowd until the standard input ends."""
    crowd = Beating(target, prefix, int(streams), int(instances))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    await crowd.register()
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(crowd.run())
        while line := await lines.readline():
            print(crowd.obey(line.decode().strip()), flush=True)  # noqa: T201 - the protocol
        beating.cancel()


class Crowd:
    """The process, seen from a test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def report(self) -> Report:
        """Return what it has seen since the last mark."""
        return await self._ask("report")

    async def mark(self) -> Report:
        """Return the same, and begin to count anew."""
        return await self._ask("mark")

    async def _ask(self, command: str) -> Report:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(CALL_SECONDS):
            line = await self._process.stdout.readline()
        assert line, "the crowd has ended; its error is above"
        return Report(**json.loads(line))

    async def all_answered(self) -> None:
        """Wait until every stream had an answer since the last mark."""

        async def answered() -> bool:
            report = await self.report()
            return report.answered == report.streams

        await eventually("every stream is answered", answered, within=CALL_SECONDS)


@asynccontextmanager
async def beating_crowd(
    target: str, prefix: str, *, streams: int, instances: int
) -> AsyncIterator[Crowd]:
    """Run a crowd; everybody is registered and has beaten when it is yielded."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", __name__, target, prefix, str(streams), str(instances)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        crowd = Crowd(process)
        await crowd.all_answered()
        yield crowd
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
