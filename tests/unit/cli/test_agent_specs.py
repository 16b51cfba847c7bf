from pathlib import Path

import pytest

from controlplane.cli.agent_specs import registrations_in, spec_changes
from controlplane.cli.outcomes import WrongInput
from fleetplane import Activation


def test_changes_are_typed_by_their_field() -> None:
    assert spec_changes(
        [
            "description=42",
            "capabilities=a, b",
            'tools=["x"]',
            "max_concurrency=4",
            "degraded_after=2.5",
            "lost_after=null",
            "activation=manual",
            'tags={"tier": 1}',
        ]
    ) == {
        "description": "42",
        "capabilities": ["a", "b"],
        "tools": ["x"],
        "max_concurrency": 4,
        "degraded_after": 2.5,
        "lost_after": None,
        "activation": Activation.MANUAL,
        "tags": {"tier": "1"},
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("status=ACTIVE", "there is no field status"),
        ("name=other", "there is no field name"),
        ("max_concurrency=many", "must be a whole number"),
        ("capabilities=[1]", "must be a list of text"),
        ("degraded_after=-1", "must be seconds above 0"),
        ("activation=sometimes", "is none of AUTO, MANUAL"),
        ("tags=x", "must be an object"),
        ('owner=["x"]', "must be text"),
    ],
)
def test_a_change_of_another_type_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        spec_changes([assignment])


@pytest.mark.parametrize(
    "content",
    [
        "agents: [{name: a, version: 1.0.0, tags: {k: v}}]",
        "[{name: a, version: 1.0.0, tags: {k: v}}]",
        "{name: a, version: 1.0.0, tags: {k: v}}",
    ],
)
def test_a_file_holds_one_agent_or_a_list(tmp_path: Path, content: str) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(content)
    (one,) = registrations_in(file)
    assert (one.spec.name, one.spec.version, one.spec.tags) == ("a", "1.0.0", {"k": "v"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no agent"),
        ("agents: []\nowner: x", "nothing may stand beside"),
        ("[1]", r"agents\[0\] must be an object"),
        ("[{name: a}]", r"agents\[0\]: version must be given"),
        ("[{}]", "name and version must be given"),
        ("[{name: a, version: 1.0.0, colour: red}]", "there is no field colour"),
        ("[{name: a, version: 1.0.0, agent_id: 7}]", "agent_id must be text"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(content)
    with pytest.raises(WrongInput, match=message):
        registrations_in(file)
