"""Several processes on the same ports: each is simply a replica.

gRPC does not survive a fork and one process has one event loop, so workers are new processes that
listen with SO_REUSEPORT; the kernel spreads connections over them. The parent owns the embedded
store and passes signals on. Workers stop when the parent is gone, also when it was killed.

Settings reach the workers by their environment, where other users of the host cannot see them: the
store's URL may hold a password.
"""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from controlplane.settings import Settings

START_SECONDS = 60.0
"""How long workers may take to serve: loading a large namespace is the slow part."""

QUICK_END_SECONDS = 10.0
"""A worker that ends sooner after its start than this did not end for a passing reason."""

MAX_QUICK_ENDS = 3
"""So many quick ends in a row mean that another start will not help."""

RESTART_SECONDS = 0.2
"""Pause before a worker is started again; grows with quick ends in a row."""

STOP_MARGIN_SECONDS = 10.0
"""What a worker may take beyond its own grace before it is killed."""

_log = logging.getLogger("fleetplane.workers")


class Workers:
    """The worker processes of one daemon. One that dies is started again; agents reconnect."""

    def __init__(self, settings: Settings, store_url: str) -> None:
        self._settings = settings
        self._store_url = store_url
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._environment: dict[str, str] = {}
        self._reserved: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        """Start the workers."""
        self._environment = self._reserve_ports()
        for number in range(self._settings.workers):
            await self._start(number)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what still runs, within the grace of the settings."""
        settings = self._settings
        patience = settings.grace_seconds + settings.drain_delay_seconds + STOP_MARGIN_SECONDS
        running = [p for p in self._processes.values() if p.returncode is None]
        for process in running:
            process.terminate()
        await asyncio.gather(*(_end(process, patience) for process in running))
        for reserved in self._reserved:
            reserved.close()

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        process = self._processes[number] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "controlplane", "serve", "--worker"),
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,  # its end tells the worker that we are gone
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent, which drains them in order
        )
        return process

    def _reserve_ports(self) -> dict[str, str]:
        """Take the ports; return the environment of the workers.

        Raises:
            ChildProcessError: an address cannot be shared, or is taken.
        """
        settings = self._settings
        chosen = {name: getattr(settings, name) for name in settings.model_fields_set}
        chosen |= {"listen": self._reserve(settings.listen), "store": self._store_url}
        if settings.listen_mtls is not None:
            chosen["listen_mtls"] = self._reserve(settings.listen_mtls)
        return dict(os.environ) | {
            f"FLEETPLANE_{name.upper()}": str(value)
            for name, value in chosen.items()
            if value is not None
        }

    def _reserve(self, address: str) -> str:
        """Return the address with a port that stays ours, also while workers restart."""
        host, _, port = address.rpartition(":")
        if host.startswith("unix"):
            raise ChildProcessError("workers share a port, and a unix socket has none")
        bare = host.strip("[]")
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        reserved = socket.socket(family, socket.SOCK_STREAM)
        self._reserved.append(reserved)
        try:
            # Bound first without sharing: another daemon on this port must be noticed.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((bare, int(port)))
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind((bare, int(port)))
        except OSError as error:
            for one in self._reserved:
                one.close()
            raise ChildProcessError(f"cannot listen on {address}: {error.strerror}") from None
        return f"{host}:{reserved.getsockname()[1]}"

    async def serving(self) -> Any:
        """Wait until every worker serves; return what the first one announced.

        Raises:
            ChildProcessError: one of them ended instead.
        """
        lines = await asyncio.gather(*(_announcement(p) for p in self._processes.values()))
        return SimpleNamespace(**json.loads(lines[0]))

    async def run(
        self, stop: asyncio.Event, *watching: Callable[[], Coroutine[Any, Any, None]]
    ) -> int:
        """Keep the workers alive until `stop`.

        Raises:
            ChildProcessError: a worker cannot be kept alive.
            BaseException: what ended one of `watching`.
        """
        keepers: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait(), name="stop")]
        keepers += [
            asyncio.create_task(self._keep(number), name=f"worker-{number}")
            for number in self._processes
        ]
        keepers += [asyncio.create_task(watch(), name="store") for watch in watching]
        try:
            done, _ = await asyncio.wait(keepers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        for keeper in done:
            keeper.result()
        return 0

    async def _keep(self, number: int) -> None:
        """Start a worker again whenever it ends by itself."""
        loop = asyncio.get_running_loop()
        quick_ends = 0
        while True:
            process = self._processes[number]
            began = loop.time()
            code = await process.wait()
            quick_ends = quick_ends + 1 if loop.time() - began < QUICK_END_SECONDS else 0
            if quick_ends >= MAX_QUICK_ENDS:
                raise ChildProcessError(
                    f"worker {number} ended {quick_ends} times within {QUICK_END_SECONDS:g} s of"
                    f" its start, last with code {code}"
                )
            _log.error(
                "a worker ended, starting another",
                extra={"worker": number, "pid": process.pid, "code": code},
            )
            await asyncio.sleep(RESTART_SECONDS * (1 + quick_ends))
            await _announcement(await self._start(number))


async def _announcement(process: asyncio.subprocess.Process) -> bytes:
    try:
        async with asyncio.timeout(START_SECONDS):
            return await _first_line(process)
    except TimeoutError:
        raise ChildProcessError(f"a worker did not serve within {START_SECONDS:g} s") from None


async def _first_line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise ChildProcessError("a worker has no standard output")
    line = await process.stdout.readline()
    if not line:
        raise ChildProcessError(f"worker {process.pid} ended before it served; its log says why")
    return line


async def _end(process: asyncio.subprocess.Process, patience: float) -> None:
    try:
        async with asyncio.timeout(patience):
            await process.wait()
    except TimeoutError:
        _log.error("worker did not stop in time, killing it", extra={"pid": process.pid})
        process.kill()
        await process.wait()
