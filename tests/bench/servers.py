"""Servers under load: started as processes, measured by their process ids, stopped by them."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2

from tests.bench.floor import SET_REPLY
from tests.bench.wire import Metadata, unary

START_SECONDS = 120.0
"""Longest wait for a server to serve: a start with 100,000 agents on a busy machine."""

STOP_SECONDS = 30.0
"""Longest wait for a server to end after SIGTERM; then it is killed."""

_SCHEDULER = 2
"""The clock of a process that the scheduler keeps (CPUCLOCK_SCHED, clock_getcpuclockid(3))."""

CLIENT_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
    # Channels with equal options otherwise share one connection.
    ("grpc.use_local_subchannel_pool", 1),
)

CALM: Mapping[str, str] = {
    "FLEETPLANE_DEGRADED_AFTER_SECONDS": "7200",
    "FLEETPLANE_LOST_AFTER_SECONDS": "14400",
}
"""Settings for fleets that are only looked at: nobody falls silent while it is measured."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that serves."""

    listen: str
    process: psutil.Process
    store: psutil.Process | None
    channel: grpc.aio.Channel
    data_dir: Path | None = None
    announced: Mapping[str, Any] = field(default_factory=dict)
    """The line with which it said that it serves."""
    credentials: grpc.ChannelCredentials | None = None
    """What a connection to `listen` needs; None: it is plain text."""
    metadata: Metadata = ()
    """What unary calls carry."""

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the CPU that the server and its store have used so far."""
        return _cpu(self.process), 0.0 if self.store is None else _cpu(self.store)

    def resident_bytes(self) -> int:
        """Return the memory of the server's process, without its store."""
        return int(self.process.memory_info().rss)

    def new_channel(self) -> grpc.aio.Channel:
        """Return a further connection; the caller closes it."""
        return open_channel(self.listen, self.credentials)


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """Return a connection of its own, over TLS if there are credentials."""
    options = list(CLIENT_OPTIONS)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, to the nanosecond: `times` counts in 10 ms."""
    clock_of_process = (~process.pid << 3) | _SCHEDULER
    return time.clock_gettime(clock_of_process)


@asynccontextmanager
async def daemon(
    settings: Mapping[str, str] | None = None,
    *,
    data_dir: Path | None = None,
    module: str = "controlplane",
    log_level: str = "warning",
) -> AsyncIterator[Server]:
    """Run a daemon with its embedded store until SERVING; `data_dir` is kept, else temporary.

    `module` is run in place of the daemon's own. What it logs below WARNING is thrown away.
    """
    async with AsyncExitStack() as stack:
        if data_dir is None:
            data_dir = Path(tempfile.mkdtemp(prefix="fp-bench-", dir="/tmp"))
            stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
        command = [
            *(sys.executable, "-m", module, "serve", "--listen", "127.0.0.1:0"),
            *("--data-dir", str(data_dir), "--log-format", "json", "--log-level", log_level),
        ]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FLEETPLANE_")},
            **(settings or {}),
        }
        quiet = log_level == "warning"
        running = _running(command, environment, data_dir, None if quiet else subprocess.DEVNULL)
        server = await stack.enter_async_context(running)
        await until_serving(server.channel)
        yield server


@asynccontextmanager
async def floor(ca_dir: Path | None = None) -> AsyncIterator[Server]:
    """Run the floor; with the authority in `ca_dir` also behind TLS (`floor.py`)."""
    command = [sys.executable, "-m", "tests.bench.floor", *([str(ca_dir)] if ca_dir else [])]
    async with _running(command, dict(os.environ), None) as server:
        yield server


async def can(floor: Server, method: str, reply: bytes) -> None:
    """Make the floor answer a method with this reply from now on."""
    await unary(floor.channel, SET_REPLY)(method.encode() + b"\0" + reply)


@asynccontextmanager
async def _running(
    command: Sequence[str],
    environment: Mapping[str, str],
    data_dir: Path | None,
    errors: int | None = None,
) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=errors, env=environment
    )
    try:
        announced = await _announced(process)
        listen: str = announced["listen"]
        credentials = _trust(announced.get("ca_bundle"))
        watched = psutil.Process(process.pid)
        stores = [child for child in watched.children() if "valkey" in " ".join(child.cmdline())]
        async with open_channel(listen, credentials) as channel:
            yield Server(
                listen,
                watched,
                stores[0] if stores else None,
                channel,
                data_dir,
                announced,
                credentials,
            )
    finally:
        await ended(process)


def _trust(bundle: str | None) -> grpc.ChannelCredentials | None:
    """Return what verifies a server whose roots are in a file; None if it has none."""
    return None if bundle is None else grpc.ssl_channel_credentials(Path(bundle).read_bytes())


async def _announced(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the line `{"event": "serving", ...}`."""
    if process.stdout is None:
        raise RuntimeError("the server's output is not read")
    async with asyncio.timeout(START_SECONDS):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the server ended before it served")
    announced: dict[str, Any] = json.loads(line)
    return announced


async def until_serving(channel: grpc.aio.Channel) -> None:
    """Wait for the health service to say SERVING."""
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    async with asyncio.timeout(START_SECONDS):
        call = watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        async for reply in call:
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                break
        call.cancel()


async def ended(process: asyncio.subprocess.Process) -> None:
    """Stop a process, by force if it does not follow."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
