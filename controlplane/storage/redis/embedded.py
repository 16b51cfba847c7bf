"""The embedded store: a real Valkey server that this daemon starts, watches and stops.

Data live in the data directory as an append-only file and survive restarts and kills. The server
listens on a unix socket in a private directory, on no network port.

The first daemon on a data directory *owns* it: it holds the directory's lock and runs the server.
Any further one (another worker, a second `fleetplane serve`) *attaches* to the running server as a
client, and takes over when the owner goes away: it acquires the lock, starts the server on the
same socket, and supervises it from then on. Clients see a pause of some 100 ms.

Start the store before the gRPC server, in the main thread: the kernel ends the server when the
thread that started it dies, and nothing should serve before its store does.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Never, Self
from urllib.parse import quote

from controlplane.storage.redis.data_dir import (
    Answer,
    DataDirLock,
    end_leftover,
    private_directory,
    probe,
    socket_path,
)
from controlplane.storage.redis.store_binary import find_server_binary
from controlplane.storage.redis.store_process import PIDFILE_NAME, StoreProcess

_log: Final = logging.getLogger("fleetplane.store")

# Seconds without any answer after which a start has failed. A healthy one takes 30-60 ms.
_READY_SECONDS: Final = 10.0
# Seconds for reading the append-only file, during which the server answers LOADING: minutes of
# it mean tens of gigabytes, far beyond what this store is for.
_LOADING_SECONDS: Final = 300.0
_READY_POLL_SECONDS: Final = 0.005

_JOIN_POLL_SECONDS: Final = 0.02

# Seconds between attempts of an attached daemon to take over. One flock call each.
_TAKEOVER_POLL_SECONDS: Final = 0.1

# A server that ends within this many seconds of its start has crashed fast; that many in a row
# are a defect that restarting does not cure (damaged file, full disk).
_FAST_CRASH_SECONDS: Final = 10.0
_MAX_FAST_CRASHES: Final = 3
# Pause before the restart after 0, 1, 2 fast crashes in a row.
_BACKOFF_SECONDS: Final = (0.0, 0.1, 1.0)

_DAMAGED_FILE_MARK: Final = "Bad file format reading the append only file"


class EmbeddedStoreError(Exception):
    """The embedded store cannot run. The message ends with the server's last log lines, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerExit:
    """An end of the server that nobody asked for.

    `returncode` as of `subprocess` (-9: SIGKILL), None when the server could not be started
    again. `restarting` is False for the last one, after which the store has failed for good.
    """

    returncode: int | None
    uptime_seconds: float
    restarting: bool


class EmbeddedStore:
    """Runs, or attaches to, the server of one data directory.

    `binary`: the server program; by default the one that `find_server_binary` finds.
    `appendfsync`: `everysec` loses at most the last second on a power cut (never on a kill);
    `always` loses nothing and makes every write wait for the disk.
    `runtime_dir`: where sockets go, usually `$XDG_RUNTIME_DIR`; see `socket_path`.
    `on_exit`: called for every unasked-for end of an owned server, from the event loop; must not
    block or raise.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binary: Path | None = None,
        appendfsync: Literal["everysec", "always"] = "everysec",
        runtime_dir: Path | None = None,
        on_exit: Callable[[ServerExit], None] | None = None,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._binary = binary
        self._appendfsync = appendfsync
        self._runtime_dir = runtime_dir
        self._on_exit = on_exit
        self._lock = DataDirLock(self._data_dir)
        self._socket: Path | None = None
        self._program: Path | None = None
        self._process: StoreProcess | None = None
        self._supervisor: asyncio.Task[Never] | None = None

    @property
    def url(self) -> str:
        """The URL for `StoreConnection`, valid after `start` and for as long as the store runs."""
        return f"unix://{quote(str(self._require_socket()))}?db=0"

    @property
    def owner(self) -> bool:
        """Whether this daemon runs the server; False while it is attached to another's."""
        return self._lock.held

    async def start(self) -> str:
        """Start the server or attach to the running one; return its URL once it serves.

        Raises `StoreBinaryNotFoundError` without a server program, `EmbeddedStoreError` when the
        server does not come up, `OSError` when the directories cannot be used.
        """
        if self._supervisor is not None:
            raise RuntimeError("the store is already started")
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._program = find_server_binary(self._binary)
        try:
            self._socket = await self._join_owner()
            if self._socket is None:
                self._socket = socket_path(self._data_dir, self._runtime_dir)
                self._process = await self._launch()
        except BaseException:
            self._lock.release()
            raise
        _log.info(
            "embedded store ready",
            extra={"owner": self.owner, "socket": str(self._socket), "program": str(self._program)},
        )
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-store")
        return self.url

    async def watch(self) -> Never:
        """Run for as long as the store can; raise `EmbeddedStoreError` when it fails for good.

        For the composition root, which ends the daemon on the first failure of its tasks. Ends
        as cancelled when the store is stopped.
        """
        if self._supervisor is None:
            raise RuntimeError("the store is not started")
        await asyncio.shield(self._supervisor)

    async def stop(self) -> None:
        """Stop an owned server (SIGTERM, SIGKILL after 10 s), or detach from another's.

        Close all clients first. Calling it again, or before `start`, does nothing.
        """
        supervisor, self._supervisor = self._supervisor, None
        try:
            if supervisor is not None:
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)
        finally:
            process, self._process = self._process, None
            try:
                if process is not None:
                    await process.stop()
            finally:
                self._lock.release()  # last: the next owner finds the data at rest

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _join_owner(self) -> Path | None:
        """Become the owner (None), or return the socket of another owner's running server.

        Waits while that owner starts up, and raises when its server never answers.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_SECONDS
        while not self._lock.try_acquire():
            socket = self._lock.announced()
            answer = Answer.SILENT if socket is None else await probe(socket)
            if answer is Answer.READY:
                return socket
            if answer is Answer.SILENT and loop.time() > deadline:
                raise EmbeddedStoreError(
                    f"another daemon owns {self._data_dir}, but its store does not answer"
                )
            await asyncio.sleep(_JOIN_POLL_SECONDS)
        return None

    async def _supervise(self) -> Never:
        await self._wait_for_ownership()
        crashes = 0
        while True:
            code, uptime, error = await self._run_until_exit()
            crashes = crashes + 1 if uptime < _FAST_CRASH_SECONDS else 0
            restarting = crashes < _MAX_FAST_CRASHES
            _log.error(
                "embedded store ended",
                extra={"returncode": code, "uptime_seconds": uptime, "restarting": restarting},
            )
            if self._on_exit is not None:
                self._on_exit(
                    ServerExit(returncode=code, uptime_seconds=uptime, restarting=restarting)
                )
            if not restarting:
                raise error
            await asyncio.sleep(_BACKOFF_SECONDS[crashes])

    async def _wait_for_ownership(self) -> None:
        if self._lock.held:
            return
        while True:
            if self._lock.try_acquire():
                _log.warning("the owner of the embedded store is gone: taking over")
                return
            await asyncio.sleep(_TAKEOVER_POLL_SECONDS)

    async def _run_until_exit(self) -> tuple[int | None, float, EmbeddedStoreError]:
        """Start the server unless it runs; return code, uptime and description of its end."""
        if self._process is None:
            try:
                self._process = await self._launch()
            except EmbeddedStoreError as error:
                return None, 0.0, error
        process = self._process
        # A cancelled wait leaves the process where stop() finds it.
        code = await asyncio.shield(process.exited)
        self._process = None
        return code, process.uptime, _crash(process, f"ended with code {code}")

    async def _launch(self) -> StoreProcess:
        """Start the server on the socket that clients know, and wait until it serves."""
        socket, program = self._require_socket(), self._program
        if program is None:
            raise RuntimeError("the store is not started")
        try:
            private_directory(socket.parent)
            self._lock.announce(socket)
            await end_leftover(socket, self._data_dir / PIDFILE_NAME)
            process = StoreProcess.spawn(
                program, data_dir=self._data_dir, socket=socket, appendfsync=self._appendfsync
            )
        except OSError as error:  # also a leftover that survives SIGKILL
            raise EmbeddedStoreError(f"the embedded store cannot be started: {error}") from error
        try:
            await _serving(process, socket)
        except BaseException:
            await process.stop(grace=0)
            raise
        _log.info("embedded store serves", extra={"pid": process.pid, "socket": str(socket)})
        return process

    def _require_socket(self) -> Path:
        if self._socket is None:
            raise RuntimeError("the store is not started")
        return self._socket


async def _serving(process: StoreProcess, socket: Path) -> None:
    """Return when the server answers; raise when it ends first, or takes too long."""
    while True:
        answer = await probe(socket)
        if answer is Answer.READY:
            return
        if process.exited.done():
            raise _crash(process, f"ended with code {process.exited.result()} while starting")
        limit = _LOADING_SECONDS if answer is Answer.LOADING else _READY_SECONDS
        if process.uptime > limit:
            raise _crash(process, f"did not serve within {limit:.0f} s")
        await asyncio.sleep(_READY_POLL_SECONDS)


def _crash(process: StoreProcess, what: str) -> EmbeddedStoreError:
    tail = process.log_tail()
    hint = ""
    if _DAMAGED_FILE_MARK in tail:
        hint = (
            "\nThe append-only file is damaged. Keep a copy of the data directory, then repair it "
            "with `valkey-check-aof --fix` (from a Valkey or Redis installation)."
        )
    return EmbeddedStoreError(f"the embedded store {what}{hint}\nLast lines of its log:\n{tail}")
