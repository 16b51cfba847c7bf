"""The Lua scripts; each file's header says what it takes and returns."""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. Its SHA-1 is the name under which servers cache it, not a safeguard."""

    source: str
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha1", digest)


def load_script(name: str) -> Script:
    """Return the script of that file name (without `.lua`) from this folder."""
    return Script(files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))


def all_scripts() -> tuple[Script, ...]:
    """Return every script of this folder."""
    names = sorted(entry.name for entry in files(__name__).iterdir())
    return tuple(load_script(name[:-4]) for name in names if name.endswith(".lua"))
