"""Words that the completion of the shell offers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.entry import app
from controlplane.cli.profiles import Profile, ProfileStore


@pytest.fixture
def complete(tmp_path: Path) -> Callable[[str], list[str]]:
    ProfileStore(tmp_path / "config").save(Profile(name="prod", address="prod:1"), "")

    def complete(line: str) -> list[str]:
        env = {
            "_FLEETPLANE_COMPLETE": "complete_fish",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_ARGS": line,
            "FLEETPLANE_CONFIG_DIR": f"{tmp_path}/config",
        }
        result = CliRunner().invoke(app, [], prog_name="fleetplane", env=env)
        return [one.partition("\t")[0] for one in result.stdout.splitlines()]

    return complete


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fleetplane tok", ["tokens"]),
        ("fleetplane tokens j", ["join"]),
        ("fleetplane auth b", ["ban", "bans", "bindings"]),
        ("fleetplane tokens create ci --role a", ["agent", "approver", "auditor", "admin"]),
        ("fleetplane auth can-i o", ["operate"]),
        ("fleetplane auth bindings create --subject g", ["group:"]),
        ("fleetplane profiles use p", ["prod"]),
    ],
)
def test_a_word_is_completed(
    complete: Callable[[str], list[str]], line: str, words: list[str]
) -> None:
    assert sorted(complete(line)) == sorted(words)
