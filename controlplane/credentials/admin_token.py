"""The file with the secret of the first administrator."""

import os
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

    def settle(self, *, is_good: bool) -> None:
        """Give the secret that was kept its name, or take it away."""
        if is_good:
            self.kept.replace(self.path)
        else:
            self.kept.unlink(missing_ok=True)
