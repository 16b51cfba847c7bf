"""Several processes on one port: each is simply a replica.

gRPC does not survive a fork and one process has one event loop, so workers are new processes that
listen with SO_REUSEPORT; the kernel spreads connections over them. The parent owns the embedded
store and passes signals on.
"""

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Callable, Coroutine
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from controlplane.settings import Settings

START_SECONDS = 60.0
"""How long workers may take to serve: loading a large namespace is the slow part."""

STOP_MARGIN_SECONDS = 10.0
"""What a worker may take beyond its own grace before it is killed."""

_log = logging.getLogger("fleetplane.workers")


class Workers:
    """The worker processes of one daemon."""

    def __init__(self, settings: Settings, store_url: str) -> None:
        self._settings = settings
        self._store_url = store_url
        self._processes: list[asyncio.subprocess.Process] = []
        self._reserved: socket.socket | None = None

    async def __aenter__(self) -> Self:
        """Start the workers."""
        listen = self._reserve_port()
        for _ in range(self._settings.workers):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "controlplane", "serve", "--worker"),
                    *("--listen", listen, "--store", self._store_url),
                    *("--log-format", str(self._settings.log_format)),
                    *("--log-level", self._settings.log_level),
                    *(("--insecure",) if self._settings.insecure else ()),
                    stdout=asyncio.subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C reaches the parent, which drains them in order
                )
            )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what still runs, within the grace of the settings."""
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
        patience = (
            self._settings.grace_seconds + self._settings.drain_delay_seconds + STOP_MARGIN_SECONDS
        )
        await asyncio.gather(*(_end(process, patience) for process in self._processes))
        if self._reserved is not None:
            self._reserved.close()

    def _reserve_port(self) -> str:
        """Return the address with a port that stays ours, also while workers restart."""
        listen = self._settings.listen
        if listen.startswith("unix:"):
            raise ChildProcessError("workers share a port; a unix socket has none")
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._reserved = socket.socket(family, socket.SOCK_STREAM)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind((host, int(port)))
        return f"{listen.rpartition(':')[0]}:{self._reserved.getsockname()[1]}"

    async def serving(self) -> Any:
        """Wait until every worker serves; return what the first one announced.

        Raises:
            ChildProcessError: one of them ended instead.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                lines = await asyncio.gather(*(_first_line(p) for p in self._processes))
        except TimeoutError:
            raise ChildProcessError(f"a worker did not serve within {START_SECONDS} s") from None
        return SimpleNamespace(**json.loads(lines[0]))

    async def run(
        self, stop: asyncio.Event, *watching: Callable[[], Coroutine[Any, Any, None]]
    ) -> int:
        """Wait for `stop`, or for the end of anything that must not end.

        Raises:
            ChildProcessError: a worker ended by itself.
        """
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait(), name="stop")]
        waits += [asyncio.create_task(p.wait(), name=f"worker-{p.pid}") for p in self._processes]
        waits += [asyncio.create_task(watch(), name="store") for watch in watching]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if stop.is_set():
            return 0
        for wait in done:
            wait.result()
        raise ChildProcessError("a worker process ended by itself")


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
