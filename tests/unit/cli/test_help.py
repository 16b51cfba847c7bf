import json
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from controlplane import __version__
from controlplane.cli.entry import app
from controlplane.cli.lazy_group import COMMANDS

RUNNER = CliRunner()

HEAVY = {"grpc", "google.protobuf", "rich", "redis", "yaml", "fleetplane", "asyncio", "msgspec"}

PARSING = {"pydantic"}
"""What typer itself imports as soon as it reads an option."""


def leaves() -> list[tuple[str, ...]]:
    """Every command that does something, as it is typed."""
    root = get_command(app)
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        loaded = root.get_command(None, name)  # type: ignore[attr-defined]  # the lazy group
        found += below((name,), loaded)
    return found


def below(path: tuple[str, ...], loaded: Any) -> list[tuple[str, ...]]:
    commands = getattr(loaded, "commands", None)
    if not commands:
        return [path]
    return [leaf for name, one in commands.items() for leaf in below((*path, name), one)]


@pytest.mark.parametrize("command", leaves(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: tuple[str, ...]) -> None:
    result = RUNNER.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"fleetplane {' '.join(command)}" in result.output.split("Examples:")[1]
    usage, _, rest = result.output.partition("\n\n")
    assert " ".join(command) in usage
    assert len(rest.split("Options:")[0].strip()) > 15


def test_the_root_help_lists_every_command_and_exit_code() -> None:
    result = RUNNER.invoke(app, ["--help"])
    assert result.exit_code == 0
    for name, lazy in COMMANDS.items():
        assert name in result.output
        assert lazy.summary in result.output
    assert "Exit codes" in result.output


def test_a_group_shows_whole_sentences() -> None:
    result = RUNNER.invoke(app, ["policies", "--help"], terminal_width=120)
    assert "Make the stored policies those of the files: create, update, leave alone." in " ".join(
        result.output.split()
    )


def test_the_version_is_printed() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"fleetplane {__version__}\n")


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    result = RUNNER.invoke(app, ["agents", "lst"])
    assert result.exit_code == 2
    assert "Did you mean 'list'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], HEAVY | PARSING),
        (["agents", "--help"], HEAVY),
        (["config", "set", "--help"], HEAVY),
        (["policies", "--help"], HEAVY),
        (["tasks", "submit", "--help"], HEAVY),
        (["routes", "--help"], HEAVY),
        (["rollout", "start", "--help"], HEAVY),
        (["experiments", "create", "--help"], HEAVY),
        (["prompts", "eval", "--help"], HEAVY),
        (["demo", "--help"], HEAVY),
        (["login", "--help"], HEAVY),
        (["profiles", "--help"], HEAVY),
        (["auth", "bindings", "--help"], HEAVY),
        (["tokens", "join", "create", "--help"], HEAVY),
        (["namespaces", "update", "--help"], HEAVY),
        (["--version"], HEAVY),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], forbidden: set[str]) -> None:
    script = (
        "import json, sys\n"
        "from controlplane.cli import main\n"
        f"sys.argv = ['fleetplane', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "sys.stderr.write(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert "fleetplane" in done.stdout
    imported = set(json.loads(done.stderr))
    assert not imported & forbidden


def test_only_the_group_that_is_used_is_imported() -> None:
    script = (
        "import sys\nfrom controlplane.cli import main\n"
        "sys.argv = ['fleetplane', 'agents', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join(m for m in sys.modules if m.startswith('controlplane.cli.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = done.stderr.split()
    assert "controlplane.cli.agents" in loaded
    for other in ("configs", "policies", "tasks", "rollouts", "demo", "serve", "failures"):
        assert f"controlplane.cli.{other}" not in loaded
