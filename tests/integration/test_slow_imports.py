"""What takes a second and 60 MB to load is loaded when somebody compares evaluations."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["controlplane.app", "controlplane.cli", "fleetplane"])
def test_neither_the_daemon_nor_the_command_line_loads_scipy_when_it_starts(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'numpy', 'scipy'}} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
