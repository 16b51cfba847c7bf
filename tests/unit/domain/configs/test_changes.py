from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLayer,
    ConfigLimits,
    ConfigSchema,
    Json,
    LayerKind,
    LayerScope,
    apply_change,
    rollback_change,
)
from controlplane.domain.errors import InvalidArgument, LimitExceeded

NAMESPACE = LayerScope(LayerKind.NAMESPACE)
AGENT = LayerScope(LayerKind.AGENT_ID, "a-1")
EMERGENCY = LayerScope(LayerKind.EMERGENCY)


def held(
    values: Mapping[str, Json],
    scope: LayerScope = NAMESPACE,
    revision: int = 5,
    may_widen: Iterable[str] = (),
) -> ConfigLayer:
    return ConfigLayer(
        scope=scope, values=values, revision=revision, author="ana", may_widen=frozenset(may_widen)
    )


def change(
    layer: ConfigLayer | None,
    set_: Mapping[str, Json],
    unset: Iterable[str] = (),
    scope: LayerScope = NAMESPACE,
    **options: Any,
) -> ConfigLayer:
    given: dict[str, Any] = {"author": "bo", "reason": "trial", "at_ms": 9} | options
    return apply_change(layer, scope, set_, unset, **given)


def violations(*args: Any, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        change(*args, **options)
    return {v.field: v.description for v in caught.value.violations}


def test_the_first_change_makes_a_sparse_layer():
    layer = change(None, {"max_tokens": 8192.0})
    assert layer == ConfigLayer(
        scope=NAMESPACE, values={"max_tokens": 8192}, author="bo", reason="trial", updated_at_ms=9
    )
    assert layer.revision == 0


def test_a_change_keeps_what_it_does_not_name():
    layer = change(held({"max_tokens": 5, "features.x": True}), {"model": "m"}, ["features.x"])
    assert layer.values == {"max_tokens": 5, "model": "m"}


@pytest.mark.parametrize(
    ("before", "set_", "unset", "after"),
    [
        ({"extra.a.b": 1, "extra.ab": 2}, {}, ["extra.a"], {"extra.ab": 2}),
        ({"features.x": True, "features.y": True}, {}, ["features"], {}),
        ({"extra.a.b": 1, "extra.a.c": 2}, {"extra.a": {"b": 9}}, [], {"extra.a.b": 9}),
        ({"features.x": True}, {"features": {"y": False}}, [], {"features.y": False}),
        ({"features.x": True}, {"features.y": False}, [], {"features.x": True, "features.y": 0}),
        ({"extra.a": "x"}, {"extra.a.b": 1}, [], {"extra.a.b": 1}),
        ({"extra.a": {}}, {"extra": {"a": {"b": 1}}}, [], {"extra.a.b": 1}),
        ({"extra.a.b.c": 1}, {"extra.a": "x"}, [], {"extra.a": "x"}),
        ({"extra.a.b": 1}, {"extra.a.c": 2}, ["extra.a"], {"extra.a.c": 2}),
    ],
)
def test_set_and_unset_work_on_subtrees_of_their_layer(before, set_, unset, after):
    assert change(held(before), set_, unset).values == after


def test_unsetting_what_is_not_set_changes_nothing():
    layer = held({"max_tokens": 5})
    assert change(layer, {}, ["model", "extra.x"]) is layer


def test_setting_what_is_already_set_changes_nothing():
    layer = held({"max_tokens": 5})
    assert change(layer, {"max_tokens": 5.0}) is layer


def test_a_stored_path_the_schema_forgot_can_still_be_removed():
    layer = change(held({"old_setting": 5, "model": "m"}), {}, ["old_setting"])
    assert layer.values == {"model": "m"}


def test_everything_wrong_with_a_change_is_reported_at_once():
    wrong = violations(
        held({"features.web_search": True}),
        {"max_tokens": "many", "model": "m"},
        ["model", "web_serch", "timeout"],
        author="",
        reason="x" * 1025,
        may_widen=["model"],
        scope=AGENT,
    )
    assert wrong.keys() == {
        "set.max_tokens",
        "unset.model",
        "unset.web_serch",
        "unset.timeout",
        "scope",
        "author",
        "reason",
        "may_widen",
    }
    assert "features.web_search" in wrong["unset.web_serch"]
    assert wrong["unset.model"] == "is set and unset in one change"


def test_an_empty_change_is_refused():
    assert "nothing to change" in violations(held({}), {})["set"]


def test_a_change_of_too_many_paths_is_refused_unread():
    flood = {f"nonsense_{i}": 1 for i in range(1001)}
    assert violations(None, flood) == {"set": "a change may name at most 1,000 paths"}


def test_the_limit_counts_the_whole_layer():
    schema = ConfigSchema(limits=ConfigLimits(layer_bytes=40))
    layer = change(None, {"extra.a": "0123456789"}, schema=schema)
    with pytest.raises(LimitExceeded, match="40"):
        change(layer, {"extra.b": "0123456789"}, schema=schema)
    assert change(layer, {"extra.b": "0123456789"}, ["extra.a"], schema=schema)


def test_schema_defaults_cannot_be_written():
    assert "scope" in violations(None, {"model": "m"}, scope=LayerScope(LayerKind.SCHEMA_DEFAULT))


def test_an_emergency_layer_cannot_switch_a_feature_on():
    assert "set.features.x" in violations(None, {"features": {"x": True}}, scope=EMERGENCY)


def test_leave_to_widen_is_kept_until_it_is_replaced():
    layer = change(None, {"max_tokens": 5}, may_widen=["max_tokens"])
    assert layer.may_widen == {"max_tokens"}
    assert change(layer, {"max_tokens": 6}).may_widen == {"max_tokens"}
    assert change(layer, {}, may_widen=[]).may_widen == frozenset()
    assert change(layer, {}, may_widen=["max_tokens"]) is layer


@pytest.mark.parametrize("scope", [AGENT, EMERGENCY])
def test_only_layers_with_others_below_them_give_leave_to_widen(scope):
    wrong = violations(None, {"max_tokens": 5}, scope=scope, may_widen=["max_tokens"])
    assert wrong.keys() == {"may_widen"}


@pytest.mark.parametrize("path", ["model", "temperature", "features.x", "nonsense"])
def test_leave_to_widen_is_about_bounds(path):
    assert "max_tokens" in violations(None, {}, may_widen=[path])[f"may_widen.{path}"]


class _NeedsOwner:
    def violations(self, extra, *, sparse):
        assert sparse
        return [("owner", "must be text")] if extra.get("owner") == 1 else []


def test_the_namespace_checks_the_whole_layer_after_the_change():
    schema = BASE_SCHEMA.with_extra(_NeedsOwner())
    assert "set.extra.owner" in violations(held({"extra.owner": 1}), {"model": "m"}, schema=schema)


def roll_back(entry: ConfigLayer, current: ConfigLayer | None) -> ConfigLayer:
    return rollback_change(entry, current, author="bo", reason="back", at_ms=11)


def test_a_rollback_brings_the_sparse_values_back_as_a_new_revision():
    old = held({"max_tokens": 5}, revision=3, may_widen=["max_tokens"])
    layer = roll_back(old, held({"max_tokens": 9, "model": "m"}, revision=8))
    assert layer.values == {"max_tokens": 5}
    assert layer.may_widen == {"max_tokens"}
    assert (layer.revision, layer.restored_from) == (0, 3)
    assert (layer.author, layer.reason, layer.updated_at_ms) == ("bo", "back", 11)


def test_a_rollback_of_a_removed_layer_needs_no_current_one():
    assert roll_back(held({"model": "m"}, revision=3), None).restored_from == 3


def test_a_change_after_a_rollback_is_no_rollback():
    restored = roll_back(held({"model": "m"}, revision=3), None)
    assert change(restored, {"model": "n"}).restored_from == 0


def test_a_rollback_to_values_no_longer_accepted_is_refused():
    with pytest.raises(InvalidArgument) as caught:
        roll_back(held({"old_setting": 5, "max_tokens": 0}), None)
    fields = {v.field for v in caught.value.violations}
    assert fields == {"to_revision.old_setting", "to_revision.max_tokens"}


def test_a_rollback_stays_in_its_scope():
    with pytest.raises(InvalidArgument, match="scope"):
        roll_back(held({"model": "m"}), held({}, scope=AGENT))
