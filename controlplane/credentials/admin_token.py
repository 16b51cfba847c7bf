"""The file with the secret of the first administrator."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from controlplane.credentials.files import PRIVATE_DIRECTORY, CredentialFileError, replace_file

ADMIN_TOKEN_FILE: Final = "admin-token"  # noqa: S105 - the name of a file
"""In data_dir; readable by its owner only."""

_MODE: Final = 0o600


class AdminTokenFile:
    """Holds the secret from before it is good until its owner takes it away.

    Worker processes share a directory and may all try to make the first administrator: each keeps
    its secret aside, and only the one that was made gets the name that is announced.
    """

    def __init__(self, directory: Path) -> None:
        self.path: Final = directory / ADMIN_TOKEN_FILE
        """Where it is in the end."""
        self.kept: Final = directory / f"{ADMIN_TOKEN_FILE}.{os.getpid()}"
        """Where it is while it may or may not be good."""

    def keep(self, secret: str) -> None:
        """Write a secret aside. The directory is made if it is not there.

        Raises:
            CredentialFileError: it cannot be written; the text says why, and not what.
        """
        try:
            self.kept.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            replace_file(self.kept, secret.encode() + b"\n", _MODE)
        except OSError as error:
            raise CredentialFileError(f"cannot write {self.kept}: {error.strerror}") from error

    def recover(self, is_good: Callable[[str], bool]) -> None:
        """Bring what processes that have crashed left aside to its end; call it before `keep`.

        A process may have ended after its secret had become good and before the file got its name:
        then this is the only copy. What cannot be read or moved is left alone.

        Args:
            is_good: Says whether a secret is that of the first administrator.
        """
        for left in self.path.parent.glob(f"{ADMIN_TOKEN_FILE}.*"):
            if not _is_of_nobody(left.suffix[1:]):
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if not self.path.exists() and is_good(left.read_text("utf-8").strip()):
                    left.replace(self.path)
                else:
                    left.unlink()

    def settle(self, *, is_good: bool) -> None:
        """Give the secret that was kept its name, or take it away."""
        if is_good:
            self.kept.replace(self.path)
        else:
            self.kept.unlink(missing_ok=True)


def _is_of_nobody(process: str) -> bool:
    """Return whether a process has ended, or had the number that is ours now."""
    if not process.isdecimal():
        return False
    if int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # it is there, and somebody else's
    return False
