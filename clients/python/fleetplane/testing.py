"""A real daemon for tests of agents and orchestrators.

    async def test_my_agent(fleet_server: Fleet) -> None:
        async with Agent("mine", "1.0.0", target=fleet_server.target) as agent:
            assert agent.may_work

The daemon is a process of its own on a free port, with its data in a temporary directory; it needs
the distribution `fleetplane` in the environment of the tests, the SDK does not. Make the fixture
known with `from fleetplane.testing import fleet_server` in a `conftest.py`; it needs pytest and
pytest-asyncio. Other test runners use `fleet()`.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fleetplane._client import FleetClient

START_TIMEOUT: Final = 30.0
"""Seconds the daemon may take until it serves."""

STOP_TIMEOUT: Final = 10.0
"""Seconds the daemon may take to stop before it is killed."""

_PREFIX: Final = "FLEETPLANE_"
"""How the variables of the daemon's settings begin."""

_LAST_LINES: Final = 20
"""Lines of the daemon's output that an error quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A running daemon."""

    target: str
    """Its address, `127.0.0.1:port`."""
    pid: int
    """Its process id, for tests that kill it."""

    def client(self, *, namespace: str = "default") -> FleetClient:
        """Return a client for it, to be entered with `async with`."""
        return FleetClient(self.target, namespace=namespace)


class FleetDidNotStart(RuntimeError):
    """The daemon is not installed, ended at its start, or took too long."""


@contextlib.asynccontextmanager
async def fleet(
    *arguments: str, start_timeout: float = START_TIMEOUT, port: int = 0
) -> AsyncIterator[Fleet]:
    """Start a daemon, and stop it at the end.

    Args:
        *arguments: further arguments of `fleetplane serve`, such as `--store`, `redis://...`.
        start_timeout: seconds to wait until it serves.
        port: where it listens on loopback; 0 takes a free one.

    Raises:
        FleetDidNotStart: the message says why and quotes the daemon's last words.
    """
    if importlib.util.find_spec("controlplane") is None:
        raise FleetDidNotStart(
            "the daemon is not installed in this environment: pip install fleetplane"
        )
    data = tempfile.mkdtemp(prefix="fp-")
    try:
        process = await _spawn(data, port, arguments)
        drain: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(start_timeout):
                target = await _address(process)
            drain = asyncio.get_running_loop().create_task(_drain(process))
            yield Fleet(target=target, pid=process.pid)
        except TimeoutError as error:
            if drain is not None:
                raise
            raise FleetDidNotStart(f"the daemon did not serve in {start_timeout:g} s") from error
        finally:
            await _stop(process)
            if drain is not None:
                await drain
    finally:
        shutil.rmtree(data, ignore_errors=True)


async def _spawn(data: str, port: int, arguments: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "controlplane",
        "serve",
        "--listen",
        f"127.0.0.1:{port}",
        "--data-dir",
        data,
        "--log-format",
        "json",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Return the environment without settings that are meant for another daemon."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
    return {**kept, "PYTHONUNBUFFERED": "1", f"{_PREFIX}HTTP": "off"}


async def _address(process: asyncio.subprocess.Process) -> str:
    """Read the daemon's output up to the line that says where it listens."""
    last: list[str] = []
    while line := await _line(process):
        last = [*last, line][-_LAST_LINES:]
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "serving":
            return str(event["listen"])
    code = await process.wait()
    raise FleetDidNotStart(f"the daemon ended with {code}:\n" + "\n".join(last))


async def _line(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None:
        return ""
    return (await process.stdout.readline()).decode(errors="replace")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read on, so that the daemon never waits for a reader of its log."""
    while await _line(process):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


if TYPE_CHECKING or importlib.util.find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def fleet_server() -> AsyncIterator[Fleet]:
        """Start a daemon for one test."""
        async with fleet() as running:
            yield running
