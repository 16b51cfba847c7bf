"""What becomes of the first administrator's secret when a daemon crashes."""

import os
import subprocess
import sys
from pathlib import Path

from controlplane.credentials.admin_token import AdminTokenFile

GOOD = "at-bootstrap.good"


def is_good(secret: str) -> bool:
    return secret == GOOD


def left_by_a_crash(directory: Path, secret: str, process: int | None = None) -> Path:
    """Write what a process that has ended had kept aside."""
    if process is None:
        says = [sys.executable, "-c", "import os; print(os.getpid())"]
        process = int(subprocess.run(says, capture_output=True, check=True).stdout)
    left = directory / f"admin-token.{process}"
    left.write_text(f"{secret}\n")
    return left


def test_a_good_secret_that_a_crash_left_gets_its_name(tmp_path: Path) -> None:
    left = left_by_a_crash(tmp_path, GOOD)
    file = AdminTokenFile(tmp_path)
    file.recover(is_good)
    assert file.path.read_text() == f"{GOOD}\n"
    assert not left.exists()


def test_a_secret_that_never_became_good_is_taken_away(tmp_path: Path) -> None:
    left = left_by_a_crash(tmp_path, "at-bootstrap.other")
    file = AdminTokenFile(tmp_path)
    file.recover(is_good)
    assert list(tmp_path.iterdir()) == []
    assert not left.exists()


def test_a_container_finds_what_its_predecessor_of_the_same_number_left(tmp_path: Path) -> None:
    left_by_a_crash(tmp_path, GOOD, os.getpid())
    file = AdminTokenFile(tmp_path)
    file.recover(is_good)
    file.settle(is_good=False)
    assert file.path.read_text() == f"{GOOD}\n"


def test_what_a_process_that_lives_keeps_is_its_own(tmp_path: Path) -> None:
    left = left_by_a_crash(tmp_path, GOOD, os.getppid())
    AdminTokenFile(tmp_path).recover(is_good)
    assert left.exists()


def test_files_that_are_none_of_them_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "admin-token.bak"
    other.write_text("kept by somebody")
    AdminTokenFile(tmp_path).recover(is_good)
    assert other.exists()


def test_there_may_be_no_directory_yet(tmp_path: Path) -> None:
    AdminTokenFile(tmp_path / "missing").recover(is_good)
