"""The Lua scripts; each file's header says what it takes and returns."""

from importlib.resources import files

from controlplane.storage.redis.connection import Script


def load_script(name: str) -> Script:
    """Return the script of that file name (without `.lua`) from this folder."""
    return Script(files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))
