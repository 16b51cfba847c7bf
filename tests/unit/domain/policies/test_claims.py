"""What callers may send as context."""

from types import MappingProxyType
from typing import Any

import pytest

from fleetplane_policy import (
    CLAIM_BYTES_LIMIT,
    CLAIM_DEPTH_LIMIT,
    MalformedInput,
    is_identifier,
    validate_claims,
)


def nested(levels: int) -> dict[str, Any]:
    claims: dict[str, Any] = {}
    for _ in range(levels - 1):
        claims = {"k": claims}
    return claims


def test_json_passes_unchanged() -> None:
    claims = {"a": 1, "b": [1.5, None, True, {"c": "x"}], "d": {}, "e": -(2**1024) + 1}
    assert validate_claims(claims) == claims


def test_any_mapping_is_read_as_an_object() -> None:
    assert validate_claims({"a": MappingProxyType({"b": (1, 2)})}) == {"a": {"b": [1, 2]}}


def test_what_is_handed_out_is_a_copy() -> None:
    claims = {"a": "x"}
    assert validate_claims(claims) is not claims


def test_text_is_normalised_keys_and_values_alike() -> None:
    assert validate_claims({"cafe\u0301": ["cafe\u0301", "漢字"]}) == {
        "caf\u00e9": ["caf\u00e9", "漢字"]
    }


def test_the_depth_limit_is_inclusive() -> None:
    validate_claims(nested(CLAIM_DEPTH_LIMIT))
    with pytest.raises(MalformedInput, match="deeper than 64"):
        validate_claims(nested(CLAIM_DEPTH_LIMIT + 1))
    lists: Any = []
    for _ in range(100_000):
        lists = [lists]
    with pytest.raises(MalformedInput, match="deeper than 64"):
        validate_claims({"k": lists})


def test_the_size_limit_holds_and_ends_the_walk() -> None:
    validate_claims({"k": "x" * (CLAIM_BYTES_LIMIT - 100)})
    for claims in (
        {"k": "x" * CLAIM_BYTES_LIMIT},
        {"k": "é" * (CLAIM_BYTES_LIMIT // 2)},
        {"k": [0] * CLAIM_BYTES_LIMIT},
        {f"k{i}": i for i in range(CLAIM_BYTES_LIMIT // 4)},
    ):
        with pytest.raises(MalformedInput, match="larger than 1048576 bytes"):
            validate_claims(claims)


@pytest.mark.parametrize(
    ("claims", "field", "why"),
    [
        ({"a": float("nan")}, "context.a", "finite"),
        ({"a": [{"b": {"c": float("nan")}}]}, "context.a[0].b.c", "finite"),
        ({"a": [0, float("-inf")]}, "context.a[1]", "finite"),
        ({"a": 2**1024}, "context.a", "double"),
        ({"a": {1: "x"}}, "context.a", "not a string"),
        ({"a": "\udc80"}, "context.a", "surrogate"),
        ({"\udc80": 1}, "context", "surrogate"),
        ({"a": b"x"}, "context.a", "bytes"),
        ({"a": {"x", "y"}}, "context.a", "set"),
        ({"\u00e9": 1, "e\u0301": 2}, "context", "twice"),
    ],
)
def test_what_json_cannot_say_is_refused(claims: dict[Any, Any], field: str, why: str) -> None:
    with pytest.raises(MalformedInput, match=why) as refused:
        validate_claims(claims)
    assert refused.value.violations[0].field == field


def test_all_violations_are_listed_but_not_without_end() -> None:
    with pytest.raises(MalformedInput) as refused:
        validate_claims({f"k{i}": float("nan") for i in range(100)}, field="claims")
    assert len(refused.value.violations) == 20
    assert refused.value.violations[0].field == "claims.k0"


@pytest.mark.parametrize("text", ["read", "db:users:write", "a/b.c-d_E9", "x" * 256])
def test_identifiers(text: str) -> None:
    assert is_identifier(text)


@pytest.mark.parametrize("text", ["", "a b", "é", "a*", "x" * 257])
def test_other_text_names_nothing(text: str) -> None:
    assert not is_identifier(text)
