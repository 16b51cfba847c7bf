"""Configuration: history, rollback, dry run, conflicts, and lossless watching."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.agents import AgentSpec
from controlplane.domain.configs import LayerKind, LayerScope
from controlplane.domain.errors import (
    AgentNotFound,
    InvalidArgument,
    RevisionConflict,
    RevisionNotFound,
)
from controlplane.services.config_watch import (
    ConfigBookmark,
    ConfigUpdate,
    ConfigWatch,
    Held,
    is_newer,
)
from controlplane.services.configs import ConfigChange, ConfigChanged
from controlplane.services.ports import Position, RequestKey
from controlplane.services.registration import Registration
from tests.fakes.plane import CALLER, NS, Plane

NAMESPACE = LayerScope(LayerKind.NAMESPACE)


def named(name: str) -> LayerScope:
    return LayerScope(LayerKind.AGENT_NAME, name)


def agent(agent_id: str) -> LayerScope:
    return LayerScope(LayerKind.AGENT_ID, agent_id)


async def change(plane: Plane, scope: LayerScope, /, **fields: Any) -> ConfigChanged:
    outcome = await plane.configs.update(
        NS, ConfigChange(scope=scope, **{"set_": {}, **fields}), caller=CALLER
    )
    await plane.follow()
    return outcome


async def test_a_change_is_merged_over_the_weaker_layers() -> None:
    plane = Plane()
    agent_id = (await plane.register("researcher")).agent.agent_id
    await change(plane, NAMESPACE, set_={"temperature": 0.1, "max_tokens": 1000})
    await change(plane, named("researcher"), set_={"temperature": 0.2})
    view = await plane.follow()
    config = plane.configs.effective(view, agent(agent_id))
    assert (config.temperature, config.max_tokens) == (0.2, 1000)
    assert config.revision == view.position.revision


async def test_the_same_layers_give_the_same_object() -> None:
    plane = Plane()
    one = (await plane.register("researcher")).agent.agent_id
    two = (await plane.register("writer")).agent.agent_id
    await change(plane, NAMESPACE, set_={"temperature": 0.1})
    view = await plane.follow()
    assert plane.configs.effective(view, agent(one)) is plane.configs.effective(view, agent(two))


async def test_a_change_that_changes_nothing_writes_nothing() -> None:
    plane = Plane()
    first = await change(plane, NAMESPACE, set_={"temperature": 0.1})
    again = await change(plane, NAMESPACE, set_={"temperature": 0.1})
    assert not again.changed
    assert again.layer.revision == first.layer.revision


async def test_a_stale_expected_revision_is_refused_and_writes_nothing() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, set_={"temperature": 0.1}, expected_revision=0)
    with pytest.raises(RevisionConflict) as refusal:
        await change(plane, NAMESPACE, set_={"temperature": 0.2}, expected_revision=0)
    assert refusal.value.current == 1
    assert (await plane.follow()).layers["namespace"].values == {"temperature": 0.1}


async def test_a_wrong_path_is_refused_and_the_right_ones_beside_it_are_not_written() -> None:
    plane = Plane()
    with pytest.raises(InvalidArgument) as refusal:
        await change(plane, NAMESPACE, set_={"temperature": 0.1, "temprature": 0.2})
    assert [v.field for v in refusal.value.violations] == ["set.temprature"]
    assert "namespace" not in (await plane.follow()).layers


async def test_a_scope_of_an_unknown_agent_is_refused() -> None:
    with pytest.raises(AgentNotFound):
        await change(Plane(), agent("agt-none"), set_={"temperature": 0.1})


async def test_a_dry_run_names_every_touched_agent_and_writes_nothing() -> None:
    plane = Plane()
    one = (await plane.register("researcher")).agent.agent_id
    two = (await plane.register("writer")).agent.agent_id
    await change(plane, named("writer"), set_={"temperature": 0.3})
    outcome = await change(plane, NAMESPACE, set_={"temperature": 0.1}, dry_run=True)
    assert [agent_id for agent_id, _ in outcome.agents] == [one]
    assert outcome.affected_agents == 1
    assert outcome.agents[0][1][0].after == 0.1
    assert two not in dict(outcome.agents)
    assert "namespace" not in (await plane.follow()).layers


async def test_the_author_is_told_when_a_stronger_bound_clips_the_value() -> None:
    plane = Plane()
    await plane.register("researcher")
    await change(plane, NAMESPACE, set_={"max_tokens": 1000})
    outcome = await change(plane, named("researcher"), set_={"max_tokens": 9000})
    assert len(outcome.notes) == 1
    assert "9000" in outcome.notes[0]


async def test_history_is_newest_first_and_a_rollback_is_a_new_revision() -> None:
    plane = Plane()
    first = await change(plane, NAMESPACE, set_={"temperature": 0.1})
    await change(plane, NAMESPACE, set_={"temperature": 0.2, "max_tokens": 10})
    restored = await plane.configs.rollback(
        NS,
        NAMESPACE,
        first.layer.revision,
        expected_revision=None,
        reason="it broke",
        request=None,
        caller=CALLER,
    )
    view = await plane.follow()
    assert view.layers["namespace"].values == {"temperature": 0.1}
    assert restored.restored_from == first.layer.revision
    history = await plane.configs.history(NS, NAMESPACE, before=None, limit=10)
    assert [layer.revision for layer in history] == [3, 2, 1]
    assert history[0].reason == "it broke"


async def test_a_rollback_to_a_revision_of_another_layer_is_refused() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, set_={"temperature": 0.1})
    other = await change(plane, named("a"), set_={"temperature": 0.2})
    with pytest.raises(RevisionNotFound):
        await plane.configs.rollback(
            NS,
            NAMESPACE,
            other.layer.revision,
            expected_revision=None,
            reason="",
            request=None,
            caller=CALLER,
        )


async def test_a_repeated_request_changes_nothing_even_after_other_changes() -> None:
    plane = Plane()
    key = RequestKey("r-1", "digest")
    await change(plane, NAMESPACE, set_={"temperature": 0.1}, expected_revision=0, request=key)
    await change(plane, NAMESPACE, set_={"temperature": 0.2})
    again = await change(
        plane, NAMESPACE, set_={"temperature": 0.1}, expected_revision=0, request=key
    )
    assert not again.changed
    assert (await plane.follow()).layers["namespace"].values == {"temperature": 0.2}


class Watcher:
    """Collects what a watch says, one event at a time."""

    def __init__(self, plane: Plane, *scopes: tuple[LayerScope, Held | None]) -> None:
        watch = ConfigWatch(plane.read_model, plane.hub, plane.configs, NS)
        self._events = watch.events(scopes, bookmark_seconds=0.2)

    async def next(self) -> ConfigUpdate | ConfigBookmark:
        async with asyncio.timeout(5):
            return await anext(self._events)

    async def close(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_a_new_watcher_gets_a_snapshot_then_each_newer_revision() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, set_={"temperature": 0.1})
    watcher = Watcher(plane, (NAMESPACE, None))
    first = await watcher.next()
    assert isinstance(first, ConfigUpdate)
    assert first.synced
    assert first.config.temperature == 0.1
    await change(plane, NAMESPACE, set_={"temperature": 0.2})
    second = await watcher.next()
    assert isinstance(second, ConfigUpdate)
    assert second.config.temperature == 0.2
    assert second.position.revision > first.position.revision
    assert isinstance(await watcher.next(), ConfigBookmark)
    await watcher.close()


async def test_a_slow_watcher_gets_the_latest_and_no_backlog() -> None:
    plane = Plane()
    watcher = Watcher(plane, (NAMESPACE, None))
    await watcher.next()
    for step in range(1, 11):
        await change(plane, NAMESPACE, set_={"max_tokens": step})
    event = await watcher.next()
    assert isinstance(event, ConfigUpdate)
    assert event.config.max_tokens == 10
    assert isinstance(await watcher.next(), ConfigBookmark)
    await watcher.close()


async def test_scopes_with_the_same_configuration_share_one_message() -> None:
    plane = Plane()
    ids = [(await plane.register(f"a{n}")).agent.agent_id for n in range(5)]
    watcher = Watcher(plane, *((agent(agent_id), None) for agent_id in ids))
    first = await watcher.next()
    assert isinstance(first, ConfigUpdate)
    assert len(first.scopes) == 5
    await change(plane, named("a3"), set_={"temperature": 0.3})
    second = await watcher.next()
    assert isinstance(second, ConfigUpdate)
    assert second.scopes == (agent(ids[3]),)
    await watcher.close()


async def test_a_watcher_that_holds_the_newest_is_told_only_that_it_is_synced() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, set_={"temperature": 0.1})
    position = (await plane.follow()).position
    watcher = Watcher(plane, (NAMESPACE, Held(position.epoch, position.revision)))
    event = await watcher.next()
    assert event == ConfigBookmark(position, synced=True)
    await watcher.close()


async def test_an_agent_that_registers_after_its_watch_gets_the_layer_of_its_name() -> None:
    plane = Plane()
    await change(plane, named("researcher"), set_={"temperature": 0.3})
    watcher = Watcher(plane, (agent("a-1"), None))
    first = await watcher.next()
    assert isinstance(first, ConfigUpdate)
    assert first.config.temperature == 0.7
    await plane.registry.register(
        NS,
        _registration("researcher", "a-1"),
        caller=CALLER,
    )
    await plane.follow()
    second = await watcher.next()
    assert isinstance(second, ConfigUpdate)
    assert second.config.temperature == 0.3
    await watcher.close()


def _registration(name: str, agent_id: str) -> Any:
    return Registration(spec=AgentSpec(name=name, version="1.0.0"), agent_id=agent_id)


async def test_a_closed_watch_leaves_no_listener_behind() -> None:
    plane = Plane()
    watcher = Watcher(plane, (NAMESPACE, None))
    await watcher.next()
    assert plane.hub.listener_count == 1
    await watcher.close()
    assert plane.hub.listener_count == 0


@pytest.mark.parametrize(
    ("held", "at", "expected"),
    [
        (None, 5, True),
        (Held("e", 4), 5, True),
        (Held("e", 5), 5, False),
        (Held("e", 9), 5, False),
        (Held("e", 5, "other"), 5, True),
        (Held("e", 9, "other"), 5, False),
        (Held("old", 9, "other"), 5, True),
        (Held("old", 9, "same"), 5, False),
    ],
    ids=[
        "holds nothing",
        "holds an older revision",
        "holds this revision",
        "this replica lags",
        "holds other content of this revision",
        "other content, but this replica lags",
        "another epoch",
        "another epoch with the same content",
    ],
)
async def test_what_is_newer(held: Held | None, at: int, expected: bool) -> None:
    plane = Plane()
    config = plane.configs.effective(plane.read_model.view(NS), NAMESPACE)
    config = replace(config, revision=5, digest="same")
    assert is_newer(config, Position("e", at), held) is expected


async def test_a_change_of_the_emergency_layer_is_answered() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, set_={"max_tokens": 1000})
    outcome = await change(plane, LayerScope(LayerKind.EMERGENCY), set_={"max_tokens": 2000})
    assert outcome.changed
    assert outcome.notes == ("max_tokens: asked 2000 by emergency, bound 1000 by namespace",)
