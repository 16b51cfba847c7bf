"""A tenant that does what its limits forbid, at a bounded pace, as a process of its own.

    python -m tests.bench.misbehaving

Reads one `Order` in JSON per line from standard input, does it, and prints how many calls it made
and how they were answered: `{"calls": ..., "codes": {"OK": ...}}`. Ends with its input.
"""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

import grpc
import uvloop

from fleetplane.v1 import config_service_pb2, registry_service_pb2
from tests.bench.fleet import REGISTRY
from tests.bench.pacing import Deed, paced
from tests.bench.servers import open_channel
from tests.bench.ways import bearer
from tests.bench.wire import Metadata, next_reply, subscribe

CONFIG: Final = "/fleetplane.v1.ConfigService/"
WRONG_SECRET: Final = f"at-nobody.{'x' * 43}"
CALL_SECONDS: Final = 5.0


class Mischief(StrEnum):
    """What it does."""

    HOT = "hot calls beyond the quota"
    LISTS = "lists beyond the quota"
    STREAMS = "streams, opened and closed"
    CREDENTIALS = "calls with a wrong token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do, where and for how long."""

    mischief: Mischief
    per_second: float
    seconds: float
    address: str
    roots: str
    """PEM of whom it trusts."""
    secret: str
    namespace: str

    @classmethod
    def of(cls, line: str) -> "Order":
        """Return what a line of input says."""
        said = json.loads(line)
        return cls(**said | {"mischief": Mischief(said["mischief"])})

    def line(self) -> bytes:
        """Return it as a line of input."""
        return json.dumps(asdict(self)).encode() + b"\n"


async def obey() -> None:
    """Do what the lines of standard input say, over one connection."""
    channel: grpc.aio.Channel | None = None
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = Order.of(line)
        if channel is None:
            channel = open_channel(
                order.address, grpc.ssl_channel_credentials(order.roots.encode())
            )
        codes: Counter[str] = Counter()
        await paced(order.per_second, order.seconds, _deed(channel, order, codes))
        print(json.dumps({"calls": codes.total(), "codes": codes}), flush=True)
    if channel is not None:
        await channel.close()


def _deed(channel: grpc.aio.Channel, order: Order, codes: Counter[str]) -> Deed:
    wrong = order.mischief is Mischief.CREDENTIALS
    metadata = bearer(WRONG_SECRET if wrong else order.secret)
    if order.mischief is Mischief.STREAMS:
        return _streams(channel, order, metadata, codes)
    name = "Discover" if order.mischief is Mischief.HOT else "ListAgents"
    message = getattr(registry_service_pb2, f"{name}Request")(namespace=order.namespace)
    request = message.SerializeToString()
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{REGISTRY}{name}")

    async def once() -> None:
        try:
            await call(request, metadata=metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1
        else:
            codes["OK"] += 1

    return once


def _streams(
    channel: grpc.aio.Channel, order: Order, metadata: Metadata, codes: Counter[str]
) -> Deed:
    agent = config_service_pb2.ConfigScope(agent_name="nobody")
    request = config_service_pb2.WatchConfigRequest(
        namespace=order.namespace, scopes=[config_service_pb2.WatchedScope(scope=agent)]
    ).SerializeToString()

    async def once() -> None:
        stream = subscribe(channel, f"{CONFIG}WatchConfig", request, metadata)
        try:
            await next_reply(stream)
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1
        else:
            codes["OK"] += 1
            stream.cancel()

    return once


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(obey())
