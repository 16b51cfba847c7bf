from pathlib import Path
from typing import Any

import pytest

from controlplane.cli.arguments import (
    json_object,
    json_or_text,
    json_pairs,
    member,
    pair,
    read_document,
    text_pairs,
)
from controlplane.cli.outcomes import WRONG_USAGE, WrongInput
from fleetplane import AgentStatus


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.2", 0.2),
        ("3", 3),
        ("true", True),
        ("null", None),
        ('["a", "b"]', ["a", "b"]),
        ('"3"', "3"),
        ("claude-sonnet-4-6", "claude-sonnet-4-6"),
        ("", ""),
        ("True", "True"),
        ("1.2.3", "1.2.3"),
        ("9007199254740992", 2**53),
    ],
)
def test_a_value_is_json_or_else_text(text: str, value: Any) -> None:
    read = json_or_text(text, "x")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    ["[a", '{"a": }', '"open', "NaN", "Infinity", "9007199254740993", '{"a": [1e999]}', "[" * 5000],
)
def test_a_value_that_would_arrive_as_another_is_refused(text: str) -> None:
    with pytest.raises(WrongInput, match=r"^x") as refused:
        json_or_text(text, "x")
    assert refused.value.code == WRONG_USAGE


def test_a_pair_is_split_at_the_first_equals_sign() -> None:
    assert pair("query=a=b", "--tag") == ("query", "a=b")
    assert pair("empty=", "--tag") == ("empty", "")


@pytest.mark.parametrize("text", ["", "name", "=value", " =value"])
def test_a_pair_without_a_name_or_sign_is_refused(text: str) -> None:
    with pytest.raises(WrongInput, match="NAME=VALUE"):
        pair(text, "--tag")


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(WrongInput, match="'a' twice"):
        text_pairs(["a=1", "a=2"], "--tag")


def test_tags_are_text_and_claims_are_json() -> None:
    assert text_pairs(["tier=1"], "--tag") == {"tier": "1"}
    assert json_pairs(["cost=1", "env=eu"], "--context") == {"cost": 1, "env": "eu"}


def test_an_object_is_an_object() -> None:
    assert json_object('{"a": 1}', "--context-json") == {"a": 1}
    with pytest.raises(WrongInput, match="must be a JSON object"):
        json_object("[1]", "--context-json")


def test_a_status_is_read_in_any_case() -> None:
    assert member(AgentStatus, "active", "--status") is AgentStatus.ACTIVE
    with pytest.raises(WrongInput, match="is none of REGISTERED, ACTIVE"):
        member(AgentStatus, "unspecified", "--status")


def test_a_file_is_yaml_or_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [1]}')
    assert read_document(file) == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "a.yaml:"),
        (b"\xff\xfe\x00", "a.yaml"),
        (b"!!python/object:os.system x", "a.yaml:1"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(WrongInput, match=message):
        read_document(file)


def test_a_file_that_is_not_there_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="No such file"):
        read_document(tmp_path / "none.yaml")
