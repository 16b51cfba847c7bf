"""The shape of the house, held by a machine: layers, sizes, names, one table of methods."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import controlplane
import fleetplane
from fleetplane.v1 import error_reason_pb2

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
FORBIDDEN_NAMES = {"utils", "helpers", "manager", "common", "misc", "base"}


def own_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.lua"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if "_pb2" not in name and (ROOT / name).exists()]


def test_no_hand_written_file_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in own_files()
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_no_module_is_named_after_nothing() -> None:
    assert [path for path in own_files() if path.stem in FORBIDDEN_NAMES] == []


def test_imports_point_inwards() -> None:
    outcome = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize("package", [controlplane, fleetplane], ids=lambda p: p.__name__)
def test_every_module_can_be_imported_on_its_own(package: object) -> None:
    modules = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")  # type: ignore[attr-defined]
    for module in modules:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_the_sdk_needs_neither_the_daemon_nor_its_dependencies() -> None:
    code = (
        "import sys, fleetplane; "
        "print(sorted(m for m in ('controlplane', 'redis', 'pydantic', 'grpc_status', 'google.rpc',"
        " 'fleetplane_policy', 're2')"
        " if m in sys.modules))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "[]"


def test_every_public_name_of_the_sdk_exists_and_the_list_is_sorted() -> None:
    assert fleetplane.__all__ == sorted(fleetplane.__all__)
    assert [name for name in fleetplane.__all__ if not hasattr(fleetplane, name)] == []


def test_nothing_is_left_to_do_in_the_sources() -> None:
    markers = ("TO" + "DO", "FIX" + "ME", "XX" + "X:")
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in own_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if any(marker in line for marker in markers) and path != Path(__file__).resolve()
    ]
    assert left == []


def test_every_reason_of_an_error_is_in_the_manual() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    names = [
        name.removeprefix("ERROR_REASON_")
        for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    ]
    missing = [name for name in names if name != "UNSPECIFIED" and f"`{name}`" not in page]
    assert not missing


def test_the_daemon_starts_without_what_only_some_use() -> None:
    """Webhooks need httpx, comparisons of evaluations scipy; both cost time and memory."""
    script = (
        "import sys, controlplane.app, fleetplane\n"
        "print(*{'httpx', 'scipy', 'numpy', 'yaml', 'typer'} & set(sys.modules))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.split() == []
