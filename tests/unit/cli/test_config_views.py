import pytest

from controlplane.cli.config_following import _some
from controlplane.cli.config_scopes import scope_name, scope_of
from controlplane.cli.config_views import (
    assignments,
    changes,
    config_table,
    effects_table,
    explained_table,
    leaves,
)
from controlplane.cli.outcomes import WrongInput
from fleetplane import EffectiveConfig, Scope, to_struct
from fleetplane.v1 import config_service_pb2 as pb


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


def test_only_leaves_that_differ_are_changes() -> None:
    before = EffectiveConfig(temperature=0.7, features={"web": True, "old": False})
    after = EffectiveConfig(temperature=0.2, features={"web": True}, allowed_domains=())
    assert changes(before, after) == [
        "temperature: 0.7 -> 0.2",
        "allowed_domains: (none) -> []",
        "features.old: false -> (none)",
    ]
    assert changes(after, after) == []


def test_without_a_before_everything_is_new() -> None:
    assert changes(None, EffectiveConfig())[0] == "model: claude-sonnet-4-6"


def test_unrestricted_domains_are_any_and_an_empty_list_is_none() -> None:
    assert ["allowed_domains", "(any)"] in rows(config_table(EffectiveConfig()))
    assert ["allowed_domains", "[]"] in rows(config_table(EffectiveConfig(allowed_domains=())))
    assert "allowed_domains" not in leaves(EffectiveConfig())


def test_every_leaf_is_shown_with_its_layer() -> None:
    response = pb.GetConfigResponse(
        config=pb.EffectiveConfig(
            temperature=0.2, blocked_tools=["shell"], extra=to_struct({"a": {"b": [1]}})
        ),
        sources=[
            pb.ConfigSource(path="temperature", layer="name:writer", revision=4),
            pb.ConfigSource(path="blocked_tools[shell]", layer="emergency", revision=9),
            pb.ConfigSource(path="extra.a.b", layer="namespace", revision=2),
            pb.ConfigSource(path="max_tokens", layer="default"),
            pb.ConfigSource(path="unheard.of", layer="default"),
        ],
    )
    assert rows(explained_table(response)) == [
        ["temperature", "0.2", "name:writer", "r4"],
        ["blocked_tools[shell]", "shell", "emergency", "r9"],
        ["extra.a.b", "[1]", "namespace", "r2"],
        ["max_tokens", "0", "default", "-"],
        ["unheard.of", "(none)", "default", "-"],
    ]


def test_effects_show_numbers_as_they_were_written() -> None:
    difference = pb.ConfigDifference(path="extra.n")
    difference.after.number_value = 3
    text = effects_table([pb.AgentConfigDifference(agent_id="a", differences=[difference])])
    assert rows(text) == [["a", "extra.n", "(none)", "3"]]


def test_values_are_shown_as_they_would_be_typed() -> None:
    assert assignments({"b": ["x"], "a": True}) == 'a=true b=["x"]'


def test_scopes_have_names() -> None:
    scopes = [Scope(), Scope(agent_name="w"), Scope(agent_id="a"), Scope(emergency=True)]
    assert [scope_name(one) for one in scopes] == ["namespace", "name:w", "id:a", "emergency"]
    assert scope_of("", "w") == Scope(agent_name="w")
    with pytest.raises(WrongInput, match="exclude each other"):
        scope_of("", "w", emergency=True)


def test_many_laggards_are_counted() -> None:
    assert _some(["a", "b"]) == "a, b"
    assert _some(list("abcde")) == "a, b, c and 2 more"
