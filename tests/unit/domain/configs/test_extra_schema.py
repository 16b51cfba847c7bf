"""Schemas of `extra`: which are accepted, what they refuse, and that no check runs away."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from controlplane.domain.configs import BASE_SCHEMA, effective_violations, merge, validate_values
from controlplane.domain.configs.extra_validator import CompiledExtraSchema, OnlyNew
from controlplane.domain.configs.schema_document import (
    DIALECT,
    DOCUMENT_BYTES,
    PATTERN_COUNT,
    check_document,
)
from controlplane.domain.configs.schema_meter import MAX_STEPS
from controlplane.domain.errors import InvalidArgument, LimitExceeded

TEXT = {"type": "string"}


def compiled(document: dict[str, Any]) -> CompiledExtraSchema:
    check_document(document)
    return CompiledExtraSchema(document)


def nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(levels - 1):
        document = {"not": document}
    return document


@pytest.mark.parametrize(
    "document",
    [
        {"$schema": DIALECT, "$id": "https://example.com/extra", "title": "Ours", "type": "object"},
        {"$ref": "#tree", "$defs": {"t": {"$anchor": "tree", "items": {"$ref": "#/$defs/t"}}}},
        {"$defs": {"a/b c": TEXT}, "properties": {"x": {"$ref": "#/$defs/a~1b%20c"}}},
        {"definitions": {"a": TEXT}, "properties": {"x": {"$ref": "#/definitions/a"}}},
        {"properties": {"$id": TEXT, "$schema": TEXT, "unevaluatedItems": TEXT}},
        {"x-team": {"anything": [1]}, "properties": {"mail": {"format": "email"}}},
        {"properties": {"x": {"enum": [{"$ref": "nowhere"}], "default": {"$id": 1}}}},
        {"pattern": r"^\p{L}+$"},
        nested(32),
    ],
)
def test_a_schema_within_its_own_document_is_accepted(document: dict[str, Any]) -> None:
    check_document(document)
    CompiledExtraSchema(document).violations({}, sparse=True)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"type": "strin"}, "schema.type"),
        ({"properties": {"a": {"minimum": "1"}}}, "schema.properties.a.minimum"),
        ({"items": [TEXT]}, "schema.items"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "schema.$schema"),
        ({"$schema": 1}, "schema.$schema"),
        ({"properties": {"a": {"$id": "b"}}}, "schema.properties.a.$id"),
        ({"properties": {"a": {"$schema": DIALECT}}}, "schema.properties.a.$schema"),
        ({"$ref": "https://example.com/schema"}, "schema.$ref"),
        ({"$ref": "other.json#/a"}, "schema.$ref"),
        ({"$ref": "#/$defs/none"}, "schema.$ref"),
        ({"$ref": "#/properties", "properties": {}}, "schema.$ref"),
        ({"$ref": "#"}, "schema.$ref"),
        ({"anyOf": [TEXT, {"not": {"$ref": "#"}}]}, "schema*"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "schema.$defs*"),
        ({"properties": {"a": {"pattern": "(?=x)y"}}}, "schema.properties.a.pattern"),
        ({"patternProperties": {"(a": {}}}, "schema.patternProperties"),
        ({"pattern": "x" * 513}, "schema.pattern"),
        ({"unevaluatedProperties": False}, "schema.unevaluatedProperties"),
        ({"items": {"unevaluatedItems": False}}, "schema.items.unevaluatedItems"),
        ({"$dynamicRef": "#a"}, "schema.$dynamicRef"),
        (nested(33), "schema"),
    ],
)
def test_a_schema_that_cannot_be_trusted_is_refused_where_it_is_wrong(
    document: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_document(document)
    named = [violation.field for violation in refusal.value.violations]
    assert any(name.startswith(field[:-1]) if field[-1] == "*" else name == field for name in named)


@pytest.mark.parametrize(
    "document",
    [
        {"description": "x" * DOCUMENT_BYTES},
        {"allOf": [True] * 2_000},
        {"properties": {f"k{i}": {"pattern": f"^{i}"} for i in range(PATTERN_COUNT + 1)}},
    ],
)
def test_a_schema_that_is_too_large_is_refused_as_a_limit(document: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded):
        check_document(document)


@pytest.mark.parametrize(
    ("schema", "value", "path", "said"),
    [
        ({"type": "integer"}, 1.5, "x", "must be a whole number"),
        ({"type": ["string", "null"]}, 1, "x", "must be text or null"),
        ({"enum": ["a", "b"]}, "c", "x", 'must be one of "a", "b"'),
        ({"const": 3}, 4, "x", "must be 3"),
        ({"minimum": 2}, 1, "x", "must be at least 2"),
        ({"maximum": 2}, 3, "x", "must be at most 2"),
        ({"exclusiveMinimum": 2}, 2, "x", "must be more than 2"),
        ({"exclusiveMaximum": 2}, 2, "x", "must be less than 2"),
        ({"multipleOf": 0.1}, 0.25, "x", "must be a multiple of 0.1"),
        ({"minLength": 2}, "a", "x", "needs at least 2 characters"),
        ({"maxLength": 2}, "abc", "x", "may have at most 2 characters"),
        ({"pattern": "^a+$"}, "ab", "x", 'must match "^a+$"'),
        ({"minItems": 1}, [], "x", "needs at least 1 entries"),
        ({"maxItems": 1}, [1, 2], "x", "may have at most 1 entries"),
        ({"uniqueItems": True}, [1, 1.0], "x", "must not hold an entry twice"),
        ({"items": TEXT}, ["a", 1], "x[1]", "must be text"),
        ({"prefixItems": [TEXT], "items": False}, ["a", 1], "x[1]", "is not allowed"),
        ({"contains": TEXT}, [1], "x", "needs at least 1 entries as `contains` asks, has 0"),
        ({"contains": {}, "maxContains": 1}, [1, 2], "x", "may have at most 1 entries as"),
        ({"items": {"required": ["k"]}}, [{}], "x[0].k", "is required"),
        ({"properties": {"k": TEXT}}, {"k": 1}, "x.k", "must be text"),
        ({"patternProperties": {"^k": TEXT}}, {"k1": 1}, "x.k1", "must be text"),
        ({"additionalProperties": False}, {"k": 1}, "x.k", "is not allowed"),
        ({"propertyNames": {"maxLength": 1}}, {"kk": 1}, "x.kk", "is not a name that"),
        ({"maxProperties": 1}, {"a": 1, "b": 1}, "x", "may have at most 1 keys"),
        ({"dependentSchemas": {"a": {"properties": {"b": TEXT}}}}, {"a": 1, "b": 1}, "x.b", "must"),
        ({"allOf": [TEXT, {}]}, 1, "x", "must be text"),
        ({"anyOf": [TEXT, {"minimum": 5}]}, 1, "x", "fits none of the 2 alternatives"),
        ({"oneOf": [TEXT, {"minimum": 5}]}, 1, "x", "fits none of the 2 alternatives"),
        (False, 1, "x", "is not allowed"),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_wrong_value_is_named_by_its_path(
    schema: Any, value: Any, path: str, said: str, sparse: bool
) -> None:
    check = compiled({"properties": {"x": schema}})
    ((where, what),) = check.violations({"x": value}, sparse=sparse)
    assert where == path
    assert what.startswith(said)


@pytest.mark.parametrize(
    ("schema", "value", "path"),
    [
        ({"required": ["k"]}, {}, "x.k"),
        ({"minProperties": 1}, {}, "x"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "x.b"),
        ({"not": {"required": ["a"]}}, {"a": 1}, "x"),
        ({"oneOf": [{"type": "object"}, {"maxProperties": 3}]}, {"a": 1}, "x"),
        ({"if": {"required": ["a"]}, "then": {"maxProperties": 1}}, {"a": 1, "b": 1}, "x"),
        ({"if": {"required": ["a"]}, "else": False}, {"b": 1}, "x"),
        ({"const": {"a": 1, "b": 2}}, {"a": 1}, "x"),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"c": 1}, "x"),
    ],
)
def test_what_other_layers_may_still_complete_is_wrong_only_once_merged(
    schema: Any, value: Any, path: str
) -> None:
    check = compiled({"properties": {"x": schema}})
    assert check.violations({"x": value}, sparse=True) == []
    assert [where for where, _ in check.violations({"x": value}, sparse=False)] == [path]


def test_a_message_never_repeats_the_value() -> None:
    check = compiled({"properties": {"x": {"type": "integer", "enum": [1], "pattern": "^a"}}})
    found = check.violations({"x": "a-secret" * 1000}, sparse=False)
    assert found
    assert not any("secret" in what for _, what in found)


RUNAWAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "doubling": (
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)},
                "d60": {},
            },
        },
        {},
    ),
    "a long list": ({"properties": {"x": {"items": {"minimum": 0}}}}, {"x": [1] * 100_000}),
    "large constants": (
        {"properties": {"x": {"anyOf": [{"const": ["v" * 9] * 4000}] + [TEXT] * 200}}},
        {"x": [["v" * 9] * 4000] * 50},
    ),
    "a slow pattern": (
        {"properties": {"x": {"pattern": "(?:[a-h]?[a-g]?[b-h]?[a-f]?){240}z"}}},
        {"x": "abcdefgh" * 30_000},
    ),
}


@pytest.mark.parametrize("what", RUNAWAYS)
def test_a_check_that_would_run_away_is_given_up_in_time(what: str) -> None:
    document, extra = RUNAWAYS[what]
    check = compiled(document)
    before = time.process_time()
    found = check.violations(extra, sparse=False)
    spent = time.process_time() - before
    if what != "large constants":
        assert found == [("", f"takes more than {MAX_STEPS:,} steps to check against the schema")]
    assert spent < 5  # seconds of CPU; unbounded, each of them takes minutes
    assert check.violations({}, sparse=True) == [] or what == "doubling"


def test_only_what_is_new_is_reported() -> None:
    check = compiled({"additionalProperties": TEXT})
    only_new = OnlyNew(check, {"old": 1})
    assert only_new.violations({"old": 1, "fine": "x"}, sparse=True) == []
    assert only_new.violations({"old": 1, "new": 2}, sparse=True) == [("new", "must be text")]
    assert only_new.violations({"old": 2}, sparse=True) == [("old", "must be text")]


def test_an_old_fault_may_be_mended_step_by_step_but_not_replaced_by_another() -> None:
    check = compiled({"maxProperties": 1, "properties": {"l": {"items": TEXT}}})
    only_new = OnlyNew(check, {"a": 1, "b": 1, "l": [1, "x"]})
    assert only_new.violations({"a": 1, "l": [1, "x"]}, sparse=False) == []
    assert only_new.violations({"l": [2, "x"]}, sparse=False) == [("l[0]", "must be text")]


def test_layers_and_merged_configuration_are_checked_through_the_config_schema() -> None:
    schema = BASE_SCHEMA.with_extra(
        compiled({"required": ["team"], "properties": {"team": {"properties": {"color": TEXT}}}})
    )
    with pytest.raises(InvalidArgument) as refusal:
        validate_values({"extra.team": {"color": 3}}, schema=schema)
    assert [v.field for v in refusal.value.violations] == ["set.extra.team.color"]
    assert validate_values({"temperature": 1}, schema=schema)
    assert [v.field for v in effective_violations(merge(()), schema)] == ["extra.team"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.text("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["", "a", "b", "ab"])


def _applied(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(keys, inner, max_size=2)
    return st.booleans() | st.fixed_dictionaries(
        {},
        optional={
            "properties": named,
            "patternProperties": st.dictionaries(st.sampled_from(["a", "^b"]), inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
            "items": inner,
            "prefixItems": several,
            "contains": inner,
            "minContains": st.integers(0, 2),
            "allOf": several,
            "anyOf": several,
            "oneOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "dependentSchemas": named,
        },
    )


plain_schemas = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "array", "string", "number", "integer", "null"]),
        "enum": st.lists(json_values, min_size=1, max_size=3),
        "const": json_values,
        "required": st.lists(keys, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(keys, st.lists(keys, max_size=1), max_size=1),
        "minProperties": st.integers(0, 2),
        "maxProperties": st.integers(0, 2),
        "minItems": st.integers(0, 2),
        "maxLength": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "minimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 2),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "pattern": st.sampled_from(["a", "^b+$"]),
    },
)
schemas = st.recursive(plain_schemas, _applied, max_leaves=6).filter(
    lambda one: isinstance(one, dict)
)
objects = st.dictionaries(keys, json_values, max_size=3)


@settings(max_examples=300, deadline=None)
@given(schemas, objects)
def test_a_whole_value_is_judged_as_json_schema_says(
    document: dict[str, Any], extra: dict[str, Any]
) -> None:
    ours = CompiledExtraSchema(document).violations(extra, sparse=False) == []
    assert ours == Draft202012Validator(document).is_valid(extra)


def _parts(value: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that lack some keys of `value`, at any level outside of lists."""
    inner = {k: _parts(v) if isinstance(v, dict) else st.just(v) for k, v in value.items()}
    return st.fixed_dictionaries({}, optional=inner)


@settings(max_examples=300, deadline=None)
@given(schemas, objects.flatmap(lambda whole: st.tuples(st.just(whole), _parts(whole))))
def test_no_part_of_a_right_value_is_refused_as_a_layer(
    document: dict[str, Any], values: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    whole, part = values
    check = CompiledExtraSchema(document)
    if check.violations(whole, sparse=False) == []:
        assert check.violations(part, sparse=True) == []
