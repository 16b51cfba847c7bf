"""The command line over a scripted daemon."""

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from controlplane.cli.entry import app
from tests.fakes.scripted_daemon import ScriptedDaemon


@pytest.fixture
def daemon() -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon() as daemon:
        yield daemon


@pytest.fixture
def run(daemon: ScriptedDaemon) -> Callable[..., Result]:
    """Run a command line in this process and check its exit code."""

    def run(*arguments: str, code: int = 0, **options: object) -> Result:
        given = ["-a", daemon.address, *arguments]
        result = CliRunner().invoke(app, given, env={"COLUMNS": "200"}, **options)  # type: ignore[arg-type]  # what the runner takes
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run
