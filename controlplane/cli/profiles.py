"""Profiles: daemons that somebody logged in to, kept in the user's configuration directory.

    <directory>/current             name of the profile that holds if none is named
    <directory>/profiles/NAME.json  where the daemon is and how it is recognised
    <directory>/tokens/NAME         the token, readable by its owner only

The directory is `fleetplane` in the user's configuration directory (`~/.config` on Linux), or
`FLEETPLANE_CONFIG_DIR`. Every file is replaced as a whole, so that a reader sees the old one or the
new one, and two logins at the same moment cannot mix.
"""

import contextlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from controlplane.cli.outcomes import CommandFailed, WrongInput

DIRECTORY_VARIABLE: Final = "FLEETPLANE_CONFIG_DIR"

DEFAULT_PROFILE: Final = "default"
"""What a login is kept as, if nobody names a profile."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names become names of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A daemon that somebody logged in to.

    Attributes:
        name: what it is called here.
        address: where the daemon is.
        namespace: tenant that commands work in.
        tls: whether the connection is encrypted.
        ca_file: authorities that may vouch for the daemon; empty: `ca_pem`.
        ca_pem: the same as PEM; empty: those of this machine.
        cert_file: the client's certificate; empty: none.
        key_file: its key.
        user: who the daemon said that it is, at login.
        token_id: the visible part of the token, if it has one.
    """

    name: str
    address: str
    namespace: str = "default"
    tls: bool = False
    ca_file: str = ""
    ca_pem: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    token_id: str = ""


def check_name(name: str) -> str:
    """Return the name of a profile.

    Raises:
        WrongInput: it cannot be one.
    """
    if _NAME.fullmatch(name) is None:
        raise WrongInput(
            f"{name!r} cannot be the name of a profile",
            hint="1-64 letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    return name


def as_value(profile: Profile) -> dict[str, Any]:
    """Return a profile for programs; none of it is secret."""
    return asdict(profile)


class ProfileStore:
    """The profiles of one user.

    Args:
        directory: where they are; it need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of_user(cls) -> Self:
        """Return those of whoever runs this process."""
        if chosen := os.environ.get(DIRECTORY_VARIABLE):
            return cls(Path(chosen))
        import platformdirs  # noqa: PLC0415  # for commands that run, not for help

        return cls(Path(platformdirs.user_config_dir("fleetplane", appauthor=False)))

    def names(self) -> list[str]:
        """Return the names of all profiles, sorted."""
        found = (self.directory / "profiles").glob("*.json")
        return sorted(one.stem for one in found if _NAME.fullmatch(one.stem))

    def current(self) -> str:
        """Return the name of the profile that holds if none is named; empty: there is none."""
        try:
            name = (self.directory / "current").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.directory / "current", error) from error
        return name if _NAME.fullmatch(name) and self._profile(name).exists() else ""

    def find(self, name: str) -> Profile | None:
        """Return a profile; None if there is none of that name.

        Raises:
            WrongInput: the name cannot be one.
            CommandFailed: its file cannot be read.
        """
        path = self._profile(check_name(name))
        try:
            return _parse(name, path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    def get(self, name: str) -> Profile:
        """Return a profile.

        Raises:
            WrongInput: there is none of that name.
            CommandFailed: its file cannot be read.
        """
        found = self.find(name)
        if found is None:
            there = ", ".join(self.names())
            raise WrongInput(
                f"no profile {name!r}",
                hint=f"there are {there}" if there else f"`fleetplane login --profile {name}`",
            )
        return found

    def token_file(self, name: str) -> Path | None:
        """Return the file with the token of a profile; None if it has none."""
        path = self.directory / "tokens" / check_name(name)
        return path if path.exists() else None

    def save(self, profile: Profile, token: str) -> None:
        """Keep a profile with its token, and make it the current one.

        The old token goes first: at no moment is a token beside the address of another daemon.

        Args:
            profile: what to keep, in place of any of that name.
            token: its secret; empty: none.

        Raises:
            CommandFailed: the directory cannot be written.
        """
        name = check_name(profile.name)
        try:
            self._remove_token(name)
            described = json.dumps(as_value(profile), indent=2) + "\n"
            _replace(self._profile(name), described)
            if token:
                _replace(self.directory / "tokens" / name, token + "\n")
            _replace(self.directory / "current", name + "\n")
        except OSError as error:
            raise _unwritable(self.directory, error) from error

    def use(self, name: str) -> Profile:
        """Make a profile the current one.

        Raises:
            WrongInput: there is none of that name.
            CommandFailed: the directory cannot be read or written.
        """
        profile = self.get(name)
        try:
            _replace(self.directory / "current", name + "\n")
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        return profile

    def remove(self, name: str) -> bool:
        """Forget a profile and its token; return whether there was one.

        Raises:
            WrongInput: the name cannot be one.
            CommandFailed: the directory cannot be written.
        """
        path = self._profile(check_name(name))
        try:
            was_current = self.current() == name
            existed = path.exists()
            self._remove_token(name)
            path.unlink(missing_ok=True)
            if was_current:
                (self.directory / "current").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        return existed

    def _profile(self, name: str) -> Path:
        return self.directory / "profiles" / f"{name}.json"

    def _remove_token(self, name: str) -> None:
        (self.directory / "tokens" / name).unlink(missing_ok=True)


def _parse(name: str, text: str) -> Profile:
    """Read the file of a profile; fields of newer releases are left out.

    Raises:
        ValueError: it is something else.
    """
    content: Any = json.loads(text)
    kinds = {one.name: bool if one.name == "tls" else str for one in fields(Profile)}
    if not isinstance(content, dict) or not content.get("address"):
        raise ValueError("no address")
    known = {key: value for key, value in content.items() if key in kinds}
    if not all(isinstance(value, kinds[key]) for key, value in known.items()):
        raise ValueError("a field of another type")
    return Profile(**{**known, "name": name})


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole, readable by its owner only, durable before it is seen."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _unreadable(path: Path, error: Exception) -> CommandFailed:
    reason = error.strerror if isinstance(error, OSError) else "is not the file of a profile"
    return CommandFailed(f"{path}: {reason}", hint="remove it, and log in again")


def _unwritable(directory: Path, error: OSError) -> CommandFailed:
    return CommandFailed(
        f"{error.filename or directory}: {error.strerror}",
        hint=f"{DIRECTORY_VARIABLE} names another directory",
    )
