"""From the options that were given to what holds: options, environment, profile, defaults.

The first that says something wins, value by value. Two rules keep secrets where they belong:

- A profile whose address is not the one that was asked for is left aside, unless it was named with
  `--profile` itself: its token is for its own daemon.
- A credential from options or environment replaces that of the profile as a whole.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from controlplane.cli.call import DEFAULT_ADDRESS, DEFAULT_NAMESPACE, Given, Globals
from controlplane.cli.credentials import Credentials, check_token, is_local, is_unix
from controlplane.cli.profiles import DEFAULT_PROFILE, Profile, ProfileStore, check_name

TOKEN_VARIABLE: Final = "FLEETPLANE_TOKEN"  # noqa: S105  # a name, not a secret
TOKEN_FILE_VARIABLE: Final = "FLEETPLANE_TOKEN_FILE"  # noqa: S105  # same
PROFILE_VARIABLE: Final = "FLEETPLANE_PROFILE"


def resolve(given: Given) -> Globals:
    """Return what holds for a command.

    Raises:
        WrongInput: the profile that was named is not there, or the token cannot be one.
        CommandFailed: the file of the profile cannot be read.
    """
    store = ProfileStore.of_user()
    profile = _profile_for(given, store, os.environ)
    shown = _shown(given, os.environ)
    if profile is not None and not shown.any:
        shown = _shown_by(profile, store)
    return _globals(given, profile, shown)


def resolve_login(given: Given) -> Globals:
    """Return what holds for a login: the profile need not exist, and shows no credential.

    Without a name it is the current profile, if that is of the same daemon, else `default`.

    Raises:
        WrongInput: the name of the profile cannot be one, or the token cannot be one.
        CommandFailed: the file of the profile cannot be read.
    """
    store = ProfileStore.of_user()
    named = given.profile or os.environ.get(PROFILE_VARIABLE)
    name = check_name(named or store.current() or DEFAULT_PROFILE)
    known = store.find(name)
    if known is not None and given.address not in {None, known.address}:
        # Another daemon: nothing of the old one holds, and its profile stays unless it was named.
        name, known = named or DEFAULT_PROFILE, None
    return _globals(given, known or Profile(name=name, address=""), _shown(given, os.environ))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Where the credential comes from."""

    token: str = ""
    token_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    source: str = ""

    @property
    def any(self) -> bool:
        return bool(self.token or self.token_file or self.cert_file or self.key_file)

    def __repr__(self) -> str:
        return f"<credential: {self.source or 'none'}>"


def _profile_for(
    given: Given, store: ProfileStore, environment: Mapping[str, str]
) -> Profile | None:
    if given.profile:
        return store.get(given.profile)
    name = environment.get(PROFILE_VARIABLE) or store.current()
    if not name:
        return None
    profile = store.get(name)
    return profile if given.address in {None, profile.address} else None


def _shown(given: Given, environment: Mapping[str, str]) -> _Shown:
    """Return the credential that options and environment name: the option before the variable."""
    token, file, source = "", given.token_file, f"the token in {given.token_file}"
    if file is None and (text := environment.get(TOKEN_VARIABLE, "")):
        token, source = check_token(text, TOKEN_VARIABLE), f"the token in {TOKEN_VARIABLE}"
    elif file is None and (path := environment.get(TOKEN_FILE_VARIABLE, "")):
        file, source = Path(path), f"the token in {path}"
    if not token and file is None:
        source = f"the certificate in {given.cert_file}" if given.cert_file else ""
    return _Shown(
        token=token,
        token_file=file,
        cert_file=given.cert_file,
        key_file=given.key_file,
        source=source,
    )


def _shown_by(profile: Profile, store: ProfileStore) -> _Shown:
    token_file = store.token_file(profile.name)
    kind = "token" if token_file else "certificate" if profile.cert_file else ""
    return _Shown(
        token_file=token_file,
        cert_file=_path(profile.cert_file),
        key_file=_path(profile.key_file),
        source=f"the {kind} of profile {profile.name}" if kind else "",
    )


def _globals(given: Given, profile: Profile | None, shown: _Shown) -> Globals:
    known = profile or Profile(name="", address="")
    address = given.address if given.address is not None else known.address or DEFAULT_ADDRESS
    namespace = given.namespace if given.namespace is not None else known.namespace
    ca_file = given.ca_file or _path(known.ca_file)
    ca_pem = "" if ca_file else known.ca_pem
    has_token = bool(shown.token or shown.token_file)
    wanted = known.tls or bool(ca_file or ca_pem or shown.cert_file)
    credentials = Credentials(
        token=shown.token,
        token_file=shown.token_file,
        ca_file=ca_file,
        ca_pem=ca_pem,
        cert_file=shown.cert_file,
        key_file=shown.key_file,
        # A token never travels in plain text to another machine.
        tls=not is_unix(address) and (wanted or (has_token and not is_local(address))),
        source=shown.source,
    )
    return Globals(
        address=address,
        namespace=namespace or DEFAULT_NAMESPACE,
        output=given.output,
        timeout=given.timeout,
        credentials=credentials,
        profile=known.name,
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
