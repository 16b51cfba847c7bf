"""`fleetplane prompts` over a scripted daemon."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from controlplane.cli.outcomes import WrongInput
from controlplane.cli.prompt_files import read_dataset, read_prompt
from fleetplane import PromptMessage, VariableSpec, VariableType
from fleetplane.v1 import prompt_service_pb2 as pb
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

VERSION = pb.PromptVersion(
    prompt="greeting",
    version=7,
    type=pb.PROMPT_TYPE_TEXT,
    text="Hello {{name}}.",
    variables=[pb.PromptVariable(name="name", type=pb.PROMPT_VARIABLE_TYPE_STRING)],
    content_sha256="sha256:" + "a" * 64,
    author="ann",
    reason="warmer",
    size_bytes=15,
    revision=9,
)
PROMPT = pb.Prompt(
    name="greeting",
    latest_version=7,
    labels=[
        pb.PromptLabel(label="latest", version=7),
        pb.PromptLabel(label="production", version=6),
    ],
)
SCORER = """
def right(prompt, item, trial):
    return {"score": 1.0, "cost": 0.5}

async def wrong(prompt, item, trial):
    raise RuntimeError("no model")

def odd(prompt, item, trial):
    return 2
"""


def comparison(verdict: "pb.GateVerdict.ValueType") -> pb.ComparePromptVersionsResponse:
    found = pb.PromptComparison(
        verdict=verdict,
        reasons=["because"],
        candidate_version=7,
        baseline_version=6,
        items=60,
        mean_difference=0.01,
        interval_low=-0.005,
        interval_high=0.02,
        resamples=10_000,
        mcnemar_p=1.0,
        regressed=[pb.RegressedItem(item_id="i7", critical=True, baseline_score=1)],
        cost_growth=0.1,
    )
    return pb.ComparePromptVersionsResponse(comparison=found)


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data set, in a directory with a scorer."""
    (tmp_path / "own_scorer.py").write_text(SCORER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "cases.jsonl"
    path.write_text('{"id": "a"}\n\n{"id": "b", "critical": true}\n')
    return path


def test_prompts_are_listed_with_their_labels(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("ListPrompts", pb.ListPromptsResponse(prompts=[PROMPT]))
    shown = run("prompts", "list").stdout
    assert "production=6" in shown
    assert "latest=7" not in shown
    assert (
        json.loads(run("prompts", "list", "-o", "json").stdout)["prompts"][0]["name"] == "greeting"
    )


def test_a_version_is_shown_with_its_content(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("GetPromptVersion", pb.GetPromptVersionResponse(version=VERSION, labels=["latest"]))
    shown = run("prompts", "show", "greeting", "--label", "latest").stdout
    assert "Hello {{name}}." in shown
    assert "name (string)" in shown
    assert daemon.last("GetPromptVersion").label == "latest"


def test_a_file_becomes_a_version(daemon: ScriptedDaemon, run: Run, tmp_path: Path) -> None:
    answer = pb.CreatePromptVersionResponse(version=VERSION, created=True)
    daemon.says("CreatePromptVersion", answer)
    file = tmp_path / "greeting.txt"
    file.write_text("Hello {{name}}.")
    arguments = ("create", "greeting", "-f", str(file), "--reason", "r", "--config", "top_k=3")
    assert "version 7 of greeting was written" in run("prompts", *arguments).stdout
    asked = daemon.last("CreatePromptVersion")
    assert (asked.text, asked.reason, asked.config["top_k"]) == ("Hello {{name}}.", "r", 3)


def test_a_label_moves_and_says_from_where(daemon: ScriptedDaemon, run: Run) -> None:
    moved = pb.MoveLabelResponse(
        label=pb.PromptLabel(label="production", version=7), previous_version=6, changed=True
    )
    daemon.says("MoveLabel", moved)
    shown = run("prompts", "label", "move", "greeting", "7", "--reason", "r").stdout
    assert shown == "production of greeting moved from version 6 to version 7\n"
    daemon.says("MoveLabel", pb.MoveLabelResponse(changed=True, overridden=True))
    shown = run(
        "prompts", "label", "move", "greeting", "7", "--reason", "r", "--override", "o"
    ).stdout
    assert "its gate was overridden" in shown
    assert daemon.last("MoveLabel").override_reason == "o"


def test_an_agent_gets_a_label_or_loses_it(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("SetAgentLabel", pb.SetAgentLabelResponse(prompt=PROMPT))
    daemon.says("UnsetAgentLabel", pb.UnsetAgentLabelResponse(prompt=PROMPT))
    about = ("prompts", "label", "agent", "greeting", "writer")
    assert "writer gets canary" in run(*about, "canary", "--reason", "r").stdout
    assert "writer gets production" in run(*about, "--none", "--reason", "r").stdout
    run(*about, "--reason", "r", code=2)


def test_moves_are_listed_with_what_the_gate_said(daemon: ScriptedDaemon, run: Run) -> None:
    move = pb.LabelMove(
        label="production", from_version=6, to_version=7, verdict="REGRESSION", override_reason="o"
    )
    daemon.says("GetLabelHistory", pb.GetLabelHistoryResponse(moves=[move]))
    assert "REGRESSION, overridden" in run("prompts", "history", "greeting").stdout


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (pb.GATE_VERDICT_PASS, 0),
        (pb.GATE_VERDICT_REGRESSION, 1),
        (pb.GATE_VERDICT_INSUFFICIENT, 2),
    ],
)
def test_a_verdict_is_an_exit_code(
    daemon: ScriptedDaemon, run: Run, cases: Path, verdict: "pb.GateVerdict.ValueType", code: int
) -> None:
    listed = pb.ListPromptVersionsResponse(prompt=PROMPT, versions=[VERSION])
    daemon.says("ListPromptVersions", listed)
    daemon.says("GetPromptVersion", pb.GetPromptVersionResponse(version=VERSION))
    daemon.says("ListEvaluations", pb.ListEvaluationsResponse())
    recorded = pb.PromptEvaluation(evaluation_id="evl-1", mean_score=1.0, revision=12)
    daemon.says("RecordEvaluation", pb.RecordEvaluationResponse(evaluation=recorded))
    daemon.says("ComparePromptVersions", comparison(verdict))
    arguments = ("--version", "7", "--dataset", str(cases), "--scorer", "own_scorer:right")
    result = run("prompts", "eval", "greeting", *arguments, "--trials", "3", code=code)
    assert "- because" in result.stdout
    assert "i7" in result.stdout
    asked = daemon.last("RecordEvaluation")
    assert asked.version == 6  # the one it is compared with was evaluated as well
    assert [(one.item_id, len(one.scores), one.critical) for one in asked.items] == [
        ("a", 3, False),
        ("b", 3, True),
    ]
    assert asked.items[0].cost == 1.5
    assert asked.dataset_sha256 == read_dataset(cases).sha256
    assert daemon.last("ComparePromptVersions").min_revision == 12
    result = run("prompts", "compare", "greeting", "--version", "7", "-o", "json", code=code)
    assert json.loads(result.stdout)["baseline_version"] == 6


@pytest.mark.parametrize(
    ("scorer", "code", "said"),
    [
        ("own_scorer:wrong", 1, "failed at item"),
        ("own_scorer:odd", 1, "scores are 0-1"),
        ("own_scorer:nothing", 2, "nothing"),
        ("no_such_module:f", 2, "no_such_module"),
        ("own_scorer", 2, "module:function"),
    ],
)
def test_a_scorer_that_fails_stops_the_run(
    daemon: ScriptedDaemon, run: Run, cases: Path, scorer: str, code: int, said: str
) -> None:
    listed = pb.ListPromptVersionsResponse(prompt=PROMPT, versions=[VERSION])
    daemon.says("ListPromptVersions", listed)
    daemon.says("GetPromptVersion", pb.GetPromptVersionResponse(version=VERSION))
    arguments = ("--version", "7", "--dataset", str(cases), "--scorer", scorer)
    assert said in run("prompts", "eval", "greeting", *arguments, code=code).stderr


def test_a_prompt_file_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "messages: [{role: system, content: 'Be {{mood}}.'}]\n"
        "variables: {mood: {type: string, max_length: 9}, n: {type: number, required: false}}\n"
        "config: {temperature: 0.2}\n"
    )
    said = read_prompt(str(path))
    assert said.content == [PromptMessage("system", "Be {{mood}}.")]
    assert said.variables == {
        "mood": VariableSpec(max_length=9),
        "n": VariableSpec(type=VariableType.NUMBER, required=False),
    }
    assert said.config == {"temperature": 0.2}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "text: a\nmessages: []",
        "text: 3",
        "text: a\nother: b",
        "messages: [{role: user}]",
        "text: a\nvariables: {a: {type: date}}",
        "text: a\nvariables: {a: {kind: b}}",
        "text: a\nconfig: []",
        "text: [",
    ],
)
def test_a_malformed_prompt_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(WrongInput, match=r"p\.yaml"):
        read_prompt(str(path))


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"id": ""}', '{"id": 1}\n{"id": "1"}'])
def test_a_malformed_data_set_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(text)
    with pytest.raises(WrongInput, match=r"cases\.jsonl"):
        read_dataset(path)
