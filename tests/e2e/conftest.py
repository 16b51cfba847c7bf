"""A daemon for the tests of a module, a tenant for each test, and the command line over both."""

import secrets
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from controlplane.cli.entry import app
from tests.e2e.command_line import Run
from tests.fakes.daemon import Daemon, running_daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon(heartbeat_interval_seconds=0.3, degraded_after_seconds=1.5) as daemon:
        yield daemon


@pytest.fixture
def namespace() -> str:
    """A tenant of its own for every test, because they share a daemon."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def run(daemon: Daemon, namespace: str) -> Run:
    """Run a command line in this process."""

    def run(*arguments: str, code: int = 0) -> Result:
        given = ["-a", daemon.address, "-n", namespace, *arguments]
        result = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run
