from collections.abc import Iterable, Mapping

import pytest

from controlplane.domain.configs import (
    BASE_SCHEMA,
    ConfigLayer,
    Json,
    LayerKind,
    LayerScope,
    LayerSource,
    diff,
    effective_violations,
    merge,
    narrowing_notes,
)


def layer(
    key: str, values: Mapping[str, Json], revision: int = 1, may_widen: Iterable[str] = ()
) -> ConfigLayer:
    return ConfigLayer(
        scope=LayerScope.parse(key),
        values=values,
        revision=revision,
        may_widen=frozenset(may_widen),
    )


def test_a_difference_names_both_values_and_the_layer():
    before = merge([layer("namespace", {"max_tokens": 8, "extra.a": 1})])
    after = merge(
        [
            layer("namespace", {"max_tokens": 8, "extra.a": 1}),
            layer("id:a", {"max_tokens": 4, "features.x": True}, 2),
        ]
    )
    source = LayerSource(LayerKind.AGENT_ID, "id:a", 2)
    seen = [(d.path, d.before, d.after, d.source) for d in diff(before, after)]
    assert seen == [("features.x", None, True, source), ("max_tokens", 8, 4, source)]
    undone = [(d.path, d.before, d.after) for d in diff(after, before)]
    assert undone == [("features.x", True, None), ("max_tokens", 4, 8)]


def test_a_leaf_that_is_gone_has_no_source():
    (gone,) = diff(merge([layer("namespace", {"extra.a.b": 1})]), merge([]))
    assert (gone.path, gone.before, gone.after, gone.source) == ("extra.a.b", 1, None, None)


def test_an_empty_allow_list_differs_from_none():
    (found,) = diff(merge([]), merge([layer("namespace", {"allowed_domains": []})]))
    assert (found.path, found.before, found.after) == ("allowed_domains", None, [])


def test_true_differs_from_one():
    (found,) = diff(
        merge([layer("namespace", {"extra.a": 1})]), merge([layer("namespace", {"extra.a": True})])
    )
    assert found.path == "extra.a"


def test_the_same_value_from_another_layer_is_no_difference():
    before = merge([layer("namespace", {"model": "m"})])
    assert diff(before, merge([layer("id:a", {"model": "m"}, 2)])) == ()


def test_a_request_beyond_a_bound_is_noted():
    (note,) = narrowing_notes(
        [layer("namespace", {"max_tokens": 4096}), layer("name:s", {"max_tokens": 9000})]
    )
    assert note.message == "max_tokens: asked 9000 by name:s, bound 4096 by namespace"
    assert (note.asked, note.granted, note.bound_by.scope) == (9000, 4096, "namespace")


@pytest.mark.parametrize(
    ("layers", "messages"),
    [
        ([layer("namespace", {"max_tokens": 9}), layer("id:a", {"max_tokens": 4})], []),
        ([layer("namespace", {"max_tokens": 90_000})], []),
        (
            [
                layer("namespace", {"max_tokens": 4}, may_widen=["max_tokens"]),
                layer("id:a", {"max_tokens": 9}),
            ],
            [],
        ),
        (
            [
                layer("namespace", {"blocked_tools": ["sh"]}),
                layer("id:a", {"blocked_tools": []}),
            ],
            ["blocked_tools: asked [] by id:a, bound [sh] by namespace"],
        ),
        (
            [
                layer("namespace", {"allowed_domains": ["a.com"]}),
                layer("id:a", {"allowed_domains": ["a.com", "b.com"]}),
            ],
            ["allowed_domains: asked [a.com, b.com] by id:a, bound [a.com] by namespace"],
        ),
        (
            [layer("id:a", {"max_retries": 9}), layer("emergency", {"max_retries": 0})],
            ["max_retries: asked 9 by id:a, bound 0 by emergency"],
        ),
        (
            [layer("id:a", {"max_retries": 4}), layer("emergency", {"max_retries": 7})],
            ["max_retries: asked 7 by emergency, bound 4 by id:a"],
        ),
        (
            [layer("emergency", {"max_retries": 7})],
            ["max_retries: asked 7 by emergency, bound 3 by default"],
        ),
        (
            [layer("id:a", {"features.x": True}), layer("emergency", {"features.x": False})],
            ["features.x: asked True by id:a, bound False by emergency"],
        ),
        (
            [layer("id:a", {"features.x": False}), layer("emergency", {"features.x": False})],
            [],
        ),
    ],
)
def test_only_requests_cut_short_are_noted(layers, messages):
    assert [note.message for note in narrowing_notes(layers)] == messages


def test_a_long_list_is_summed_up_in_a_note():
    tools = [f"t{i:02}" for i in range(30)]
    (note,) = narrowing_notes(
        [layer("namespace", {"blocked_tools": tools}), layer("id:a", {"blocked_tools": []})]
    )
    assert "t09, 20 more]" in note.message


class _NeedsOwner:
    def violations(self, extra, *, sparse):
        return [] if sparse or "owner" in extra else [("", "owner is required")]


def test_a_required_key_is_missed_in_what_an_agent_would_run():
    schema = BASE_SCHEMA.with_extra(_NeedsOwner())
    (wrong,) = effective_violations(merge([layer("namespace", {"extra.team": "x"})]), schema)
    assert (wrong.field, wrong.description) == ("extra", "owner is required")
    assert effective_violations(merge([layer("namespace", {"extra.owner": "x"})]), schema) == []
