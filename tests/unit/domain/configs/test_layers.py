import msgspec
import pytest

from controlplane.domain.configs import (
    ConfigLayer,
    LayerKind,
    LayerScope,
    layer_key,
    scopes_for_agent,
)
from controlplane.domain.errors import InvalidArgument


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        (LayerScope(LayerKind.SCHEMA_DEFAULT), "default"),
        (LayerScope(LayerKind.NAMESPACE), "namespace"),
        (LayerScope(LayerKind.AGENT_NAME, "scout"), "name:scout"),
        (LayerScope(LayerKind.AGENT_NAME, "a:b"), "name:a:b"),
        (LayerScope(LayerKind.AGENT_ID, "a-1"), "id:a-1"),
        (LayerScope(LayerKind.EMERGENCY), "emergency"),
    ],
)
def test_a_scope_is_found_again_by_its_key(scope, key):
    assert scope.key == key
    assert LayerScope.parse(key) == scope


@pytest.mark.parametrize(
    "key", ["", "name", "name:", "id:", "agent:x", "NAMESPACE", "namespace:x", "name:a\n"]
)
def test_other_keys_are_refused(key):
    with pytest.raises(InvalidArgument) as caught:
        LayerScope.parse(key)
    assert caught.value.violations[0].field == "scope"


def test_a_target_fits_its_kind():
    with pytest.raises(InvalidArgument):
        LayerScope(LayerKind.NAMESPACE, "x")
    with pytest.raises(InvalidArgument, match="256 bytes"):
        LayerScope(LayerKind.AGENT_ID, "é" * 129)


def test_kinds_rank_from_defaults_to_emergency():
    assert sorted(LayerKind, key=lambda kind: kind.rank) == list(LayerKind)
    assert LayerKind.SCHEMA_DEFAULT.rank == 0


def test_the_cache_key_does_not_depend_on_the_order_given():
    layers = [
        ConfigLayer(scope=scope, revision=number)
        for number, scope in enumerate(scopes_for_agent("scout", "a-1"), start=1)
    ]
    expected = (("namespace", 1), ("name:scout", 2), ("id:a-1", 3), ("emergency", 4))
    assert layer_key(layers) == layer_key(reversed(layers)) == expected


def test_a_chain_no_agent_can_have_is_a_mistake():
    twice = [
        ConfigLayer(scope=LayerScope(LayerKind.AGENT_NAME, "a")),
        ConfigLayer(scope=LayerScope(LayerKind.AGENT_NAME, "b")),
    ]
    with pytest.raises(ValueError, match="name:b"):
        layer_key(twice)
    with pytest.raises(ValueError, match="default"):
        layer_key([ConfigLayer(scope=LayerScope(LayerKind.SCHEMA_DEFAULT))])


def test_a_layer_survives_its_encoding():
    layer = ConfigLayer(
        scope=LayerScope(LayerKind.AGENT_NAME, "scout"),
        values={"max_tokens": 5, "extra.a": [1, {"b": None}], "allowed_domains": []},
        revision=7,
        author="ana",
        reason="trial",
        updated_at_ms=1,
        may_widen=frozenset({"max_tokens"}),
        restored_from=3,
    )
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(layer), type=ConfigLayer) == layer
