import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec
import pytest

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLayer,
    ConfigSchema,
    EffectiveConfig,
    Json,
    LayerKind,
    LayerScope,
    LayerSource,
    merge,
)

Values: TypeAlias = Mapping[str, Json]

DEFAULT = LayerSource(LayerKind.SCHEMA_DEFAULT, "default", 0)


def _layer(key: str, values: Values, revision: int, may_widen: Iterable[str]) -> ConfigLayer:
    return ConfigLayer(
        scope=LayerScope.parse(key),
        values=values,
        revision=revision,
        may_widen=frozenset(may_widen),
    )


def namespace(values: Values, revision: int = 1, may_widen: Iterable[str] = ()) -> ConfigLayer:
    return _layer("namespace", values, revision, may_widen)


def name(values: Values, may_widen: Iterable[str] = ()) -> ConfigLayer:
    return _layer("name:scout", values, 2, may_widen)


def agent(values: Values, revision: int = 3) -> ConfigLayer:
    return _layer("id:a-1", values, revision, ())


def emergency(values: Values) -> ConfigLayer:
    return _layer("emergency", values, 4, ())


def test_without_layers_an_agent_runs_the_documented_defaults():
    effective = merge([])
    assert effective.leaf_values() == {
        "model": "claude-sonnet-4-6",
        "temperature": 0.7,
        "max_tokens": 4096,
        "max_retries": 3,
        "timeout_seconds": 30.0,
        "rate_limit_rpm": 60,
        "blocked_tools": [],
    }
    assert effective.allowed_domains is None
    assert effective.revision == 0
    assert set(effective.sources) == set(effective.leaf_values())
    assert set(effective.sources.values()) == {DEFAULT}


def test_a_better_default_reaches_every_agent_that_did_not_set_the_path():
    fields = dict(BASE_SCHEMA.fields)
    fields["max_tokens"] = dataclasses.replace(fields["max_tokens"], default=9000)
    newer = ConfigSchema(fields=fields)
    layers = [namespace({"temperature": 0.1})]
    assert merge(layers, newer).max_tokens == 9000
    assert merge([*layers, agent({"max_tokens": 10})], newer).max_tokens == 10


def test_a_default_is_not_a_bound():
    effective = merge([namespace({"max_tokens": 8192})])
    assert effective.max_tokens == 8192
    assert effective.sources["max_tokens"] == LayerSource(LayerKind.NAMESPACE, "namespace", 1)


@pytest.mark.parametrize("path", ["max_tokens", "max_retries", "timeout_seconds", "rate_limit_rpm"])
def test_a_limit_is_the_minimum_whoever_asks_for_more(path):
    effective = merge([namespace({path: 20}), agent({path: 90})])
    assert effective.leaf_values()[path] == 20
    assert effective.sources[path].scope == "namespace"
    narrowed = merge([namespace({path: 20}), agent({path: 5})])
    assert narrowed.leaf_values()[path] == 5
    assert narrowed.sources[path].scope == "id:a-1"


def test_preferences_follow_the_strongest_layer():
    layers = [
        namespace({"model": "m1", "temperature": 0.1, "features.x": False}),
        agent({"model": "m2", "temperature": 1.5, "features.x": True}),
    ]
    effective = merge(layers)
    assert (effective.model, effective.temperature) == ("m2", 1.5)
    assert effective.features == {"x": True}


def test_an_empty_block_list_does_not_unblock():
    effective = merge([namespace({"blocked_tools": ["shell"]}), agent({"blocked_tools": []})])
    assert effective.blocked_tools == ("shell",)


def test_block_lists_add_up_and_every_entry_names_its_layers():
    effective = merge(
        [namespace({"blocked_tools": ["rm", "shell"]}), agent({"blocked_tools": ["rm", "a"]})]
    )
    assert effective.blocked_tools == ("a", "rm", "shell")
    by_entry = effective.element_sources["blocked_tools"]
    assert [s.scope for s in by_entry["rm"]] == ["namespace", "id:a-1"]
    assert [s.scope for s in by_entry["shell"]] == ["namespace"]
    assert effective.sources["blocked_tools"].scope == "id:a-1"


@pytest.mark.parametrize(
    ("broad", "narrow", "expected"),
    [
        (["a.com", "b.com"], ["b.com", "c.com"], ("b.com",)),
        (["a.com"], [], ()),
        ([], ["a.com"], ()),
        (["a.com"], ["b.com"], ()),
        (["*.a.com"], ["x.a.com", "a.com"], ("x.a.com",)),
        (["x.a.com"], ["*.a.com"], ("x.a.com",)),
        (["*.a.com"], ["*.x.a.com", "y.b.com"], ("*.x.a.com",)),
        (["*.a.com"], ["*.a.com"], ("*.a.com",)),
        (["*.com"], ["*.a.com", "com"], ("*.a.com",)),
    ],
)
def test_allow_lists_intersect_by_meaning(broad, narrow, expected):
    layers = [namespace({"allowed_domains": broad}), agent({"allowed_domains": narrow})]
    assert merge(layers).allowed_domains == expected


def test_an_absent_allow_list_inherits():
    layers = [namespace({"allowed_domains": ["a.com"]}), agent({"max_tokens": 5})]
    assert merge(layers).allowed_domains == ("a.com",)


def test_a_layer_may_let_others_exceed_its_bound():
    wide = namespace(
        {"max_tokens": 100, "blocked_tools": ["shell"], "allowed_domains": ["a.com"]},
        may_widen=["max_tokens", "blocked_tools", "allowed_domains"],
    )
    own: Values = {"max_tokens": 900, "blocked_tools": [], "allowed_domains": ["b.com"]}
    effective = merge([wide, agent(own)])
    assert effective.max_tokens == 900
    assert effective.blocked_tools == ()
    assert effective.allowed_domains == ("b.com",)
    assert merge([wide]).max_tokens == 100


def test_leave_to_widen_covers_only_the_bound_of_that_layer():
    hard_then_soft = [
        namespace({"max_tokens": 400}),
        name({"max_tokens": 200}, may_widen=["max_tokens"]),
        agent({"max_tokens": 900}),
    ]
    assert merge(hard_then_soft).max_tokens == 400
    soft_then_hard = [
        namespace({"max_tokens": 400}, may_widen=["max_tokens"]),
        name({"max_tokens": 700}),
        agent({"max_tokens": 900}),
    ]
    effective = merge(soft_then_hard)
    assert effective.max_tokens == 700
    assert effective.sources["max_tokens"].scope == "name:scout"


def test_an_emergency_only_restricts():
    layers = [
        namespace(
            {"max_tokens": 100, "features.x": True, "allowed_domains": ["a.com", "b.com"]},
            may_widen=["max_tokens"],
        )
    ]
    effective = merge(
        [
            *layers,
            emergency(
                {
                    "max_tokens": 900,
                    "rate_limit_rpm": 500,
                    "features.x": False,
                    "allowed_domains": ["b.com"],
                    "model": "safe",
                }
            ),
        ]
    )
    assert effective.max_tokens == 100
    assert effective.rate_limit_rpm == 60
    assert effective.sources["rate_limit_rpm"] == DEFAULT
    assert effective.features == {"x": False}
    assert effective.allowed_domains == ("b.com",)
    assert effective.model == "safe"


def test_an_emergency_cannot_switch_a_feature_on():
    layers = [agent({"features.x": False}), emergency({"features.x": True, "features.y": True})]
    effective = merge(layers)
    assert effective.features == {"x": False}
    assert effective.sources["features.x"].scope == "id:a-1"


def test_objects_merge_and_lists_are_replaced():
    effective = merge(
        [
            namespace({"extra.team.color": "red", "extra.team.size": 3, "extra.hosts": [1, 2]}),
            agent({"extra.team.color": "blue", "extra.hosts": [3]}),
        ]
    )
    assert effective.extra == {"team": {"color": "blue", "size": 3}, "hosts": [3]}
    assert effective.sources["extra.team.color"].scope == "id:a-1"
    assert effective.sources["extra.team.size"].scope == "namespace"


@pytest.mark.parametrize(
    ("broad", "narrow", "expected"),
    [
        ({"extra.a.b": 1, "extra.a.c": 2}, {"extra.a": "x"}, {"a": "x"}),
        ({"extra.a": "x"}, {"extra.a.b": 1}, {"a": {"b": 1}}),
        ({"extra.a.b": 1}, {"extra.a": {}}, {"a": {"b": 1}}),
        ({"extra.a": {}}, {"extra.a.b": 1}, {"a": {"b": 1}}),
        ({"extra.a": "x"}, {"extra.a": {}}, {"a": {}}),
        ({"extra.ab": 1}, {"extra.a": 2}, {"ab": 1, "a": 2}),
    ],
)
def test_a_value_and_an_object_replace_each_other(broad, narrow, expected):
    effective = merge([namespace(broad), agent(narrow)])
    assert effective.extra == expected
    extra_sources = {path for path in effective.sources if path.startswith("extra.")}
    assert extra_sources == {path for path in effective.leaf_values() if path.startswith("extra.")}


def test_merging_does_not_touch_the_layers():
    empty = namespace({"extra.a": {}})
    merge([empty, agent({"extra.a.b": 1})])
    assert empty.values == {"extra.a": {}}


def test_paths_of_a_newer_release_are_left_out():
    assert merge([namespace({"reasoning_budget": 5})]).leaf_values() == merge([]).leaf_values()


def test_the_digest_covers_values_and_nothing_else():
    one = merge([namespace({"max_tokens": 8, "extra.a": 1, "extra.b": 2}, revision=1)])
    other = merge([agent({"extra.b": 2, "extra.a": 1, "max_tokens": 8}, revision=9)])
    assert one.digest == other.digest
    assert (one.revision, other.revision) == (1, 9)
    assert merge([]).digest == "d9624029f1f3f3ce"
    unrestricted, nothing = merge([]), merge([namespace({"allowed_domains": []})])
    assert unrestricted.digest != nothing.digest


def test_the_effective_configuration_survives_its_encoding():
    layers = [namespace({"extra.a.b": [1], "blocked_tools": ["x"], "features.f": True})]
    effective = merge(layers)
    assert msgspec.json.decode(msgspec.json.encode(effective), type=EffectiveConfig) == effective
