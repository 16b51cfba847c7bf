"""The command line over a scripted daemon."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controlplane.cli.entry import app
from tests.fakes.scripted_daemon import ScriptedDaemon


@pytest.fixture
def daemon() -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon() as daemon:
        yield daemon


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Result]:
    """Run a command line in this process, of a user without a profile; check its exit code."""

    def run(
        *arguments: str, code: int = 0, env: Mapping[str, str] | None = None, **options: object
    ) -> Result:
        variables = {"COLUMNS": "200", "FLEETPLANE_CONFIG_DIR": str(tmp_path / "config")}
        result = CliRunner().invoke(app, arguments, env=variables | dict(env or {}), **options)  # type: ignore[arg-type]  # what the runner takes
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def run(daemon: ScriptedDaemon, bare: Callable[..., Result]) -> Callable[..., Result]:
    """Run a command line against the daemon."""

    def run(*arguments: str, **options: Any) -> Result:
        return bare("-a", daemon.address, *arguments, **options)

    return run
