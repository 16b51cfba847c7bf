"""The schema of a namespace's extra keys: registering it, and what changes it then refuses."""

from typing import Any

import pytest

from controlplane.domain.configs import LayerKind, LayerScope
from controlplane.domain.errors import (
    InvalidArgument,
    LimitExceeded,
    RequestIdReused,
    RevisionConflict,
)
from controlplane.services.configs import ConfigChange, ConfigChanged
from controlplane.services.extra_schemas import (
    MAX_VIOLATIONS,
    ExtraSchemaChange,
    ExtraSchemaChanged,
    ExtraSchemas,
    StoredViolation,
)
from controlplane.services.ports import Committed, Ledger, RequestKey, Transaction
from tests.fakes.plane import CALLER, NS, Plane

NAMESPACE = LayerScope(LayerKind.NAMESPACE)
EMERGENCY = LayerScope(LayerKind.EMERGENCY)
COLORS = {"properties": {"color": {"enum": ["red", "blue"]}, "team": {"type": "string"}}}
NEEDS_TEAM = COLORS | {"required": ["team"]}


def named(name: str) -> LayerScope:
    return LayerScope(LayerKind.AGENT_NAME, name)


async def put(plane: Plane, document: dict[str, Any], **fields: Any) -> ExtraSchemaChanged:
    outcome = await ExtraSchemas(plane.ledger, plane.configs).set(
        NS, ExtraSchemaChange(document=document, **fields), caller=CALLER
    )
    await plane.follow()
    return outcome


async def change(plane: Plane, scope: LayerScope, /, **fields: Any) -> ConfigChanged:
    outcome = await plane.configs.update(
        NS, ConfigChange(scope=scope, **{"set_": {}, **fields}), caller=CALLER
    )
    await plane.follow()
    return outcome


def fields_of(refusal: pytest.ExceptionInfo[InvalidArgument]) -> list[str]:
    return [violation.field for violation in refusal.value.violations]


async def plane_with(document: dict[str, Any], **fields: Any) -> Plane:
    plane = Plane()
    await plane.follow()
    await put(plane, document, **fields)
    return plane


async def test_a_schema_is_stored_with_its_author_reason_revision_and_time() -> None:
    plane = await plane_with({})
    outcome = await put(plane, COLORS, reason="colours only", expected_revision=0)
    view = await plane.follow()
    assert outcome.changed
    assert view.extra_schema == outcome.schema
    assert outcome.schema.document == COLORS
    assert (outcome.schema.author, outcome.schema.reason) == ("ada", "colours only")
    assert outcome.schema.revision == view.position.revision == 1
    assert outcome.schema.updated_at_ms == plane.clock.store_ms()
    ((_, _, audit),) = await plane.ledger.read_audit(NS)
    assert (audit.method, audit.event) == ("SetExtraSchema", "config.schema_updated")


async def test_the_check_is_compiled_once_per_revision() -> None:
    plane = await plane_with(COLORS)
    view = plane.read_model.view(NS)
    first = view.config_schema()
    await change(plane, NAMESPACE, set_={"extra.color": "red"})
    assert view.config_schema() is first
    await put(plane, NEEDS_TEAM)
    assert view.config_schema() is not first


async def test_a_change_that_violates_the_schema_is_refused_at_its_path() -> None:
    plane = await plane_with(COLORS)
    before = plane.read_model.view(NS).position.revision
    with pytest.raises(InvalidArgument) as refusal:
        await change(plane, NAMESPACE, set_={"extra.color": "green", "extra.team": 7})
    assert fields_of(refusal) == ["set.extra.color", "set.extra.team"]
    assert (await plane.follow()).position.revision == before
    await change(plane, NAMESPACE, set_={"extra.color": "red", "extra.other": 1})


async def test_a_dry_run_of_a_change_is_checked_as_well() -> None:
    plane = await plane_with(COLORS)
    with pytest.raises(InvalidArgument):
        await change(plane, NAMESPACE, set_={"extra.color": "green"}, dry_run=True)


async def test_a_rollback_to_what_the_schema_no_longer_accepts_is_refused() -> None:
    plane = Plane()
    old = await change(plane, NAMESPACE, set_={"extra.color": "green"})
    await change(plane, NAMESPACE, set_={"extra.color": "red"})
    await put(plane, COLORS)
    with pytest.raises(InvalidArgument) as refusal:
        await plane.configs.rollback(
            NS,
            NAMESPACE,
            old.layer.revision,
            expected_revision=None,
            reason="",
            request=None,
            caller=CALLER,
        )
    assert fields_of(refusal) == ["to_revision.extra.color"]


async def test_a_key_that_every_agent_needs_may_come_from_any_of_its_layers() -> None:
    plane = await plane_with({})
    await plane.register("writer")
    await put(plane, NEEDS_TEAM, force=True)
    await change(plane, NAMESPACE, set_={"extra.color": "red"})  # wrong before, and no worse
    await change(plane, named("writer"), set_={"extra.team": "a"})
    with pytest.raises(InvalidArgument) as refusal:
        await change(plane, named("writer"), unset=("extra.team",))
    assert fields_of(refusal) == ["set.extra.team"]
    assert "merged for agent" in refusal.value.violations[0].description
    await change(plane, NAMESPACE, set_={"extra.team": "b"})
    await change(plane, named("writer"), unset=("extra.team",))


async def test_many_agents_that_a_change_breaks_share_one_violation() -> None:
    plane = await plane_with({})
    await change(plane, NAMESPACE, set_={"extra.team": "a"})
    for number in range(3):
        await plane.register(f"writer-{number}")
    await put(plane, NEEDS_TEAM)
    with pytest.raises(InvalidArgument) as refusal:
        await change(plane, NAMESPACE, unset=("extra.team",))
    (violation,) = refusal.value.violations
    assert violation.description.endswith(" and 2 more")


async def test_a_schema_that_stored_layers_violate_is_refused_and_names_them() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, set_={"extra.color": "green"})
    with pytest.raises(InvalidArgument) as refusal:
        await put(plane, COLORS)
    (violation,) = refusal.value.violations
    assert violation.field == "schema"
    assert violation.description == ('layer namespace: extra.color must be one of "red", "blue"')
    assert (await plane.follow()).extra_schema is None


async def test_a_dry_run_lists_layers_and_agents_and_writes_nothing() -> None:
    plane = Plane()
    agent_id = (await plane.register("writer")).agent.agent_id
    await change(plane, named("writer"), set_={"extra.color": "green"})
    outcome = await put(plane, NEEDS_TEAM, dry_run=True)
    wrong_color = 'must be one of "red", "blue"'
    assert outcome.violations == (
        StoredViolation(layer=named("writer"), path="extra.color", description=wrong_color),
        StoredViolation(agent_id=agent_id, path="extra.team", description="is required"),
    )
    assert outcome.changed
    assert outcome.schema.revision == 0
    assert (await plane.follow()).extra_schema is None


async def test_what_was_wrong_before_hinders_nobody_and_can_be_mended() -> None:
    plane = Plane()
    await plane.register("writer")
    await change(plane, NAMESPACE, set_={"extra.color": "green", "extra.team": 7})
    outcome = await put(plane, COLORS, force=True)
    assert [one.path for one in outcome.violations] == ["extra.color", "extra.team"]
    await change(plane, NAMESPACE, set_={"temperature": 0.1})
    await change(plane, EMERGENCY, set_={"blocked_tools": ["shell"]})
    with pytest.raises(InvalidArgument):
        await change(plane, NAMESPACE, set_={"extra.color": "black"})
    await change(plane, NAMESPACE, set_={"extra.color": "red"})
    with pytest.raises(InvalidArgument):
        await change(plane, NAMESPACE, set_={"extra.color": "green"})


async def test_an_answer_lists_a_hundred_violations_and_says_that_there_are_more() -> None:
    plane = Plane()
    for number in range(MAX_VIOLATIONS + 1):
        await change(plane, named(f"writer-{number}"), set_={"extra.color": "green"})
    outcome = await put(plane, COLORS, dry_run=True)
    assert len(outcome.violations) == MAX_VIOLATIONS
    assert outcome.more_violations


async def test_a_removed_schema_checks_nothing_and_keeps_its_revision() -> None:
    plane = await plane_with(COLORS)
    removed = await put(plane, {}, expected_revision=1)
    assert (removed.changed, removed.schema.revision) == (True, 2)
    await change(plane, NAMESPACE, set_={"extra.color": "green"})
    with pytest.raises(RevisionConflict):
        await put(plane, COLORS, expected_revision=0)


async def test_setting_the_same_schema_again_writes_nothing() -> None:
    plane = await plane_with(COLORS)
    again = await put(plane, COLORS)
    assert (again.changed, again.schema.revision) == (False, 1)
    assert not (await put(await plane_with({}), {})).changed


async def test_a_repeated_request_writes_once() -> None:
    plane = await plane_with({})
    request = RequestKey("r-1", "digest")
    first = await put(plane, COLORS, request=request)
    again = await put(plane, COLORS, request=request, expected_revision=0)
    assert (again.changed, again.schema) == (False, first.schema)
    with pytest.raises(RequestIdReused):
        await put(plane, NEEDS_TEAM, request=RequestKey("r-1", "another"))


async def test_an_unusable_schema_is_refused() -> None:
    plane = await plane_with({})
    with pytest.raises(InvalidArgument) as refusal:
        await put(plane, {"properties": {"a": {"pattern": "(?!x)"}}})
    assert fields_of(refusal) == ["schema.properties.a.pattern"]
    with pytest.raises(LimitExceeded):
        await put(plane, {"description": "x" * 70_000})


class Interloper:
    """A ledger that lets somebody else commit first, once."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner
        self.first: Any = None

    async def commit(self, transaction: Transaction) -> Committed:
        first, self.first = self.first, None
        if first is not None:
            await first()
        return await self._inner.commit(transaction)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_a_schema_that_comes_in_between_is_not_bypassed() -> None:
    plane = Plane(Interloper)
    await plane.follow()
    plane.ledger.first = lambda: put(plane, COLORS)  # type: ignore[attr-defined]  # the wrapper's
    with pytest.raises(InvalidArgument):
        await change(plane, NAMESPACE, set_={"extra.color": "green"})
    plane.ledger.first = lambda: put(plane, NEEDS_TEAM)  # type: ignore[attr-defined]  # same
    assert (await change(plane, NAMESPACE, set_={"extra.color": "red"})).changed


async def test_a_layer_that_comes_in_between_is_reported_with_the_schema() -> None:
    plane = Plane(Interloper)
    await plane.follow()
    plane.ledger.first = lambda: change(plane, NAMESPACE, set_={"extra.color": "green"})  # type: ignore[attr-defined]  # the wrapper's
    outcome = await put(plane, COLORS)
    assert [one.path for one in outcome.violations] == ["extra.color"]


async def test_two_authors_of_a_schema_do_not_overwrite_each_other_unseen() -> None:
    plane = Plane(Interloper)
    await plane.follow()
    plane.ledger.first = lambda: put(plane, COLORS)  # type: ignore[attr-defined]  # the wrapper's
    with pytest.raises(RevisionConflict):
        await put(plane, NEEDS_TEAM, expected_revision=0)
