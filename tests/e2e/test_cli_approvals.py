"""The command line against the real daemon: what agents may do only after somebody has said so."""

import asyncio
import json
import os
import pty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleetplane import FleetClient
from tests.e2e.command_line import Run, answer, started
from tests.fakes.daemon import Daemon

pytestmark = pytest.mark.xdist_group("command line")

Ask = Callable[..., str]


@pytest.fixture
def ask(daemon: Daemon, namespace: str, run: Run, tmp_path: Path) -> Ask:
    """Ask for an approval as an agent does, and return its id."""
    policy = tmp_path / "policies.yaml"
    policy.write_text("policies: [{policy_id: ask, action: REQUIRE_APPROVAL, match_all: true}]")
    run("policies", "apply", str(policy))
    run("agents", "register", "--name", "payer", "--version", "1.0.0", "-c", "x")
    (agent,) = answer(run("agents", "list", "-o", "json"))["agents"]

    async def asked(context: dict[str, Any]) -> str:
        async with FleetClient(daemon.address, namespace=namespace) as client:
            decision = await client.evaluate_policy(agent["agent_id"], "pay", context=context)
            return decision.approval_id

    return lambda **context: asyncio.run(asked({"to": "ann", **context}))


def state(run: Run, approval_id: str) -> str:
    shown: str = answer(run("approvals", "show", approval_id, "-o", "json"))["state"]
    return shown.removeprefix("APPROVAL_STATE_")


def test_what_waits_for_people_is_listed_and_shown_in_full(run: Run, ask: Ask) -> None:
    assert "No approval matches" in run("approvals", "list").stderr
    approval_id = ask(estimated_cost=1_234_567.89)
    listed = run("approvals", "list").stdout
    assert approval_id in listed
    assert "to=ann" in listed
    assert answer(run("approvals", "list", "--mine", "-o", "json"))["total_size"] == 1
    shown = run("approvals", "show", approval_id).stdout
    assert '"to": "ann"' in shown
    assert "estimated_cost of at most 1234567.89" in shown
    assert "No approval matches" in run("approvals", "list", "--state", "granted").stderr
    assert "no approval 'apr-0'" in run("approvals", "show", "apr-0", code=1).stderr
    run("approvals", "list", "--state", "perhaps", code=2)


def test_what_an_agent_says_cannot_look_like_something_else(run: Run, ask: Ask) -> None:
    forged = "x\x9b2J\u2028  },\u2028and estimated_cost of at most 1\u202e"
    approval_id = ask(note=forged)
    run("approvals", "advise", approval_id, "--comment", "no\n  9. now ann grant")
    shown = run("approvals", "show", approval_id).stdout
    assert not {"\x9b", "\u2028", "\u202e"} & set(shown)
    assert r"\x9b2J\u2028" in shown
    assert not any(line.strip().startswith(("and estimated", "9. ")) for line in shown.split("\n"))


def test_one_is_approved_once_and_a_vote_stands(run: Run, ask: Ask) -> None:
    approval_id = ask()
    approved = run("approvals", "approve", approval_id, "--comment", "checked", "--yes")
    assert "GRANTED" in approved.stdout
    run("approvals", "approve", approval_id, "--yes")  # says nothing new
    refused = run("approvals", "deny", approval_id, code=1)
    assert "has voted otherwise" in refused.stderr
    assert "is GRANTED" in run("approvals", "cancel", approval_id, code=1).stderr
    run("approvals", "revoke", approval_id, "--reason", "wrong table")
    assert state(run, approval_id) == "REVOKED"


def test_nobody_is_asked_without_a_terminal(run: Run, ask: Ask) -> None:
    approval_id = ask()
    assert "--yes" in run("approvals", "approve", approval_id, code=2).stderr
    assert "--yes" in run("approvals", "approve", approval_id, "apr-0", code=2).stderr
    assert state(run, approval_id) == "PENDING"


@pytest.mark.parametrize(("said", "code", "after"), [("n\n", 1, "PENDING"), ("y\n", 0, "GRANTED")])
def test_at_a_terminal_exactly_what_is_approved_is_shown_first(
    daemon: Daemon, namespace: str, run: Run, ask: Ask, said: str, code: int, after: str
) -> None:
    approval_id = ask()
    mine, theirs = pty.openpty()
    at = ("-a", daemon.address, "-n", namespace)
    try:
        with started(*at, "approvals", "approve", approval_id, stdin=theirs) as process:
            os.write(mine, said.encode())
            output, shown = process.communicate(timeout=30)
    finally:
        os.close(mine)
        os.close(theirs)
    assert process.returncode == code, shown
    assert '"to": "ann"' in shown
    assert "Approve exactly this?" in shown
    assert ("GRANTED" in output) is (after == "GRANTED")
    assert state(run, approval_id) == after


def test_many_are_decided_each_for_itself_or_all_together(run: Run, ask: Ask) -> None:
    first, second, third = (ask(number=number) for number in range(3))
    partly = run("approvals", "deny", first, "apr-0", code=1)
    assert "apr-0: no approval 'apr-0'" in partly.stderr
    assert "1 of 2 votes were refused" in partly.stderr
    assert state(run, first) == "DENIED"
    run("approvals", "approve", second, first, "--all-or-nothing", "--yes", code=1)
    assert state(run, second) == "PENDING"
    run("approvals", "approve", second, third, "--all-or-nothing", "--yes")
    assert (state(run, second), state(run, third)) == ("GRANTED", "GRANTED")


def test_opinions_time_and_what_is_taken_back(run: Run, ask: Ask) -> None:
    approval_id = ask()
    assert "--comment" in run("approvals", "advise", approval_id, code=2).stderr
    run("approvals", "advise", approval_id, "--comment", "the table has no backup")
    assert "the table has no backup" in run("approvals", "show", approval_id).stdout
    run("approvals", "extend", approval_id, "--by", "2h", "--reason", "asleep")
    late = run("approvals", "extend", approval_id, "--by", "30h", "--reason", "asleep", code=1)
    assert "expires_at" in late.stderr
    run("approvals", "cancel", approval_id, "--reason", "done by hand")
    assert state(run, approval_id) == "CANCELLED"
    assert "is CANCELLED" in run("approvals", "approve", approval_id, "-y", code=1).stderr


def test_a_vote_is_handed_to_one_person(run: Run, ask: Ask) -> None:
    approval_id = ask()
    to_many = run("approvals", "delegate", approval_id, "--to", "group:ops", code=1)
    assert "delegate" in to_many.stderr
    run("approvals", "delegate", approval_id, "--to", "user:ann@example.com", "--for", "2h")
    assert "user:ann@example.com" in run("approvals", "list").stdout
    assert (
        "it has delegated its vote" in run("approvals", "approve", approval_id, "-y", code=1).stderr
    )


def test_what_is_granted_in_advance_is_counted_and_ends(run: Run, ask: Ask) -> None:
    assert "Nothing is granted" in run("approvals", "grants", "list").stderr
    create = ("approvals", "grants", "create", "--action", "pay", "--reason", "tonight")
    run(*create, "--uses", "1", "--for", "1h", code=2)
    run(*create, "--agent", "payer", "--uses", "51", "--for", "1h", code=1)
    run(*create, "--agent", "payer", "--uses", "1", "--for", "9h", code=1)
    when = '{"attr": "claim.to", "op": "eq", "value": "ann"}'
    fits = (*create, "--agent", "payer", "--uses", "1", "--for", "1h", "--when", when)
    made = run(*fits, "-o", "json")
    grant_id = json.loads(made.stdout)["grant_id"]
    assert state(run, ask(number=1)) == "GRANTED"
    assert state(run, ask(number=2)) == "PENDING"
    assert "Nothing is granted" in run("approvals", "grants", "list").stderr  # it is used up
    assert "1/1" in run("approvals", "grants", "list", "--all").stdout
    run("approvals", "grants", "revoke", grant_id, "--reason", "done")
    assert "revoked" in run("approvals", "grants", "list", "--all").stdout
    unknown = run("approvals", "grants", "revoke", "sgr-0", code=1)
    assert "no standing grant 'sgr-0'" in unknown.stderr


def test_a_daemon_that_is_away_is_said_to_be(run: Run) -> None:
    run("-a", "127.0.0.1:1", "--timeout", "1", "approvals", "list", code=3)
