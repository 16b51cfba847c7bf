"""One run of the embedded server program: its command line, its start, its end.

The server must not outlive a daemon that was killed. On Linux it asks the kernel for SIGTERM on
the death of the thread that started it; elsewhere a tiny guard process holds a pipe to the daemon
and sends the signal when the pipe breaks. Neither runs code between fork and exec: a `preexec_fn`
would run Python in a copy of a process whose other threads (gRPC's) hold locks, and the server is
started again, after a crash, while those threads run.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LOG_NAME: Final = "server.log"
PIDFILE_NAME: Final = "server.pid"

# Seconds between SIGTERM and SIGKILL: the server writes out and syncs its append-only file.
STOP_GRACE_SECONDS: Final = 10.0

# The server logs a few lines per start; this much is years of them.
_LOG_ROTATE_BYTES: Final = 4 * 1024 * 1024
_LOG_TAIL_LINES: Final = 15
_LOG_TAIL_BYTES: Final = 8 * 1024

# Seconds between looks at the child where the kernel cannot report its end.
_EXIT_POLL_SECONDS: Final = 0.05

# Becomes the server: same process id. `1` is PR_SET_PDEATHSIG; it survives execve. A parent that
# died before the request was made is noticed by the changed parent id.
_BECOME_SERVER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the daemon is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

# Nothing is ever written into the pipe: its end means that the daemon died.
_GUARD: Final = """
import os, signal, sys
sys.stdin.buffer.read()
os.kill(int(sys.argv[1]), signal.SIGTERM)
"""


class StoreProcess:
    """A running server. Made by `spawn`; `exited` resolves to its return code (-9: SIGKILL)."""

    def __init__(
        self, process: subprocess.Popen[bytes], guard: subprocess.Popen[bytes] | None, log: Path
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._guard = guard
        self._log = log
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self.started_at = self._loop.time()
        self._watch_exit()

    @classmethod
    def spawn(
        cls,
        program: Path,
        *,
        data_dir: Path,
        socket: Path,
        appendfsync: str,
        kernel_guard: bool = sys.platform == "linux",
    ) -> "StoreProcess":
        """Start the server; call from the thread that lives as long as the daemon.

        Blocks for a few milliseconds at most. Returns before the server answers. It gets a
        session of its own, so that Ctrl-C reaches the daemon only, which drains first.
        """
        log = data_dir / LOG_NAME
        if log.exists() and log.stat().st_size > _LOG_ROTATE_BYTES:
            log.replace(log.with_suffix(".log.1"))
        command = [str(program), *_arguments(socket, appendfsync)]
        if kernel_guard:
            command = [*_python(_BECOME_SERVER), str(os.getpid()), *command]
        with open(
            log, "ab", opener=_private
        ) as output:  # what the server says before it opens its log
            process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                command,
                cwd=data_dir,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,  # what is stored is for the owner's eyes
            )
        return cls(process, None if kernel_guard else _start_guard(process.pid), log)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self.started_at

    def log_tail(self) -> str:
        """Return the last lines that the server logged; nothing if somebody removed its log."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    async def stop(self, grace: float = STOP_GRACE_SECONDS) -> None:
        """End the server: SIGTERM, and SIGKILL after `grace` seconds (0: at once)."""
        try:
            if grace > 0 and not self.exited.done():
                self._process.terminate()
                await asyncio.wait({self.exited}, timeout=grace)
        finally:
            if not self.exited.done():
                self._process.kill()
                # Not awaited: this also runs while being cancelled. The kernel needs about a
                # millisecond, and everything acknowledged is already with it.
                self._process.wait()
                self._on_exit()

    def _watch_exit(self) -> None:
        self._pidfd: int | None = None
        if sys.platform == "linux":
            try:
                self._pidfd = os.pidfd_open(self._process.pid)
            except OSError:  # old kernel, or forbidden in a sandbox
                self._pidfd = None
        if self._pidfd is None:
            self._timer = self._loop.call_later(_EXIT_POLL_SECONDS, self._poll_exit)
        else:
            self._loop.add_reader(self._pidfd, self._on_exit)

    def _poll_exit(self) -> None:
        if self._process.poll() is not None:
            self._on_exit()
        elif not self.exited.done():
            self._timer = self._loop.call_later(_EXIT_POLL_SECONDS, self._poll_exit)

    def _on_exit(self) -> None:
        code = self._process.poll()
        if code is None or self.exited.done():
            return
        if self._pidfd is None:
            self._timer.cancel()
        else:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._guard is not None:
            _dismiss(self._guard)
        self.exited.set_result(code)


def _arguments(socket: Path, appendfsync: str) -> Sequence[str]:
    """Return the server's options. Paths in the data directory are relative to it (its cwd)."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": "./",
        "pidfile": PIDFILE_NAME,
        "logfile": LOG_NAME,
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "aof-load-truncated": "yes",  # a torn last write, after a power cut, is dropped
        "save": "",
        "notify-keyspace-events": "K$",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",  # a leftover server is recognised by its command line
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _python(source: str) -> list[str]:
    """Return a command that runs `source` in a bare interpreter: no site, no environment."""
    return [sys.executable, "-I", "-S", "-c", source]


def _private(path: str, flags: int) -> int:
    """Open a file, making it readable for its owner only."""
    return os.open(path, flags, 0o600)


def _start_guard(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own command line, no shell
        [*_python(_GUARD), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    """End the guard before the server's process id can be given to someone else."""
    guard.kill()
    guard.wait()
    if guard.stdin is not None:
        guard.stdin.close()
