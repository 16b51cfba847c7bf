"""Files with keys and certificates: who may read them, how they are replaced, when they changed."""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
PUBLIC_FILE: Final = 0o644

MAX_FILE_BYTES: Final = 1024 * 1024
"""Longest file that is read: a bundle of several hundred certificates. Whatever is longer is not
what the setting was meant to name."""


class CredentialFileError(Exception):
    """A key, a certificate or a directory of them cannot be used; the text says which and why."""


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter, with its parents, unless it exists.

    Raises:
        CredentialFileError: it cannot be made, or others may write into it.
    """
    try:
        path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise CredentialFileError(f"cannot make {path}: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise CredentialFileError(f"{path} can be written by everybody: chmod 700 {path}")


def read_public(path: Path) -> bytes:
    """Return what a file of certificates holds.

    Raises:
        CredentialFileError: it cannot be read, or is too long.
    """
    return _read(path, private=False)


def read_private(path: Path) -> bytes:
    """Return what a file with a private key holds.

    Only its owner may be able to read it. A file of root may also be readable by its group, which
    is how orchestrators mount secrets.

    Raises:
        CredentialFileError: it cannot be read, is too long, or others can read it.
    """
    return _read(path, private=True)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if private:
                _check_private(path, os.fstat(file.fileno()))
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CredentialFileError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise CredentialFileError(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    return content


def _check_private(path: Path, status: os.stat_result) -> None:
    group = stat.S_IRGRP if status.st_uid == 0 else 0
    if stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO) & ~group:
        raise CredentialFileError(
            f"{path} holds a private key and is open to others (mode"
            f" {stat.S_IMODE(status.st_mode):04o}): chmod 600 {path}"
        )


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Put a file in place whole, or leave what is there.

    Raises:
        OSError: the directory cannot be written.
    """
    temporary = _written(path, content, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create_file(path: Path, content: bytes, mode: int) -> bool:
    """Put a file in place whole, unless there is one; return whether this call did.

    Of several processes, on one host or on a shared file system, exactly one gets True.

    Raises:
        OSError: the directory cannot be written.
    """
    temporary = _written(path, content, mode)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _written(path: Path, content: bytes, mode: int) -> Path:
    """Write a file beside its place and onto the disk; it is private until it is whole."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            _give_to_owner(fd, path.parent)
            os.fchmod(fd, mode)
            os.fsync(fd)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _give_to_owner(fd: int, directory: Path) -> None:
    """Make a file that root has written belong to whom the directory belongs to.

    An operator who rotates the root by sudo must not lock out the daemon, which is another user.
    """
    if os.geteuid() == 0:
        owner = directory.stat()
        with contextlib.suppress(OSError):  # file systems of a network may not let root do that
            os.fchown(fd, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep out other processes that change the directory; waits for them.

    Raises:
        OSError: the directory cannot be written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(directory / ".lock", flags, PRIVATE_FILE)
    try:
        _give_to_owner(fd, directory)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class FileWatch:
    """Notices that files were replaced or written, by asking for their state again and again."""

    def __init__(self, *paths: Path) -> None:
        """Remember the state of the files as it is now."""
        self._paths = paths
        self._seen: tuple[tuple[int, int, int] | None, ...] = self._states()

    def changed(self) -> bool:
        """Return whether a file is other than it was at the last call, or at the beginning."""
        states = self._states()
        changed = states != self._seen
        self._seen = states
        return changed

    def look_again(self) -> None:
        """Report a change at the next call whatever is there: what was read was not usable."""
        self._seen = ()

    def _states(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_state, self._paths))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The time of the inode's change also tells of a chmod, which may be what was wrong.
    return status.st_ino, status.st_ctime_ns, status.st_size
