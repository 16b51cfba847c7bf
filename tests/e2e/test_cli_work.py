"""The command line against the real daemon: lifecycle, tasks, routes and rollouts."""

import json
import time
from typing import Any

import pytest
from typer.testing import Result

from controlplane.cli.demo_agent import TASK_KIND, Part
from tests.e2e.command_line import Run, answer, crew, lines, started, until_active
from tests.fakes.daemon import Daemon, is_running

pytestmark = pytest.mark.xdist_group("command line")

NAME = "researcher"


def part(version: str) -> Part:
    return Part(name=NAME, version=version, failures=0.0)


def submit(run: Run, *arguments: str, code: int = 0) -> Result:
    return run("tasks", "submit", "--kind", TASK_KIND, "--agent", NAME, *arguments, code=code)


def status(run: Run, agent: str) -> str:
    found: str = answer(run("agents", "get", agent, "-o", "json"))["status"]
    return found.removeprefix("AGENT_STATUS_")


def test_an_agent_is_moved_through_its_life_by_hand(run: Run) -> None:
    manual = ("--activation", "manual")
    run("agents", "register", "--name", NAME, "--version", "1.0.0", "-c", "research", *manual)
    assert "is ACTIVE" in run("agents", "activate", "researcher@1.0.0").stdout
    refused = run("agents", "decommission", "researcher@1.0.0", "--yes", code=1)
    assert "ACTIVE" in refused.stderr
    run("agents", "deactivate", "researcher@1.0.0", "--reason", "not needed")
    assert "not needed" in run("agents", "get", "researcher@1.0.0").stdout
    run("agents", "decommission", "researcher@1.0.0", "--yes")
    assert status(run, "researcher@1.0.0") == "DECOMMISSIONED"
    assert "activate" not in run("agents", "activate", "researcher@1.0.0", code=1).stdout


def test_tasks_are_carried_out_followed_and_shown(run: Run, daemon: Daemon, namespace: str) -> None:
    with crew(daemon, namespace, 0, part=part("1.0.0")):
        result = submit(run, "--payload", "whales", "--session", "s1", "--wait")
        assert result.stdout == "sources about whales"
        (task,) = answer(run("tasks", "list", "--session", "s1", "-o", "json"))["tasks"]
        shown = run("tasks", "get", task["task_id"], "--data").stdout
        assert "whales" in shown
        assert "sources about whales" in shown
        assert "SUCCEEDED" in run("tasks", "follow", task["task_id"]).stdout
        late = run("tasks", "cancel", task["task_id"], code=1)
        assert late.stderr
    waiting = submit(run).stdout.strip()
    assert "PENDING" in run("tasks", "list", "--state", "pending", "--agent", NAME).stdout
    run("tasks", "cancel", waiting, "--reason", "nobody is there")
    assert "CANCELLED" in run("tasks", "follow", waiting, code=1).stdout
    assert "tasks list" in run("tasks", "get", "nothing", code=1).stderr


def test_an_agent_is_drained_undrained_and_stopped(
    run: Run, daemon: Daemon, namespace: str
) -> None:
    with crew(daemon, namespace, 0, 1, part=part("1.0.0")):
        until_active(run, 1)
        agent = f"{NAME}@1.0.0"
        safe = run("agents", "drain", agent, "--deadline", "30s", "--wait", "--timeout", "30s")
        assert "safe to stop" in safe.stdout
        assert "ACTIVE (draining)" in run("agents", "list").stdout
        assert "DRAINED" in run("agents", "drain-status", agent).stdout
        assert "takes work again" in run("agents", "undrain", agent).stdout
        assert submit(run, "--payload", "x", "--wait").stdout == "sources about x"
        stopped = run("agents", "stop", "--name", NAME, "--reason", "drill", "-o", "json")
        told = json.loads(stopped.stdout)
        assert told["acknowledged"] == 2
        assert status(run, agent) == "INACTIVE"
        assert "drill" in run("agents", "get", agent).stdout
        assert run("agents", "stop-status", told["stop_id"]).exit_code == 0
    run("agents", "stop", "--name", "nobody", "--reason", "drill", code=1)


def test_a_route_is_set_shown_and_removed(run: Run) -> None:
    for version in ("1.0.0", "2.0.0"):
        run("agents", "register", "--name", NAME, "--version", version)
    run("routes", "set", NAME, "2.0.0=12.5", "1.0.0=87.5", "--reason", "try it")
    assert "12.5 %" in run("routes", "get", NAME).stdout
    assert NAME in run("routes", "list").stdout
    missing = run("routes", "set", NAME, "9.0.0=100", code=1)
    assert "9.0.0" in missing.stderr
    run("routes", "delete", NAME)
    assert "routes" not in run("routes", "get", NAME, code=1).stdout


def until(run: Run, phase: str, *, says: str = "") -> dict[str, Any]:
    """Ask until the rollout is in a phase, and says something."""
    deadline = time.monotonic() + 20
    while True:
        found: dict[str, Any] = answer(run("rollout", "status", NAME, "-o", "json"))
        if found["phase"] == f"ROLLOUT_PHASE_{phase}" and says in found["message"]:
            return found
        assert time.monotonic() < deadline, found["phase"]


def test_a_rollout_is_started_moved_and_watched_to_its_end(
    run: Run, daemon: Daemon, namespace: str
) -> None:
    with crew(daemon, namespace, 0, part=part("1.0.0")):
        until_active(run, 1)
        given = ("--steps", "10,100", "--drain-deadline", "5s")
        run("rollout", "start", NAME, "--to", "2.0.0", *given)
        with crew(daemon, namespace, 0, part=part("2.0.0")):
            until(run, "PROGRESSING")
            owned = run("routes", "set", NAME, "1.0.0=100", code=1)
            assert "rollout status" in owned.stderr
            assert "1 of" not in run("rollout", "list", "--active").stderr
            run("rollout", "pause", NAME, "--reason", "look")
            assert "OPERATOR" in run("rollout", "status", NAME).stdout
            run("rollout", "resume", NAME)
            until(run, "PROGRESSING", says="waits for traffic")
            run("rollout", "promote", NAME)
            run("rollout", "abort", NAME, "--reason", "wrong build")
            watched = run("rollout", "watch", NAME, "-o", "json", code=1)
            last = json.loads(watched.stdout.splitlines()[-1])
            assert last["phase"] == "ROLLOUT_PHASE_ROLLED_BACK"
            run("rollout", "retry", NAME)
            until(run, "PROGRESSING", says="waits for traffic")
            run("rollout", "promote", NAME, "--full")
            assert "SUCCEEDED" in run("rollout", "watch", NAME).stdout.splitlines()[-1]
            assert status(run, f"{NAME}@1.0.0") == "INACTIVE"


@pytest.mark.fault
@pytest.mark.timeout(180)
def test_a_demo_rolls_a_bad_version_back_and_promotes_a_good_one() -> None:
    with started("demo", "--rollout", "--own", "-o", "json") as process:
        seen = list(lines(process))
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    total = seen[-1]
    assert total["event"] == "summary"
    assert (total["lost"], total["run_twice"]) == (0, 0)
    assert total["submitted"] > 200
    assert [one["phase"] for one in total["rollouts"]] == ["ROLLED_BACK", "SUCCEEDED"]
    pids = [pid for one in seen for pid in [one.get("pid", 0), *one.get("pids", [])] if pid]
    assert not [pid for pid in pids if is_running(pid)]
