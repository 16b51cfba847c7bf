"""What naive configuration gets wrong. Each test fails on the naive behaviour that it names."""

import asyncio
from dataclasses import replace
from typing import Any

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLayer,
    ConfigSchema,
    LayerKind,
    LayerScope,
    merge,
)
from controlplane.services.config_watch import ConfigUpdate, ConfigWatch, Held
from controlplane.services.configs import ConfigChange
from tests.fakes.plane import CALLER, NS, Plane

NAMESPACE = LayerScope(LayerKind.NAMESPACE)


def layer(key: str, values: dict[str, Any], revision: int = 1) -> ConfigLayer:
    return ConfigLayer(scope=LayerScope.parse(key), values=values, revision=revision)


async def change(plane: Plane, scope: LayerScope, **set_: Any) -> None:
    await plane.configs.update(NS, ConfigChange(scope=scope, set_=set_), caller=CALLER)
    await plane.follow()


async def test_20_setting_one_value_does_not_freeze_the_defaults_of_the_others() -> None:
    plane = Plane()
    await change(plane, NAMESPACE, temperature=0.1)
    stored = plane.read_model.view(NS).layers[NAMESPACE.key]
    assert dict(stored.values) == {"temperature": 0.1}, "only what somebody set is stored"
    fields = dict(BASE_SCHEMA.fields)
    fields["max_tokens"] = replace(fields["max_tokens"], default=9000)
    assert merge([stored], ConfigSchema(fields=fields)).max_tokens == 9000


def test_21_an_agent_cannot_unblock_what_the_namespace_blocks() -> None:
    effective = merge(
        [
            layer("namespace", {"blocked_tools": ["shell"]}),
            layer("id:a-1", {"blocked_tools": []}, 2),
        ]
    )
    assert effective.blocked_tools == ("shell",)


def test_22_no_allowed_domains_is_none_and_silence_inherits() -> None:
    base = layer("namespace", {"allowed_domains": ["example.com"]})
    assert merge([base, layer("id:a-1", {}, 2)]).allowed_domains == ("example.com",)
    assert merge([base, layer("id:a-1", {"allowed_domains": []}, 2)]).allowed_domains == ()
    assert merge([]).allowed_domains is None, "nobody restricts anything"


async def test_23_an_update_while_nobody_listens_is_not_lost() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    scope = LayerScope(LayerKind.AGENT_ID, agent_id)
    first = await _first_message(plane, scope, None)
    await change(plane, NAMESPACE, temperature=0.3)  # the watcher is away, nobody hears of it
    held = Held(epoch=first.position.epoch, revision=first.position.revision)
    second = await _first_message(plane, scope, held)
    assert (first.config.temperature, second.config.temperature) == (0.7, 0.3)


async def _first_message(plane: Plane, scope: LayerScope, held: Held | None) -> ConfigUpdate:
    """Watch anew, as after a lost connection, and return what comes first."""
    watch = ConfigWatch(plane.read_model, plane.hub, plane.configs, NS)
    messages = watch.events([(scope, held)], bookmark_seconds=5)
    async with asyncio.timeout(10):
        message = await anext(messages)
    assert isinstance(message, ConfigUpdate)
    return message
