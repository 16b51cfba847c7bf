"""The password of a store that is kept in a file, such as a mounted secret."""

import asyncio
from pathlib import Path
from typing import Final

from redis import exceptions as redis_errors
from redis.credentials import CredentialProvider

# Bytes: far above any password, and no more is read if somebody names a disk by mistake.
_MAX_BYTES: Final = 4096


class PasswordFileError(redis_errors.AuthenticationError):
    """The file holds no password; names the file, and never what is in it.

    One of redis-py's errors of connections: to whoever talks to the store meanwhile it is away.
    """


class PasswordFile(CredentialProvider):
    """Reads the password at each connect, so that a new one is used without a restart.

    The file holds the password alone, in UTF-8; line ends after it do not count. `username` is the
    user of the access list, None for the server's default user.
    """

    def __init__(self, username: str | None, path: str) -> None:
        self._username = username
        self._path = Path(path)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return (password,) or (user, password). Blocks while it reads.

        Raises:
            PasswordFileError: the file cannot be read, is empty, too long, or not UTF-8.
        """
        password = self._read()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same without blocking: secrets may be mounted from elsewhere."""
        return await asyncio.to_thread(self.get_credentials)

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
            password = raw.decode().rstrip("\r\n")
        except OSError as error:
            raise PasswordFileError(
                f"password_file {self._path} cannot be read: {error.strerror}"
            ) from None
        except UnicodeDecodeError:  # its text would show a part of the password
            raise PasswordFileError(f"password_file {self._path} is not UTF-8") from None
        if not password or len(raw) > _MAX_BYTES:
            raise PasswordFileError(
                f"password_file {self._path} must hold a password of 1-{_MAX_BYTES} bytes"
            )
        return password
