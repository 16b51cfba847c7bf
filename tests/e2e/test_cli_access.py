"""The command line against a daemon with security turned on: login, rights, tokens, namespaces."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from controlplane.cli.entry import app
from tests.fakes.secure_daemon import SecureDaemon, secure_daemon

pytestmark = pytest.mark.xdist_group("command line")

As = Callable[..., Result]


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureDaemon]:
    with secure_daemon() as daemon:
        yield daemon


@pytest.fixture
def run(tmp_path: Path) -> As:
    """Run a command line of a user with profiles of its own; `token` is shown instead of theirs."""

    def run(*arguments: str, code: int = 0, token: str = "", given: str = "") -> Result:
        env = {"COLUMNS": "200", "FLEETPLANE_CONFIG_DIR": str(tmp_path), "FLEETPLANE_TOKEN": token}
        result = CliRunner().invoke(app, arguments, env=env, input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def admin(run: As, secure: SecureDaemon) -> As:
    """The same, logged in with the first administrator's token."""
    ca = str(secure.ca_dir / "bundle.pem")
    said = run("login", "-a", secure.address, "--ca", ca, given=secure.admin_token).stdout
    assert said.startswith("default: token:at-bootstrap at ")
    return run


def test_nobody_gets_in_without_login(run: As, secure: SecureDaemon) -> None:
    ca = str(secure.ca_dir / "bundle.pem")
    assert "may speak TLS only" in run("agents", "list", "-a", secure.address, code=3).stderr
    anonymous = run("agents", "list", "-a", secure.address, "--ca", ca, code=1)
    assert f"`fleetplane login -a {secure.address}`" in anonymous.stderr
    forged = f"at-bootstrap.{'A' * 43}"
    refused = run("login", "-a", secure.address, "--ca", ca, given=forged, code=1)
    assert "is not accepted" in refused.stderr
    assert forged not in refused.output
    nobody = run("agents", "list", "-a", secure.mtls_address, "--ca", ca, code=3)
    assert "may demand a client certificate" in nobody.stderr


def test_a_login_lasts_until_logout(admin: As, secure: SecureDaemon) -> None:
    assert "admin  everywhere" in admin("auth", "whoami").stdout
    admin("agents", "list")
    assert admin("logout").stdout == "forgotten: default\n"
    ca = str(secure.ca_dir / "bundle.pem")
    admin("auth", "whoami", "-a", secure.address, "--ca", ca, code=1)


def test_a_tenant_is_made_bounded_used_and_removed(admin: As) -> None:
    admin("namespaces", "create", "lab", "--max-agents", "1", "-l", "team=ml")
    register = ("-n", "lab", "agents", "register", "--version", "1.0.0", "-c", "x", "--name")
    admin(*register, "one")
    full = admin(*register, "two", code=1)
    assert "`fleetplane namespaces usage lab`" in full.stderr
    used = admin("namespaces", "usage", "lab").stdout.splitlines()
    assert used[1].split() == ["agents", "1", "1", "100", "%"]
    changed = admin("namespaces", "update", "lab", "--max-agents", "2", "--unlabel", "team")
    assert "agents 2" in changed.stdout
    assert "team" not in changed.stdout
    admin(*register, "two")
    held = admin("namespaces", "delete", "lab", code=1)
    assert "still holds 2 agents" in held.stderr
    for name in ("one", "two"):
        admin("-n", "lab", "agents", "decommission", f"{name}@1.0.0", "--yes")
    assert admin("namespaces", "delete", "lab").stdout == "namespace lab is removed\n"
    missing = admin("namespaces", "get", "lab", code=1)
    assert "`fleetplane namespaces create lab`" in missing.stderr


def test_a_token_may_what_its_role_may_until_it_is_revoked(admin: As) -> None:
    admin("namespaces", "create", "billing")
    admin("namespaces", "create", "foreign")
    made = admin("tokens", "create", "ci", "--role", "viewer", "-n", "billing", "--ttl", "1h")
    secret = made.stdout.strip()
    token_id = secret.partition(".")[0]
    assert made.stdout.count("\n") == 1
    assert f"{token_id}: viewer in namespace billing, ends in " in made.stderr

    admin("agents", "list", "-n", "billing", token=secret)
    denied = admin("auth", "ban", "writer", "-n", "billing", token=secret, code=1)
    assert "`fleetplane auth can-i administer -n billing`" in denied.stderr
    answer = admin("auth", "can-i", "administer", "-n", "billing", token=secret, code=1)
    assert answer.stdout.splitlines()[-1] == "  roles that would do: admin"
    assert admin("auth", "can-i", "read", "-n", "billing", token=secret).stdout.startswith("yes")
    hidden = admin("agents", "list", "-n", "foreign", token=secret, code=1)
    assert "no namespace 'foreign'" in hidden.stderr
    assert "foreign" not in admin("namespaces", "list", token=secret).stdout

    given = ("--subject", f"token:{token_id}", "--role", "operator", "-n", "billing")
    binding = json.loads(admin("auth", "bindings", "create", *given, "-o", "json").stdout)
    admin("auth", "can-i", "operate", "-n", "billing", token=secret)
    admin("auth", "bindings", "delete", binding["binding_id"], "-n", "billing")
    admin("auth", "can-i", "operate", "-n", "billing", token=secret, code=1)

    admin("tokens", "revoke", token_id, "-n", "billing", "--reason", "done")
    ended = admin("agents", "list", "-n", "billing", token=secret, code=1)
    assert "it was the token in FLEETPLANE_TOKEN" in ended.stderr
    assert "REVOKED" in admin("tokens", "list", "-n", "billing").stdout


def test_join_tokens_and_bans_are_kept_and_shown(admin: As) -> None:
    secret = admin("tokens", "join", "create", "--for", "web-*", "--uses", "5").stdout.strip()
    token_id = secret.partition(".")[0]
    assert token_id.startswith("jt-")
    listed = admin("tokens", "join", "list").stdout
    assert secret not in listed
    assert "web-*" in listed
    admin("tokens", "join", "revoke", token_id)
    assert "REVOKED" in admin("tokens", "join", "list").stdout
    admin("auth", "ban", "writer", "--reason", "stolen")
    assert "stolen" in admin("auth", "bans").stdout
    assert admin("auth", "unban", "writer").stdout == "writer is not banned any more\n"
    assert "operate" in admin("auth", "roles").stdout
