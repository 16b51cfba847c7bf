import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controlplane.cli.entry import app
from controlplane.cli.policy_cases import AgentFacts, Case, Cases, Expected, run_here
from controlplane.cli.policy_files import parse_policies
from controlplane.domain.policies import Effect
from tests.policy_corpus.corpus import groups

REFERENCE = Path(__file__).parents[3] / "examples" / "policies" / "reference.yaml"


def run(tmp_path: Path, document: dict[str, Any], *options: str) -> Result:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(document))
    return CliRunner().invoke(app, ["policies", "test", str(file), *options])


CASES = {
    "policies": str(REFERENCE),
    "agents": {"crawler": {"tags": {"scope": "internal"}}},
    "cases": [
        {
            "name": "stays inside",
            "agent": "crawler",
            "action": "external_api_call",
            "expect": "DENY",
        },
        {
            "action": "database_write",
            "context": {"environment": "production"},
            "expect": {"action": "REQUIRE_APPROVAL", "decided_by": ["prod-db-restrict"]},
        },
        {"action": "search", "expect": "ALLOW"},
    ],
}


def test_cases_that_agree_pass(tmp_path: Path) -> None:
    result = run(tmp_path, CASES)
    assert result.exit_code == 0, result.output
    assert "pass  stays inside" in result.stdout
    assert "pass  agent database_write" in result.stdout
    assert "3 cases passed" in result.stderr


def test_a_case_that_fails_is_shown_and_is_exit_code_1(tmp_path: Path) -> None:
    wrong = {"name": "wrong", "action": "search", "expect": "DENY"}
    result = run(tmp_path, {**CASES, "cases": [*CASES["cases"], wrong]})
    assert result.exit_code == 1
    assert "FAIL  wrong\n      expected DENY\n      answered ALLOW\n" in result.stdout
    assert "1 of 4 cases failed" in result.stderr


def test_the_right_answer_of_the_wrong_policy_fails(tmp_path: Path) -> None:
    case = {
        "action": "search",
        "context": {"estimated_cost": 2},
        "expect": {"action": "DENY", "decided_by": ["no-external-comms"]},
    }
    result = run(tmp_path, {"policies": [str(REFERENCE)], "cases": [case]})
    assert result.exit_code == 1
    assert "answered DENY by cost-limit" in result.stdout


def test_results_are_json_for_programs(tmp_path: Path) -> None:
    result = run(tmp_path, CASES, "-o", "json")
    assert [one["passed"] for one in json.loads(result.stdout)["cases"]] == [True, True, True]


def test_a_malformed_question_fails_its_case_only(tmp_path: Path) -> None:
    cases = [
        {"name": "bad", "action": "no spaces please", "expect": "ALLOW"},
        {"name": "good", "action": "search", "expect": "ALLOW"},
    ]
    result = run(tmp_path, {"policies": str(REFERENCE), "cases": cases})
    assert result.exit_code == 1
    assert "answered error: action 'no spaces please'" in result.stdout
    assert "pass  good" in result.stdout


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"cases": []}, "holds no case"),
        ({"cases": [{"action": "x", "expect": "ALLOW"}]}, "`policies` must name a file"),
        ({"cases": [{"action": "x", "expect": "PERMIT"}]}, "cases[0].expect"),
        ({"cases": [{"action": "x"}]}, "missing required field `expect`"),
        ({"cases": [{"action": "x", "expect": "DENY", "contxt": {}}]}, "unknown field `contxt`"),
        (
            {"policies": "none.yaml", "cases": [{"action": "x", "expect": "DENY"}]},
            "No such file",
        ),
    ],
)
def test_a_wrong_file_of_cases_is_exit_code_2(
    tmp_path: Path, document: dict[str, Any], message: str
) -> None:
    result = run(tmp_path, document)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("group", list(groups()), ids=lambda group: group.name)
def test_the_shared_corpus_is_answered_as_everywhere_else(group: Any) -> None:
    policies = parse_policies(_documents(group.policies), "corpus")
    cases = [
        Case(
            name=one.name,
            agent=one.agent_id,
            action=one.action,
            tool=one.tool,
            context=dict(one.context),
            expect=Expected(
                action=Effect(one.expected.effect), decided_by=list(one.expected.determining)
            ),
        )
        for one in group.cases
        if one.agent_id in group.agents
    ]
    facts = {
        agent_id: AgentFacts(
            name=agent["name"],
            version=agent["version"],
            tags=agent["tags"],
            capabilities=agent.get("capabilities", []),
            tools=agent.get("tools", []),
        )
        for agent_id, agent in group.agents.items()
    }
    verdicts = run_here(
        Cases(cases=cases, default=Effect(group.default_effect), agents=facts), policies
    )
    assert [one for one in verdicts if not one.passed] == []


def _documents(policies: Any) -> list[dict[str, Any]]:
    """The corpus writes the scope as the engine does; files write it as the contract does."""
    documents = []
    for one in policies:
        document = dict(one)
        document.update(document.pop("scope", {}))
        documents.append(document)
    return documents
