"""The command line against the real daemon: what it prints, what it refuses, how it ends."""

import json
import signal
import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from controlplane.cli.entry import app
from tests.e2e.command_line import Run, answer, crew, lines, started, until_active
from tests.fakes.daemon import Daemon

pytestmark = pytest.mark.xdist_group("command line")

REFERENCE = Path(__file__).parents[2] / "examples" / "policies" / "reference.yaml"


def test_agents_are_registered_listed_changed_and_shown(run: Run) -> None:
    registered = run(
        "agents", "register", "--name", "writer", "--version", "2.1.0", "-c", "write", "-t", "a=b"
    )
    assert "created" in registered.stdout
    again = run(
        "agents", "register", "--name", "writer", "--version", "2.1.0", "-c", "write", "-t", "a=b"
    )
    assert "unchanged" in again.stdout
    listed = answer(run("agents", "list", "-o", "json"))
    assert listed["total_size"] == 1
    (agent,) = listed["agents"]
    assert agent["spec"]["capabilities"] == ["write"]
    assert agent["status"] == "AGENT_STATUS_REGISTERED"
    changed = run("agents", "update", agent["agent_id"], "--set", "owner=bob", "--reason", "why")
    assert "bob" in changed.stdout
    shown = yaml.safe_load(run("agents", "get", agent["agent_id"], "-o", "yaml").stdout)
    assert shown["spec"]["owner"] == "bob"
    assert shown["spec"]["tags"] == {"a": "b"}
    table = run("agents", "list", "--status", "registered", "--owner", "bob").stdout
    assert table.splitlines()[0].split()[:4] == ["AGENT", "NAME", "VERSION", "STATUS"]
    assert "REGISTERED" in table


def test_a_file_registers_many_and_names_those_that_were_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(
        "agents:\n"
        "  - {name: one, version: 1.0.0}\n"
        "  - {name: two, version: not-a-version}\n"
        "  - {name: three, version: 1.0.0}\n"
    )
    result = run("agents", "register", "-f", str(file), code=1)
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == [
        "created",
        "refused",
        "created",
    ]
    assert "1 of 3 agents were refused" in result.stderr
    limited = run("agents", "list", "--limit", "1")
    assert "1 of 2 agents; --limit 0 shows all." in limited.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["agents", "get", "nobody"], 1, "`fleetplane agents list` shows who is there"),
        (["agents", "list", "--status", "asleep"], 2, "is none of REGISTERED, ACTIVE"),
        (["agents", "list", "--version-range", "newest"], 1, "version_range"),
        (["agents", "list", "--tag", "x"], 2, "NAME=VALUE"),
        (["agents", "register"], 2, "name an agent with --name"),
        (["agents", "register", "--name", "a", "--version", "x"], 1, "semantic version"),
        (["agents", "register", "--name", "a"], 2, "version must be given"),
        (["agents", "update", "nobody", "--set", "owner=x"], 1, "nobody"),
        (["agents", "best", "-c", "fly"], 1, "qualifies"),
        (["agents", "list", "-a", " "], 2, "address of the daemon is empty"),
        (["agents", "list", "-n", "Bad NS"], 1, "namespace: must be"),
        (["agents", "list", "-o", "xml"], 2, "--output"),
        (["config", "set", "temperature=9"], 1, "set.temperature"),
        (["config", "set", "temperature"], 2, "NAME=VALUE"),
        (["config", "set", "temperature=0.1", "--agent", "nobody"], 1, "nobody"),
        (["config", "set", "model=x", "--agent", "a", "--name", "b"], 2, "exclude each other"),
        (["config", "unset", "temperature=1"], 2, "is not a path"),
        (["config", "rollback", "999999"], 1, "config history"),
        (["policies", "get", "none"], 1, "`fleetplane policies list` shows what is there"),
        (["policies", "delete", "none"], 1, "none"),
        (["policies", "enable", "none"], 1, "none"),
        (["policies", "apply", "/nonexistent.yaml"], 2, "No such file"),
        (["policies", "explain", "--agent", "nobody", "--action", "x"], 1, "nobody"),
        (["policies", "explain", "--agent", "a", "--action", "x", "--context-json", "[1]"], 2, "{"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_clear_line(
    run: Run, arguments: list[str], code: int, message: str
) -> None:
    result = run(*arguments, code=code)
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_nobody_at_the_address_is_exit_code_3_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        for arguments in (["agents", "list"], ["agents", "watch"], ["config", "watch"]):
            with started("-a", address, *arguments) as process:
                output, errors = process.communicate(timeout=20)
            assert process.returncode == 3
            assert output == ""
            assert errors == (
                f"Error: no daemon answers at {address}\n"
                "  start one with `fleetplane serve`, or name another with --address\n"
            )


def test_options_are_read_from_the_environment_and_after_the_command(
    daemon: Daemon, namespace: str
) -> None:
    environment = {"FLEETPLANE_ADDRESS": daemon.address, "FLEETPLANE_NAMESPACE": namespace}
    runner = CliRunner()
    made = runner.invoke(
        app, ["agents", "register", "--name", "a", "--version", "1.0.0"], env=environment
    )
    assert made.exit_code == 0, made.output
    other = runner.invoke(app, ["agents", "list", "-n", "other", "-o", "json"], env=environment)
    assert json.loads(other.stdout)["agents"] == []
    mine = ["agents", "list", "-a", daemon.address, "-n", namespace, "-o", "json", "--timeout", "5"]
    assert len(json.loads(runner.invoke(app, mine).stdout)["agents"]) == 1


def test_configuration_is_set_explained_rolled_back_and_removed(run: Run) -> None:
    run("agents", "register", "--name", "writer", "--version", "1.0.0", "--agent-id", "w1")
    first = answer(run("config", "set", "temperature=0.2", "--name", "writer", "-o", "json"))
    revision = first["layer"]["revision"]
    set_again = run("config", "set", "temperature=0.2", "--name", "writer")
    assert "Nothing changed" in set_again.stderr
    tools = 'blocked_tools=["shell"]'
    run("config", "set", tools, "features.web=true", "--agent", "w1", "--reason", "incident 42")
    run("config", "set", "temperature=0.4", "--name", "writer")
    explained = run("config", "get", "--agent", "w1", "--explain").stdout
    rows = {line.split()[0]: line.split()[1:] for line in explained.splitlines()[1:]}
    assert rows["temperature"][:2] == ["0.4", "name:writer"]
    assert rows["features.web"][:2] == ["true", "id:w1"]
    assert rows["max_tokens"][:2] == ["4096", "default"]
    rehearsed = run("config", "set", "temperature=0.9", "--name", "writer", "--dry-run")
    assert "1 agents would change" in rehearsed.stderr
    assert rehearsed.stdout.splitlines()[-1].split() == ["w1", "temperature", "0.4", "0.9"]
    run("config", "rollback", revision, "--name", "writer", "--reason", "worse")
    merged = answer(run("config", "get", "--agent", "w1", "-o", "json"))["config"]
    assert merged["temperature"] == pytest.approx(0.2)
    assert merged["blocked_tools"] == ["shell"]
    history = answer(run("config", "history", "--name", "writer", "-o", "json"))["revisions"]
    assert [one["restored_from"] for one in history] == [revision, "0", "0"]
    assert "incident 42" in run("config", "history", "--agent", "w1").stdout
    stale = run(
        "config", "set", "temperature=1", "--name", "writer", "--expected-revision", "1", code=1
    )
    assert "it is at revision" in stale.stderr
    run("config", "unset", "blocked_tools", "features.web", "--agent", "w1")
    merged = answer(run("config", "get", "--agent", "w1", "-o", "json"))["config"]
    assert merged["blocked_tools"] == []


def test_policies_are_applied_once_switched_explained_and_pruned(run: Run, tmp_path: Path) -> None:
    rehearsed = answer(run("policies", "apply", str(REFERENCE), "--dry-run", "-o", "json"))
    assert [one["result"] for one in rehearsed["policies"]] == ["created"] * 3
    assert any("cost-limit" in warning for warning in rehearsed["warnings"])
    assert "No policy" in run("policies", "list").stderr
    applied = run("policies", "apply", str(REFERENCE), "--reason", "first").stdout
    assert applied.count("created") == 3
    again = run("policies", "apply", str(REFERENCE)).stdout
    assert again.count("unchanged") == 3
    assert "disabled" in run("policies", "disable", "cost-limit").stdout
    updated = answer(run("policies", "apply", str(REFERENCE), "-o", "json"))["policies"]
    assert {one["policy_id"]: one["fields"] for one in updated}["cost-limit"] == ["enabled"]
    listed = run("policies", "list", "--enabled-only").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == [
        "prod-db-restrict",
        "cost-limit",
        "no-external-comms",
    ]
    assert "estimated_cost_exceeds" in run("policies", "get", "cost-limit").stdout
    exported = tmp_path / "exported.yaml"
    exported.write_text(run("policies", "export", "cost-limit").stdout)
    pruned = run("policies", "apply", str(exported), "--prune").stdout
    assert (pruned.count("deleted"), pruned.count("unchanged")) == (2, 1)
    assert "deleted cost-limit" in run("policies", "delete", "cost-limit").stdout
    assert answer(run("policies", "list", "-o", "json")) == {"policies": []}


def test_a_decision_is_explained_as_a_tree_and_tested_live(run: Run, tmp_path: Path) -> None:
    run("agents", "register", "--name", "w", "--version", "1.0.0", "--agent-id", "w1")
    run("policies", "apply", str(REFERENCE))
    question = ("policies", "explain", "--agent", "w1", "--action", "database_write")
    claims = ("--context", "environment=production", "--context", "estimated_cost=2")
    explained = run(*question, *claims).stdout
    assert explained.splitlines()[0].split() == ["decision", "REQUIRE_APPROVAL"]
    assert "└─ true  all" in explained
    assert "─ true  action eq 'database_write'   found: 'database_write'" in explained
    assert "─ true  environment eq 'production'   found: 'production'" in explained
    same = run(*question, "--context-json", '{"environment": "production"}', "-o", "json")
    assert answer(same)["determining_policies"] == ["prod-db-restrict"]
    file = tmp_path / "cases.yaml"
    case = {"agent": "w1", "action": "search", "context": {"estimated_cost": 2}, "expect": "DENY"}
    file.write_text(yaml.safe_dump({"cases": [case]}))
    assert "pass" in run("policies", "test", str(file), "--live").stdout
    run("policies", "disable", "cost-limit")
    failed = run("policies", "test", str(file), "--live", code=1)
    assert "answered ALLOW" in failed.stdout


def test_living_agents_are_discovered_chosen_and_removed(
    daemon: Daemon, namespace: str, run: Run
) -> None:
    with crew(daemon, namespace, 0, 1):
        until_active(run, 2)
        found = answer(run("agents", "discover", "-c", "summarize", "-o", "json"))["agents"]
        assert [one["spec"]["name"] for one in found] == ["demo-writer-001"]
        assert "demo-writer-001" in run("agents", "discover", "--tag", "demo=fleetplane").stdout
        chosen = run("agents", "best", "-c", "summarize", "--prefer-low-latency").stdout
        assert chosen.startswith("Best: demo-writer-001@1.0.0")
        assert "SCORE" in chosen
        assert "lacks capability" in chosen
        best = answer(run("agents", "best", "--task", "finds sources", "-o", "json"))
        assert best["agent"]["spec"]["name"] == "demo-researcher-000"
        instances = run("agents", "list", "--instances").stdout
        assert instances.count("FRESH") == 2
        shown = run("agents", "get", found[0]["agent_id"]).stdout
        assert "demo-e2e-001" in shown
    gone = answer(run("agents", "list", "--status", "inactive", "-o", "json"))
    assert gone["total_size"] == 2
    assert "was not there" in run("agents", "deregister", "demo-e2e-001").stdout


def test_convergence_is_awaited_and_laggards_are_named(
    daemon: Daemon, namespace: str, run: Run
) -> None:
    with crew(daemon, namespace, 0, 1):
        changed = answer(run("config", "set", "temperature=0.1", "-o", "json"))
        revision = changed["layer"]["revision"]
        waited = run("config", "wait", revision, "--timeout", "20")
        assert waited.stdout == f"2 instances run revision {revision}\n"
        late = run("config", "wait", str(int(revision) + 1000), "--timeout", "1.5", code=1)
        assert "2 instances do not run revision" in late.stderr
        assert "demo-e2e-000" in late.stdout


def test_a_watch_of_agents_prints_lines_until_interrupted(
    daemon: Daemon, namespace: str, run: Run
) -> None:
    run("agents", "register", "--name", "a", "--version", "1.0.0", "--agent-id", "a1")
    given = ("-a", daemon.address, "-n", namespace, "agents", "watch", "-o", "json")
    with started(*given) as process:
        events = lines(process)
        snapshot = next(events)
        assert snapshot["event"] == "snapshot"
        assert [one["agent_id"] for one in snapshot["agents"]] == ["a1"]
        run("agents", "update", "a1", "--set", "owner=bob")
        changed = next(events)
        assert changed["event"] == "changed"
        assert changed["agents"][0]["spec"]["owner"] == "bob"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_watch_of_agents_reads_well_for_people(daemon: Daemon, namespace: str, run: Run) -> None:
    given = ("-a", daemon.address, "-n", namespace, "agents", "watch")
    with started(*given) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline() == "No agent matches yet.\n"
        run("agents", "register", "--name", "a", "--version", "1.0.0", "--agent-id", "a1")
        assert process.stdout.readline().split()[1:] == ["REGISTERED", "a@1.0.0", "a1"]
        run("agents", "update", "a1", "--set", "owner=bob")
        assert "changed at revision" in process.stdout.readline()


def test_a_watch_of_configuration_prints_every_newer_one(
    daemon: Daemon, namespace: str, run: Run
) -> None:
    given = ("-a", daemon.address, "-n", namespace, "config", "watch", "--name", "writer")
    with started(*given, "-o", "json") as process:
        events = lines(process)
        assert next(events)["config"]["temperature"] == 0.7
        run("config", "set", "temperature=0.2", "--name", "writer")
        update = next(events)
        assert update["scope"] == "name:writer"
        assert update["config"]["temperature"] == 0.2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_reader_that_goes_away_is_no_error(daemon: Daemon, namespace: str, run: Run) -> None:
    run("agents", "register", "--name", "a", "--version", "1.0.0")
    given = ("-a", daemon.address, "-n", namespace, "agents", "list")
    with started(*given) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
