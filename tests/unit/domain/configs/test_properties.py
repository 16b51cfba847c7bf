"""What must hold for every chain of layers, not only for the examples."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

from hypothesis import assume, given
from hypothesis import strategies as st

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLayer,
    EffectiveConfig,
    LayerKind,
    LayerScope,
    apply_change,
    diff,
    merge,
    narrowing_notes,
    rollback_change,
    validate_values,
)
from controlplane.domain.configs.domains import covers

Values: TypeAlias = Mapping[str, Any]

KEYS = ["namespace", "name:scout", "id:a-1", "emergency"]
LIMITS = ["max_tokens", "max_retries", "timeout_seconds", "rate_limit_rpm"]
HOSTS = ["a.com", "x.a.com", "y.x.a.com", "b.org", "x.b.org", "com"]
ENTRIES = [*HOSTS, "*.a.com", "*.x.a.com", "*.b.org", "*.com"]

json_leaf = st.one_of(
    st.booleans(),
    st.integers(-5, 5),
    st.floats(-2, 2),
    st.text("ab", max_size=2),
    st.just({}),
    st.lists(st.integers(0, 3), max_size=2),
)
extra_path = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(
    lambda keys: ".".join(["extra", *keys])
)
typed = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m1", "m2"]),
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 50),
        "max_retries": st.integers(0, 5),
        "timeout_seconds": st.floats(0.5, 60),
        "rate_limit_rpm": st.integers(0, 99),
        "blocked_tools": st.lists(st.sampled_from("pqrs"), max_size=3),
        "allowed_domains": st.lists(st.sampled_from(ENTRIES), max_size=4),
        "features.x": st.booleans(),
        "features.y": st.booleans(),
    },
)


def without_overlaps(values: Values) -> Values:
    return {
        path: value
        for path, value in values.items()
        if not any(path != other and path.startswith(other + ".") for other in values)
    }


changes = st.builds(
    lambda base, extra: base | without_overlaps(extra),
    typed,
    st.dictionaries(extra_path, json_leaf, max_size=4),
)


def build(key: str, values: Values, revision: int, wide: Iterable[str]) -> ConfigLayer:
    kind = LayerScope.parse(key).kind
    if kind is LayerKind.EMERGENCY:
        values = {path: value for path, value in values.items() if value is not True}
    values = validate_values(values, kind=kind)
    return ConfigLayer(
        scope=LayerScope.parse(key), values=values, revision=revision, may_widen=frozenset(wide)
    )


@st.composite
def chains(draw, *, widening=False):
    layers = []
    for revision, key in enumerate(KEYS, start=1):
        if draw(st.booleans()):
            may = widening and key in {"namespace", "name:scout"}
            wide = draw(st.sets(st.sampled_from([*LIMITS, "blocked_tools", "allowed_domains"])))
            layers.append(build(key, draw(changes), revision, wide if may else ()))
    return layers


def allowed_hosts(effective: EffectiveConfig) -> set[str]:
    allowed = effective.allowed_domains
    return set(HOSTS) if allowed is None else {host for host in HOSTS if covers(allowed, host)}


def limit(effective: EffectiveConfig, path: str) -> float:
    value = effective.leaf_values()[path]
    assert isinstance(value, int | float)
    return value


def assert_not_wider(
    narrow: EffectiveConfig, broad: EffectiveConfig, set_paths: Collection[str]
) -> None:
    assert allowed_hosts(narrow) <= allowed_hosts(broad)
    assert set(broad.blocked_tools) <= set(narrow.blocked_tools)
    for path in set_paths:
        assert limit(narrow, path) <= limit(broad, path)


@given(chains(), changes)
def test_a_stronger_layer_never_widens_a_bound(chain, values):
    others = [layer for layer in chain if layer.scope.kind is not LayerKind.AGENT_ID]
    after = merge([*others, build("id:a-1", values, 9, ())])
    # An emergency limit above the default binds too, but leaves the default in force until asked.
    weaker = [layer for layer in others if layer.scope.kind is not LayerKind.EMERGENCY]
    set_by_weaker = {path for layer in weaker for path in layer.values}.intersection(LIMITS)
    assert_not_wider(after, merge(others), set_by_weaker)
    for layer, path in itertools.product(others, LIMITS):
        assert limit(after, path) <= layer.values.get(path, float("inf"))


@given(chains(widening=True), changes)
def test_an_emergency_never_widens_anything(chain, values):
    others = [layer for layer in chain if layer.scope.kind is not LayerKind.EMERGENCY]
    before, after = merge(others), merge([*others, build("emergency", values, 9, ())])
    assert_not_wider(after, before, LIMITS)
    on = {name for name, enabled in before.features.items() if enabled}
    assert {name for name, enabled in after.features.items() if enabled} <= on


@given(chains(widening=True), st.randoms())
def test_the_kinds_give_the_order_not_the_caller(chain, random):
    shuffled = list(chain)
    random.shuffle(shuffled)
    assert merge(shuffled) == merge(chain)
    assert narrowing_notes(shuffled) == narrowing_notes(chain)


@given(chains(widening=True))
def test_every_leaf_names_the_layer_it_came_from(chain):
    effective = merge(chain)
    by_key = {layer.scope.key: layer for layer in chain}
    assert effective.sources.keys() == effective.leaf_values().keys()
    for path, value in effective.leaf_values().items():
        source = effective.sources[path]
        if source.kind is LayerKind.SCHEMA_DEFAULT:
            assert value == BASE_SCHEMA.fields[path].default
            continue
        layer = by_key[source.scope]
        assert source.revision == layer.revision
        if isinstance(value, list) and not path.startswith("extra."):
            assert set(effective.element_sources[path]) == set(value)
            assert all(effective.element_sources[path].values())
        else:
            assert layer.values[path] == value


@given(chains(widening=True))
def test_nothing_differs_from_itself(chain):
    assert diff(merge(chain), merge(chain)) == ()
    assert diff(merge([]), merge([])) == ()


@given(chains(widening=True), chains(widening=True))
def test_a_difference_is_exactly_what_differs(one, other):
    before, after = merge(one), merge(other)
    found = {d.path: d for d in diff(before, after)}
    old, new = before.leaf_values(), after.leaf_values()
    assert (found == {}) == (before.digest == after.digest)
    for path in old.keys() | new.keys():
        if path in found:
            assert (found[path].before, found[path].after) == (old.get(path), new.get(path))
        else:
            assert old[path] == new[path]


def apply(layer: ConfigLayer | None, set_: Values, unset: Iterable[str] = ()) -> ConfigLayer:
    return apply_change(
        layer,
        LayerScope(LayerKind.NAMESPACE),
        set_,
        unset,
        author="ana",
        reason="",
        at_ms=1,
    )


@given(changes, changes)
def test_setting_new_paths_and_unsetting_them_gives_the_original_back(values, added):
    original = build("namespace", values, 3, ())
    new = {
        path: value
        for path, value in added.items()
        if not any(f"{held}.".startswith(f"{path}.") for held in original.values)
        and not any(f"{path}.".startswith(f"{held}.") for held in original.values)
    }
    assume(new)
    assert apply(apply(original, new), {}, new).values == original.values


@given(changes, changes)
def test_a_layer_holds_only_what_somebody_set(values, more):
    assume(values and more)
    layer = apply(apply(None, values), more)
    assert set(layer.values) <= set(values) | set(more)
    assert validate_values(layer.values) == layer.values
    for one, other in itertools.permutations(layer.values, 2):
        assert not one.startswith(other + ".")


@given(changes, changes)
def test_a_rollback_is_what_was_there(values, more):
    assume(values and more)
    old = build("namespace", values, 3, ())
    restored = rollback_change(old, apply(old, more), author="ana", reason="", at_ms=2)
    assert restored.values == old.values
    assert merge([restored]).digest == merge([old]).digest


@given(chains())
def test_a_note_is_made_exactly_when_a_request_is_cut_short(chain):
    noted = {(note.scope, note.path) for note in narrowing_notes(chain)}
    for layer, path in itertools.product(chain, LIMITS):
        weaker = [x for x in chain if x.scope.kind.rank < layer.scope.kind.rank]
        bounds = [x.values[path] for x in weaker if path in x.values]
        emergency = layer.scope.kind is LayerKind.EMERGENCY
        if path in layer.values and bounds and layer.values[path] > min(bounds):
            assert (layer.scope.key, path) in noted
        elif path not in layer.values or (not bounds and not emergency and layer is chain[-1]):
            assert (layer.scope.key, path) not in noted
