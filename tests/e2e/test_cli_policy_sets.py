"""The command line against the real daemon: policies as a set, from a draft to a rollback."""

import json
from pathlib import Path

import pytest

from tests.e2e.command_line import Run, answer

pytestmark = pytest.mark.xdist_group("command line")

LIVE = """
policies:
  - {policy_id: costly, action: DENY, conditions: {estimated_cost_exceeds: 10}}
  - policy_id: pay
    action: REQUIRE_APPROVAL
    conditions: {action: pay}
    approval: {ttl: 30m, stages: [{name: money, quorum: 2, eligible: ["group:finance"]}]}
    obligations: [{name: notify, params: {channel: finance}}]
"""
CHANGE = "policies: [{policy_id: reads, action: DENY, conditions: {action: read}}]"
CASES = """
policies: []
agents: {crawler: {tags: {scope: internal}}}
cases:
  - {name: reads work, agent: crawler, action: read, expect: ALLOW}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in (("live", LIVE), ("change", CHANGE), ("cases", CASES)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def ask(run: Run, agent: str, action: str) -> str:
    asked = ("policies", "explain", "--agent", agent, "--action", action, "-o", "json")
    effect: str = answer(run(*asked))["action"]
    return effect.removeprefix("POLICY_ACTION_")


def test_policies_with_approvals_and_obligations_are_applied_once(run: Run, files: Path) -> None:
    live = str(files / "live.yaml")
    run("policies", "apply", live)
    again = answer(run("policies", "apply", live, "-o", "json"))
    assert {one["result"] for one in again["policies"]} == {"unchanged"}
    (files / "export.yaml").write_text(run("policies", "export").stdout)
    exported = answer(run("policies", "apply", str(files / "export.yaml"), "-o", "json"))
    assert {one["result"] for one in exported["policies"]} == {"unchanged"}
    run("agents", "register", "--name", "payer", "--version", "1.0.0", "-c", "x")
    (agent,) = answer(run("agents", "list", "-o", "json"))["agents"]
    asked = ("--agent", agent["agent_id"], "--action", "pay", "-o", "json")
    decided = answer(run("policies", "explain", *asked))
    assert decided["obligations"] == [{"name": "notify", "params": {"channel": "finance"}}]


def test_a_candidate_goes_live_in_steps_and_back(run: Run, files: Path) -> None:
    run("policies", "apply", str(files / "live.yaml"))
    run("agents", "register", "--name", "reader", "--version", "1.0.0", "-c", "x")
    (agent,) = answer(run("agents", "list", "-o", "json"))["agents"]
    agent_id = agent["agent_id"]
    before = answer(run("policies", "history", "-o", "json"))["revisions"]
    created = run("policies", "candidates", "create", str(files / "change.yaml"))
    assert "reads" in created.stdout
    (candidate,) = answer(run("policies", "candidates", "list", "-o", "json"))["candidates"]
    candidate_id = candidate["candidate_id"]
    assert "added" in run("policies", "candidates", "get", candidate_id).stdout
    shadowed = run("policies", "activate", candidate_id, "--shadow")
    assert "decides for nobody" in shadowed.stderr
    assert "SHADOW" in run("policies", "stage", "get").stdout
    assert "STAGED" in run("policies", "candidates", "delete", candidate_id, code=1).stderr
    run("policies", "activate", candidate_id, "--percent", "99")
    assert "99" in run("policies", "stage", "get").stdout
    run("policies", "stage", "stop")
    assert "No stage" in run("policies", "stage", "get").stderr
    live = run("policies", "activate", candidate_id, "--reason", "reviewed")
    assert "live at revision" in live.stderr
    assert ask(run, agent_id, "read") == "DENY"
    first = before[0]["revision"]
    assert "reads" in run("policies", "diff", first).stdout
    run("policies", "rollback", first, "--reason", "too strict")
    assert ask(run, agent_id, "read") == "ALLOW"
    shown = run("policies", "history").stdout
    assert "ROLLED_BACK" in shown
    assert "too strict" in shown
    assert "Both say the same." in run("policies", "diff", first).stderr
    run("policies", "candidates", "delete", candidate_id)


def test_a_replay_has_an_exit_code_for_pipelines(run: Run, files: Path) -> None:
    run("policies", "apply", str(files / "live.yaml"))
    change = str(files / "change.yaml")
    found = run("policies", "simulate", "--file", change, "--max-flips", "0")
    assert "0 of 0 decisions" in found.stdout
    told = answer(run("policies", "simulate", "--file", change, "-o", "json", "--since", "1h"))
    assert told["report"]["flips"] == "0"
    assert run("policies", "simulate", code=2).stderr
    assert run("policies", "simulate", "nobody", code=1).stderr


def test_tests_are_kept_and_block_what_fails_them(run: Run, files: Path) -> None:
    run("policies", "apply", str(files / "live.yaml"))
    run("policies", "tests", "set", str(files / "cases.yaml"))
    assert "pass  reads work" in run("policies", "tests", "run").stdout
    created = run("policies", "candidates", "create", str(files / "change.yaml"))
    assert "test fails: reads work" in created.stderr
    (candidate,) = answer(run("policies", "candidates", "list", "-o", "json"))["candidates"]
    refused = run("policies", "activate", candidate["candidate_id"], code=1)
    assert "reads work" in refused.stderr


def test_settings_are_shown_and_changed(run: Run, files: Path) -> None:
    rules = files / "rules.yaml"
    rules.write_text(json.dumps([{"actions": ["pay"], "durability": "SYNC"}]))
    run("policies", "settings", "set", "--default", "deny", "--log-rules", str(rules))
    changed = run("policies", "settings", "set", "--mask", "card.number").stdout
    assert "DENY" in changed
    assert "pay: SYNC" in changed
    assert "card.number" in changed
    assert "ALLOW" in run("policies", "settings", "set", "--default", "unspecified").stdout
    assert run("policies", "settings", "set", code=2).stderr


def test_the_linter_looks_at_files_and_at_the_live_policies(run: Run, files: Path) -> None:
    live = files / "live.yaml"
    shadow = "policies: [{policy_id: all, action: ALLOW, match_all: true, priority: 9}]"
    (files / "all.yaml").write_text(shadow)
    run("policies", "apply", str(live))
    run("policies", "apply", str(files / "all.yaml"))
    found = run("policies", "lint", "--strict", code=1)
    assert "SHADOWED" in found.stdout
    rows = answer(run("policies", "lint", str(files / "all.yaml"), "-o", "json"))
    assert rows == {"checked": 1, "warnings": []}
