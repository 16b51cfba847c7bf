"""The real daemon as a subprocess: what an operator starts, kills and restarts.

`with running_daemon() as daemon` gives one that serves; everything it leaves behind (its store,
its directory) is gone afterwards. Methods that wait are synchronous, so that daemons can outlive
the event loop of one test; their `a...` twins wait in a thread.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from controlplane.storage.redis.data_dir import DataDirLock
from tests.fakes.valkey import short_directory

SERVING_SECONDS: Final = 30.0
"""How long a start may take: a second on an idle machine, many on one that runs other suites."""

ENDED_SECONDS: Final = 20.0
"""How long an end may take: more than the grace that tests give, plus a store that syncs."""

_POLL_SECONDS: Final = 0.005

ROOT: Final = Path(__file__).resolve().parents[2]

Setting = str | float | bool


class DaemonError(Exception):
    """The daemon did not do what it must; the message ends with its log."""


class Daemon:
    """One `fleetplane serve`; `directory` holds its data, its sockets and its log.

    `failpoint`: where it kills itself, see `tests/fakes/failpoint_daemon.py`.
    `store`: URL of a store, or `embedded`. `settings`: fields of `controlplane.settings`, passed as
    FLEETPLANE_<FIELD>; nothing else of the environment reaches it under that prefix.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: str = "embedded",
        settings: Mapping[str, Setting],
        failpoint: str = "",
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.address = "127.0.0.1:0"
        self._store = store
        self._settings = dict(settings)
        self._failpoint = failpoint
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the daemon was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has logged, over all its lives."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start it, on the port it had before, and wait until it says that it serves."""
        announced = self.directory / "announced"
        module = "tests.fakes.failpoint_daemon" if self._failpoint else "controlplane"
        command = [sys.executable, "-m", module, "serve", "--listen", self.address]
        command += ["--store", self._store, "--data-dir", str(self.data_dir)]
        with announced.open("wb") as output, (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=self._environment(),
                cwd=ROOT if self._failpoint else None,
            )
        deadline = time.monotonic() + SERVING_SECONDS
        while not (line := announced.read_bytes()).endswith(b"\n"):
            if self._process.poll() is not None:
                raise DaemonError(f"ended with {self._process.returncode}\n{self.log}")
            if time.monotonic() > deadline:
                raise DaemonError(f"does not serve after {SERVING_SECONDS} s\n{self.log}")
            time.sleep(_POLL_SECONDS)
        self.address = json.loads(line)["listen"]

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLEETPLANE_")}
        chosen = {f"FLEETPLANE_{k.upper()}": str(v) for k, v in self._settings.items()}
        runtime = {"FLEETPLANE_RUNTIME_DIR": str(self.directory)}
        failpoint = {"FAILPOINT": self._failpoint} if self._failpoint else {}
        return inherited | runtime | chosen | failpoint

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon's own process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it at once (SIGKILL) and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM); see `wait`."""
        self.signal(signal.SIGTERM)

    def wait(self, timeout: float = ENDED_SECONDS) -> int:
        """Wait for its end; return its exit code (-9: SIGKILL)."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DaemonError(f"still runs after {timeout} s\n{self.log}") from None

    async def await_end(self, timeout: float = ENDED_SECONDS) -> int:
        return await asyncio.to_thread(self.wait, timeout)

    async def astart(self) -> None:
        await asyncio.to_thread(self.start)

    async def arestart(self) -> None:
        """Kill it and start it again on the same port and data."""
        self.kill()
        await self.astart()

    def store_pid(self) -> int | None:
        """Return the process id of its embedded store; None without one."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.data_dir / "server.pid").read_text())
        return None

    def sockets(self) -> list[Path]:
        """Return the socket files in its directory: those of its store."""
        return [path for path in self.directory.rglob("*") if path.is_socket()]

    def close(self) -> None:
        """End it and whatever it left running."""
        store = self.store_pid()
        self.terminate()
        try:
            self.wait()
        finally:
            self.kill()
            if store is not None:
                self._store_ended()

    def _store_ended(self) -> None:
        """Wait until nobody holds the data directory: an orphaned store ends by itself."""
        deadline = time.monotonic() + ENDED_SECONDS
        while (pid := self.store_pid()) is not None and is_running(pid):
            if time.monotonic() > deadline:
                raise DaemonError(f"left its store behind, process {pid}\n{self.log}")
            time.sleep(_POLL_SECONDS)
        lock = DataDirLock(self.data_dir)
        assert lock.try_acquire(), "somebody still owns the data directory"
        lock.release()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@contextlib.contextmanager
def running_daemon(
    *, store: Setting = "embedded", failpoint: Setting = "", **settings: Setting
) -> Iterator[Daemon]:
    """Run a daemon on a free loopback port; see `Daemon` for the settings."""
    with short_directory() as directory:
        daemon = Daemon(directory, store=str(store), settings=settings, failpoint=str(failpoint))
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.close()
