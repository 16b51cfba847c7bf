from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from controlplane.cli.outcomes import WrongInput
from controlplane.cli.policy_files import PolicyDocument, as_document, parse_policies, policies_at
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import Effect
from fleetplane._policies import policy_message

REFERENCE = Path(__file__).parents[3] / "examples" / "policies" / "reference.yaml"

FULL = """
policies:
  - policy_id: full
    action: DENY
    name: Everything
    description: Every field.
    conditions: {all: [{attr: estimated_cost, op: gt, value: 2}]}
    priority: -5
    enabled: false
    guardrail: true
    on_missing: MATCH
    targets: {actions: ["tool:*"], tools: [shell], agents: [writer]}
    agent_name: writer
    not_before: 2026-01-01T00:00:00Z
    not_after: "2026-06-01T00:00:00+02:00"
"""


def test_the_reference_policies_are_read() -> None:
    assert [one.policy_id for one in policies_at(REFERENCE)] == [
        "prod-db-restrict",
        "cost-limit",
        "no-external-comms",
    ]


def test_every_field_survives_the_wire_and_the_file() -> None:
    (document,) = parse_policies(yaml.safe_load(FULL), "x")
    assert document.not_after == datetime(2026, 5, 31, 22, tzinfo=UTC)
    message = policy_message(document.policy_id, document.to_fields())
    assert PolicyDocument.from_message(message) == document
    exported = yaml.safe_dump(as_document([document]))
    assert parse_policies(yaml.safe_load(exported), "x") == [document]


def test_an_export_leaves_out_what_is_default() -> None:
    document = PolicyDocument(policy_id="a", action=Effect.ALLOW, match_all=True)
    assert as_document([document]) == {
        "policies": [{"policy_id": "a", "action": "ALLOW", "priority": 0, "match_all": True}]
    }


def test_a_directory_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.json").write_text(
        '{"policy_id": "two", "action": "ALLOW", "match_all": true}'
    )
    (tmp_path / "a.yml").write_text("[{policy_id: one, action: DENY, conditions: {action: x}}]")
    (tmp_path / "README.md").write_text("not a policy")
    assert [one.policy_id for one in policies_at(tmp_path)] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("policies: [{policy_id: a, action: DENI}]", r"policies\[0\].action"),
        ("policies: [{action: DENY}]", "missing required field `policy_id`"),
        ("policies: [{policy_id: a, action: DENY, prio: 1}]", "unknown field `prio`"),
        ("policies: [{policy_id: a, action: DENY, priority: high}]", r"policies\[0\].priority"),
        ("policies: []\nother: 1", "nothing may stand beside"),
        ("policies: []", "holds no policy"),
        ("just text", "must hold a list"),
        ("[{policy_id: a, action: DENY, conditions: {estimated_cost: .nan}}]", "not a finite"),
        ("[{policy_id: a, action: DENY, not_before: 2026-01-01T00:00:00}]", "time zone"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(content)
    with pytest.raises(WrongInput, match=message):
        policies_at(file)


def test_a_policy_that_the_engine_refuses_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("[{policy_id: a, action: DENY, conditions: {enviroment: x}}]")
    with pytest.raises(InvalidArgument, match="did you mean environment"):
        policies_at(file)


def test_an_id_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("[{policy_id: a, action: ALLOW, match_all: true}]")
    with pytest.raises(WrongInput, match=r"b\.yaml: policy 'a' is in .*a\.yaml already"):
        policies_at(tmp_path)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=r"holds no \.yaml"):
        policies_at(tmp_path)
