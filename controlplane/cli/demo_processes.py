"""The processes of a demo: agents, and a daemon of its own. All are ended by their pid."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from controlplane.cli.demo_agent import Crew
from controlplane.cli.outcomes import CommandFailed

STOP_TIMEOUT: Final = 10.0
"""Seconds a process may take to say goodbye before it is killed."""

START_TIMEOUT: Final = 30.0
"""Seconds a daemon may take until it serves."""

SHORT_TIMES: Final = {
    "FLEETPLANE_HEARTBEAT_INTERVAL_SECONDS": "0.5",
    "FLEETPLANE_DEGRADED_AFTER_SECONDS": "2",
    "FLEETPLANE_LOST_AFTER_SECONDS": "60",
}
"""Liveness of a daemon of the demo's own: a death is seen within seconds."""

_LAST_LINES: Final = 5
"""Lines of a daemon's output that an error quotes."""

OnLine = Callable[["CrewProcess", dict[str, str]], None]
"""Called with everything that a process of agents says."""


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process of ours: ask, wait, and kill it if it does not listen."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class CrewProcess:
    """A process with some of the agents, which can be killed and started again.

    Args:
        crew: what it runs.
        on_line: called with everything it says, and `{"event": "ended"}` if it ends by itself.
    """

    def __init__(self, crew: Crew, on_line: OnLine) -> None:
        self.crew = crew
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._expected = False

    @property
    def pid(self) -> int:
        """Its process id; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, or start it again; its agents come in while this has returned."""
        await self._read_up()
        self._expected = False
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controlplane.cli.demo_agent",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the demo, which ends its agents in order
        )
        self._reading = asyncio.get_running_loop().create_task(
            self._read(self._process), name=f"demo-read-{self._process.pid}"
        )
        if self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(msgspec.json.encode(self.crew) + b"\n")
                await self._process.stdin.drain()

    async def kill(self) -> None:
        """End it without a goodbye, as a crash would."""
        if self._process is not None and self.running:
            self._expected = True
            self._process.kill()
            await self._process.wait()

    async def aclose(self) -> None:
        """Let its agents say goodbye; idempotent."""
        self._expected = True
        if self._process is not None:
            await stop(self._process)
        await self._read_up()

    async def _read_up(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            await reading

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Pass on what it says until it ends."""
        if process.stdout is None:
            return
        while line := await process.stdout.readline():
            self._on_line(self, json.loads(line))
        code = await process.wait()
        if not self._expected:
            self._on_line(self, {"event": "ended", "message": f"exit code {code}"})


@contextlib.asynccontextmanager
async def own_daemon() -> AsyncIterator[tuple[str, int]]:
    """Run a daemon with a temporary data directory and short liveness times.

    Yields:
        Its address and its pid.

    Raises:
        CommandFailed: it did not start; the message quotes its last words.
    """
    data = tempfile.mkdtemp(prefix="fleetplane-demo-")
    try:
        process = await _spawn_daemon(data)
        draining: asyncio.Task[None] | None = None
        try:
            address = await _serving(process)
            draining = asyncio.get_running_loop().create_task(_drain(process), name="demo-drain")
            yield address, process.pid
        finally:
            await stop(process)
            if draining is not None:
                await draining
    finally:
        shutil.rmtree(data, ignore_errors=True)


async def _spawn_daemon(data: str) -> asyncio.subprocess.Process:
    inherited = {
        name: one for name, one in os.environ.items() if not name.startswith("FLEETPLANE_")
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "controlplane",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data,
        "--log-format",
        "json",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=inherited | SHORT_TIMES | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


async def _serving(process: asyncio.subprocess.Process) -> str:
    """Read the daemon's output up to the line that says where it listens."""
    last: list[str] = []
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while line := await _line(process):
                last = [*last, line.rstrip()][-_LAST_LINES:]
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and event.get("event") == "serving":
                    return str(event["listen"])
    except TimeoutError:
        pass
    words = "\n".join(last)
    raise CommandFailed("the daemon of the demo did not start", hint=words)


async def _line(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None:
        return ""
    return (await process.stdout.readline()).decode(errors="replace")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read on, so that the daemon never waits for a reader of its log."""
    while await _line(process):
        pass
