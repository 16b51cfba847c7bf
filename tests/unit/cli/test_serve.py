"""What `fleetplane serve` says: how to get in, and what was wrong with its settings."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controlplane.app import Serving
from controlplane.cli import entry
from controlplane.cli.serve import _announce
from controlplane.settings import Settings

SECURE = Serving(
    listen="127.0.0.1:50051",
    listen_mtls=None,
    authenticates=True,
    ca_bundle="plane/ca/bundle.pem",
    admin_token="my plane/admin-token",  # noqa: S106 - the name of a file
    store="embedded",
    server="valkey 9",
)


def announced(capsys: pytest.CaptureFixture[str], settings: Settings, **chosen: Any) -> str:
    serving = replace(SECURE, **chosen)
    _announce(settings, serving, is_worker=False)
    return capsys.readouterr().out


def line(text: str, name: str) -> str:
    (found,) = [one for one in text.splitlines() if one.startswith(f"  {name} ")]
    return found.removeprefix(f"  {name} ").strip()


def test_the_login_is_ready_to_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line(announced(capsys, Settings()), "login"))
    bundle, token = Path("plane/ca/bundle.pem"), Path("my plane/admin-token")
    assert words[1:] == [
        *("login", "-a", "127.0.0.1:50051"),
        *("--ca", str(bundle.absolute())),
        *("--token-file", str(token.absolute())),
    ]


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "[::]"])  # noqa: S104  # nothing is bound
def test_the_login_names_an_address_of_this_host(
    capsys: pytest.CaptureFixture[str], everywhere: str
) -> None:
    said = announced(capsys, Settings(), listen=f"{everywhere}:1", ca_bundle=None, admin_token=None)
    assert line(said, "login").endswith("fleetplane login -a localhost:1")


def test_without_authentication_nobody_logs_in(capsys: pytest.CaptureFixture[str]) -> None:
    said = announced(capsys, Settings(), authenticates=False, ca_bundle=None, admin_token=None)
    assert "login" not in said
    assert "demo --agents" in said


def test_a_setting_that_cannot_be_is_explained_in_words() -> None:
    outcome = CliRunner().invoke(entry.app, ["serve", "--tls-cert", "c.pem"])
    assert outcome.exit_code == 2
    assert outcome.stderr == "fleetplane: tls_cert and tls_key belong together\n"
