"""`fleetplane ca`, which works on files."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controlplane.cli.entry import app
from controlplane.settings import Settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    for field in Settings.model_fields:
        monkeypatch.delenv(f"FLEETPLANE_{field.upper()}", raising=False)
    monkeypatch.setenv("FLEETPLANE_DATA_DIR", str(tmp_path / "data"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ca", *arguments])


def shown(*arguments: str) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(run(*arguments, "--output", "json").stdout)
    return described


def test_an_authority_is_made_where_the_daemon_looks_for_it(tmp_path: Path):
    described = shown("init")
    assert described["ca_dir"] == str(tmp_path / "data" / "ca")
    assert described["trust_domain"] == "fleetplane.local"
    assert Path(described["bundle"]).exists()
    assert described == shown("show")


def test_an_authority_is_not_made_twice(tmp_path: Path):
    elsewhere = ("--ca-dir", str(tmp_path / "ca"))
    assert run("init", *elsewhere).exit_code == 0
    before = (tmp_path / "ca" / "ca.key").read_bytes()
    again = run("init", *elsewhere)
    assert again.exit_code == 1
    assert "already is a certificate authority" in again.output
    assert (tmp_path / "ca" / "ca.key").read_bytes() == before


def test_a_root_is_shown_with_what_identifies_it():
    run("init", "--trust-domain", "prod.example")
    outcome = run("show")
    (root,) = shown("show")["roots"]
    assert root["trust_domain"] == "prod.example"
    assert "prod.example root" in root["subject"]
    for value in root.values():
        assert value in outcome.stdout
    assert root["not_before"] < root["not_after"]
    assert f"--ca-fingerprint sha256:{root['fingerprint']}" in outcome.stderr


def test_a_rotation_adds_a_root_and_a_retirement_leaves_one():
    first = shown("init")["roots"]
    rotated = shown("rotate")["roots"]
    assert rotated[1:] == first
    assert shown("retire")["roots"] == rotated[:1]


@pytest.mark.parametrize("command", ["show", "rotate", "retire"])
def test_without_an_authority_it_is_said_how_one_is_made(command):
    outcome = run(command)
    assert outcome.exit_code == 1
    assert "fleetplane ca init" in outcome.output


def test_a_name_that_is_no_trust_domain_is_wrong_usage():
    assert run("init", "--trust-domain", "No Domain").exit_code == 2
