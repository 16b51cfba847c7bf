"""Writes docs/settings.md from the settings themselves; `--check` only compares."""

import sys
from pathlib import Path
from typing import Any

from controlplane.settings import Settings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Every setting is an environment variable; those of `fleetplane serve --help` are also options, which
win. Generated from `controlplane/settings.py` by `make docs-reference`.

| variable | default | meaning |
|---|---|---|
"""


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(
        f"| `FLEETPLANE_{name.upper()}` | {_default(name, field)} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    )


def _default(name: str, field: Any) -> str:
    if name == "data_dir":
        return "your data directory"
    value = field.default
    if value is None:
        return ""
    return f"`{getattr(value, 'value', value)}`"


if __name__ == "__main__":
    page = reference()
    if "--check" in sys.argv:
        if TARGET.read_text() != page:
            sys.exit("docs/settings.md is not what the settings say; run `make docs-reference`")
    else:
        TARGET.write_text(page)
