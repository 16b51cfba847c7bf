"""The identity of an agent on disk: key and certificate in one file, replaced as a whole."""

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

_log: Final = logging.getLogger("fleetplane")

_OWNER_ONLY: Final = 0o700
"""Permissions of the directory; those of the files are 0600."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldIdentity:
    """A certificate with its key and all that is needed to use it."""

    private_key: str = field(repr=False)
    """PEM. Never shown."""
    certificate_chain: str
    """PEM."""
    trust_bundle: str
    """PEM of the roots to trust."""
    namespace: str
    """Tenant."""
    spiffe_id: str
    """The identity in the certificate."""
    renew_at: float
    """When to replace it, in seconds since 1970 on this machine's clock."""
    expires_at: float
    """When it ends, likewise."""
    join_token_id: str = ""
    """Visible part of the join token that it was got with; empty: not known."""


class IdentityStore:
    """Keeps the identity of one agent in a directory. Blocking: call it in a thread.

    Args:
        state_dir: directory of all identities of this machine; `identities` below it is made with
            the permissions 0700.
        agent_name: which agent.
    """

    def __init__(self, state_dir: Path, agent_name: str) -> None:
        self._directory = state_dir / "identities"
        self._path = self._directory / f"{quote(agent_name, safe='')}.json"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def prepare(self) -> None:
        """Make the directory, and see that only its owner may enter it, and that it is writable.

        Raises:
            OSError: it cannot be made, belongs to somebody else, or takes no files.
        """
        self._directory.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & 0o077:
            self._directory.chmod(_OWNER_ONLY)
        with tempfile.TemporaryFile(dir=self._directory):
            pass

    def load(self) -> HeldIdentity | None:
        """Return what was saved last, if there is something readable."""
        try:
            return HeldIdentity(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _log.warning("the identity in %s is unreadable: %s", self._path, type(error).__name__)
            return None

    def save(self, identity: HeldIdentity) -> None:
        """Replace the file as a whole, and see it on the disk.

        Raises:
            OSError: the disk is full, or the directory is not writable any more.
        """
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=".new-")  # 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(identity), file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        if os.name == "posix":  # elsewhere a directory cannot be opened
            directory = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
