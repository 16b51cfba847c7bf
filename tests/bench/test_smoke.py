"""The whole benchmark runs, small and short; its figures are not looked at."""

import sys

import pytest

from tests.bench.__main__ import main


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_every_workload_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])

    assert main() == 0
    assert list((tmp_path / "bench-results").glob("*.json"))
