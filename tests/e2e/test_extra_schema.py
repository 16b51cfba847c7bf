"""The schema of extra keys, through the SDK and the command line against the real daemon."""

import json
from pathlib import Path
from typing import Any

import pytest

from fleetplane import (
    AgentSpec,
    FleetClient,
    InvalidArgument,
    LimitExceeded,
    Reason,
    RevisionConflict,
    Scope,
    from_struct,
)
from tests.e2e.command_line import Run, answer
from tests.fakes.daemon import running_daemon

COLORS = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "blue"]},
        "team": {"type": "string", "pattern": "^[a-z]+$"},
        "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}},
    },
    "additionalProperties": False,
    "$defs": {"rule": {"type": "object", "required": ["name"]}},
}


def named(refusal: pytest.ExceptionInfo[InvalidArgument]) -> list[str]:
    return [violation.field for violation in refusal.value.violations]


async def test_a_schema_is_registered_enforced_and_removed(client: FleetClient) -> None:
    assert not (await client.get_extra_schema()).HasField("schema")
    outcome = await client.set_extra_schema(COLORS, reason="typed", expected_revision=0)
    assert outcome.changed
    known = (await client.get_extra_schema()).schema
    assert from_struct(known.schema) == COLORS
    assert (known.revision, known.reason) == (outcome.schema.revision, "typed")
    assert known.author
    assert known.HasField("updated_at")

    with pytest.raises(InvalidArgument) as refusal:
        await client.update_config({"extra": {"color": "green", "rules": [{}], "size": 1}})
    assert sorted(named(refusal)) == [
        "set.extra.color",
        "set.extra.rules[0].name",
        "set.extra.size",
    ]
    written = await client.update_config({"extra.color": "red", "extra.team": "a"})
    assert written.changed
    with pytest.raises(RevisionConflict):
        await client.set_extra_schema({}, expected_revision=0)
    await client.set_extra_schema({}, expected_revision=known.revision)
    await client.update_config({"extra.color": "green"})
    with pytest.raises(InvalidArgument) as refusal:
        await client.set_extra_schema(COLORS)
    assert named(refusal) == ["schema"]
    assert "layer namespace: extra.color" in refusal.value.message


async def test_a_key_that_agents_need_is_asked_of_their_layers_together(
    client: FleetClient,
) -> None:
    needs_team: dict[str, Any] = {**COLORS, "required": ["team"]}
    writer = (await client.register(AgentSpec(name="writer", version="1.0.0"))).agent
    rehearsed = await client.set_extra_schema(needs_team, dry_run=True)
    (violation,) = rehearsed.violations
    assert (violation.agent_id, violation.path) == (writer.agent_id, "extra.team")
    assert not (await client.get_extra_schema()).HasField("schema")

    await client.update_config({"extra.team": "a"}, scope=Scope(agent_name="writer"))
    await client.set_extra_schema(needs_team)
    await client.update_config({"extra.color": "red"})
    with pytest.raises(InvalidArgument) as refusal:
        await client.update_config(unset="extra.team", scope=Scope(agent_name="writer"))
    assert named(refusal) == ["set.extra.team"]
    assert writer.agent_id in refusal.value.message


async def test_a_rollback_is_checked_and_an_emergency_is_not_hindered(client: FleetClient) -> None:
    first = await client.update_config({"extra.color": "green"})
    await client.update_config({"extra.color": "red"})
    await client.set_extra_schema(COLORS)
    with pytest.raises(InvalidArgument) as refusal:
        await client.rollback_config(first.layer.revision)
    assert named(refusal) == ["to_revision.extra.color"]
    emergency = Scope(emergency=True)
    assert (await client.update_config({"blocked_tools": ["shell"]}, scope=emergency)).changed


async def test_a_schema_that_could_harm_the_daemon_is_refused(client: FleetClient) -> None:
    for document, field in (
        ({"$ref": "https://example.com/schema.json"}, "schema.$ref"),
        ({"$ref": "#"}, "schema.$ref"),
        ({"properties": {"a": {"pattern": "(a+)+(?=b)"}}}, "schema.properties.a.pattern"),
        ({"type": "strin"}, "schema.type"),
        ({"unevaluatedProperties": False}, "schema.unevaluatedProperties"),
    ):
        with pytest.raises(InvalidArgument) as refusal:
            await client.set_extra_schema(document)
        assert named(refusal) == [field]
    with pytest.raises(LimitExceeded) as large:
        await client.set_extra_schema({"description": "x" * 65_536})
    assert large.value.reason is Reason.LIMIT_EXCEEDED


async def test_a_repeated_request_is_answered_with_what_it_wrote(client: FleetClient) -> None:
    first = await client.set_extra_schema(COLORS, request_id="once")
    again = await client.set_extra_schema(COLORS, request_id="once")
    assert again.schema.revision == first.schema.revision


async def test_a_schema_outlives_the_daemon() -> None:
    with running_daemon(grace_seconds=0.5) as daemon:
        async with FleetClient(daemon.address) as client:
            before = await client.set_extra_schema(COLORS)
        await daemon.arestart()
        async with FleetClient(daemon.address) as client:
            after = await client.get_extra_schema(min_revision=before.schema.revision)
            assert after.schema == before.schema
            with pytest.raises(InvalidArgument):
                await client.update_config({"extra.color": "green"})


def test_the_command_line_registers_shows_and_removes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "extra.schema.json"
    file.write_text(json.dumps(COLORS))
    assert "has no schema" in run("config", "schema", "get", code=1).stderr
    run("config", "set", "extra.color=green")
    rehearsed = run("config", "schema", "set", str(file), "--dry-run")
    assert "layer namespace" in rehearsed.stdout
    assert "Nothing was written" in rehearsed.stderr
    assert "extra.color" in run("config", "schema", "set", str(file), code=1).stderr
    forced = answer(run("config", "schema", "set", str(file), "--force", "-o", "json"))
    assert forced["violations"][0]["path"] == "extra.color"
    assert json.loads(run("config", "schema", "get").stdout) == COLORS
    assert "already" in run("config", "schema", "set", str(file), "--force").stderr
    assert "set.extra.color" in run("config", "set", "extra.color=black", code=1).stderr
    revision = forced["schema"]["revision"]
    run("config", "schema", "remove", "--expected-revision", "0", code=1)
    removed = run("config", "schema", "remove", "--expected-revision", str(revision))
    assert "removed" in removed.stderr
    run("config", "set", "extra.color=black")
    file.write_text("[]")
    assert "must hold an object" in run("config", "schema", "set", str(file), code=2).stderr
    file.write_text("{}")
    assert "is empty" in run("config", "schema", "set", str(file), code=2).stderr


@pytest.mark.parametrize("name", ["get", "set", "remove"])
def test_every_command_explains_itself_with_an_example(run: Run, name: str) -> None:
    shown = run("config", "schema", name, "--help").stdout
    assert f"fleetplane config schema {name}" in shown.split("Examples:")[1]
