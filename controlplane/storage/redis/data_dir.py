"""Who owns a data directory, where its server listens, and what a killed owner left behind."""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from enum import Enum, auto
from pathlib import Path
from typing import Final

LOCK_NAME: Final = ".lock"

# The shortest limit of the supported systems (macOS: 104 bytes with the terminating zero, Linux
# 108). A server with a longer path refuses to start.
_SOCKET_PATH_LIMIT_BYTES: Final = 103

# Seconds one probe may take. The server answers in well under a millisecond unless it is stuck.
_PROBE_SECONDS: Final = 1.0

_LEFTOVER_GRACE_SECONDS: Final = 10.0
_LEFTOVER_POLL_SECONDS: Final = 0.02

# Always short, unlike the temporary directory of macOS.
_FALLBACK_ROOT: Final = Path("/tmp")  # noqa: S108 - a private directory inside, checked below


class DataDirLock:
    """The exclusive right to run a server on a data directory, held by an flock.

    The kernel releases it with the death of its holder. Inside the file the holder notes the
    socket of its server for those who come second. The file is never removed: a new file would
    be a second lock. Do not fork (without exec) while holding it: the child would hold it too.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def announce(self, socket: Path) -> None:
        """Note the socket on which the holder's server listens, or will."""
        if self._fd is None:
            raise RuntimeError("only the holder of the lock announces a socket")
        record = json.dumps({"pid": os.getpid(), "socket": str(socket)}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, record, 0)

    def announced(self) -> Path | None:
        """Return the socket noted by the holder; None when it has not got that far."""
        try:
            return Path(json.loads(self._path.read_bytes())["socket"])
        except (OSError, ValueError, KeyError):
            return None

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def socket_path(data_dir: Path, runtime_dir: Path | None) -> Path:
    """Return where the server of `data_dir` listens, in a directory that only we can enter.

    That is `runtime_dir/fleetplane/`, or `/tmp/fleetplane-<uid>/` where there is no runtime
    directory, it cannot be used, or its path is too long for a socket. Raises `PermissionError`
    when the directory in /tmp belongs to someone else.
    """
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16] + ".sock"
    if runtime_dir is not None:
        preferred = runtime_dir.absolute() / "fleetplane" / name
        if len(os.fsencode(preferred)) <= _SOCKET_PATH_LIMIT_BYTES:
            try:
                private_directory(preferred.parent)
            except OSError:
                pass  # not there, or not ours: the fallback serves as well
            else:
                return preferred
    fallback = _FALLBACK_ROOT / f"fleetplane-{os.getuid()}" / name
    private_directory(fallback.parent)
    return fallback


def private_directory(path: Path) -> None:
    """Make `path`, or raise `PermissionError` if it is not a directory of ours alone."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{path} is not a directory that only this user can enter")


class Answer(Enum):
    """What a server said to a probe."""

    READY = auto()
    LOADING = auto()  # alive, and reading its append-only file
    SILENT = auto()


async def probe(socket: Path) -> Answer:
    """Ask the server on `socket` whether it serves. Takes at most a second."""
    reply = await _ask(socket, b"PING\r\n")
    if reply.startswith(b"+PONG"):
        return Answer.READY
    return Answer.LOADING if reply.startswith(b"-LOADING") else Answer.SILENT


async def end_leftover(socket: Path, pidfile: Path) -> None:
    """End the server that a killed owner left on `socket`, and remove its socket.

    Call with the lock held: whoever runs there has no owner. SIGTERM, then SIGKILL after 10 s.
    """
    pid = await _pid_of(socket) or _recorded_pid(pidfile, socket)
    if pid is not None:
        _signal(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(_LEFTOVER_GRACE_SECONDS):
                await _gone(pid, socket)
        except TimeoutError:
            _signal(pid, signal.SIGKILL)
            async with asyncio.timeout(_LEFTOVER_GRACE_SECONDS):
                await _gone(pid, socket)
    _remove(socket)


async def _gone(pid: int, socket: Path) -> None:
    while True:
        if not _serves(pid, socket):
            return
        await asyncio.sleep(_LEFTOVER_POLL_SECONDS)


async def _ask(socket: Path, line: bytes) -> bytes:
    """Send one inline command; return the start of the reply, empty if there is none."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(line)
                return await reader.read(4096)
            finally:
                writer.close()
    except OSError:  # nobody listens; also the built-in TimeoutError
        return b""


async def _pid_of(socket: Path) -> int | None:
    for field in (await _ask(socket, b"INFO server\r\n")).split(b"\r\n"):
        if field.startswith(b"process_id:"):
            pid = int(field.partition(b":")[2])
            return pid if _serves(pid, socket) else None
    return None


def _recorded_pid(pidfile: Path, socket: Path) -> int | None:
    """Return the process of the pidfile, unless its id has passed to another program since."""
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if _serves(pid, socket) else None


def _serves(pid: int, socket: Path) -> bool:
    """Say whether `pid` is alive and was started to serve `socket` (a zombie is not alive)."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    else:
        command = subprocess.run(  # noqa: S603 - fixed program and an integer
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        ).stdout
    return os.fsencode(socket) in command


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)


def _remove(socket: Path) -> None:
    socket.unlink(missing_ok=True)
