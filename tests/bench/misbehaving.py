"""A tenant that does what its limits forbid, at a bounded pace, as a process of its own.

    python -m tests.bench.misbehaving

Reads one `Order` in JSON per line from standard input, does it, and prints how many calls it made
and how they were answered: `{"calls": ..., "codes": {"OK": ...}}`. Ends with its input.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

import grpc
import uvloop

from fleetplane.v1 import config_service_pb2, registry_service_pb2
from tests.bench.fleet import REGISTRY
from tests.bench.floor import REFUSE
from tests.bench.pacing import Deed, paced
from tests.bench.servers import open_channel
from tests.bench.ways import bearer
from tests.bench.wire import Metadata, next_reply, subscribe

CONFIG: Final = "/fleetplane.v1.ConfigService/"
WRONG_SECRET: Final = f"at-nobody.{'x' * 43}"
CALL_SECONDS: Final = 5.0
AT_A_TIME: Final = 64
"""Callers of a closed loop."""


class Mischief(StrEnum):
    """What it does."""

    HOT = "hot calls beyond the quota"
    LISTS = "lists beyond the quota"
    STREAMS = "streams, opened and closed"
    CREDENTIALS = "calls with a wrong token"
    LOOP = "calls beyond the quota, 64 at a time, at once again"


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
    is_floor: bool = False
    """At the address is a bare server that refuses, not a daemon."""

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
    channels: dict[str, grpc.aio.Channel] = {}
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = Order.of(line)
        if order.address not in channels:
            trust = grpc.ssl_channel_credentials(order.roots.encode())
            channels[order.address] = open_channel(order.address, trust)
        codes: Counter[str] = Counter()
        deed = _deed(channels[order.address], order, codes)
        if order.mischief is Mischief.LOOP:
            await asyncio.gather(*(_again(deed, order.seconds) for _ in range(AT_A_TIME)))
        else:
            await paced(order.per_second, order.seconds, deed)
        print(json.dumps({"calls": codes.total(), "codes": codes}), flush=True)
    for channel in channels.values():
        await channel.close()


async def _again(deed: Deed, seconds: float) -> None:
    """Do it again as soon as it is done."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await deed()


def _deed(channel: grpc.aio.Channel, order: Order, codes: Counter[str]) -> Deed:
    wrong = order.mischief is Mischief.CREDENTIALS
    metadata = bearer(WRONG_SECRET if wrong else order.secret)
    if order.mischief is Mischief.STREAMS:
        return _streams(channel, order, metadata, codes)
    name = "ListAgents" if order.mischief is Mischief.LISTS else "Discover"
    message = getattr(registry_service_pb2, f"{name}Request")(namespace=order.namespace)
    request = message.SerializeToString()
    method = REFUSE if order.is_floor else f"{REGISTRY}{name}"
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

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
