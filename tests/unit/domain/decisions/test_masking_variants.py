"""What must not be recorded is not recorded, however the path or the claims are written."""

import unicodedata

import pytest

from controlplane.domain.decisions.masking import Mask
from controlplane.domain.decisions.records import MASKED

NUMBER = "4111-1111"


@pytest.mark.parametrize(
    "path",
    ["card.number", "claim.card.number", "context.card.number", "$.card.number", "*.number"],
)
def test_a_path_may_be_written_as_attributes_of_policies_or_as_jsonpath(path):
    masked, hit = Mask((path,)).apply({"card": {"number": NUMBER, "kind": "visa"}})
    assert masked == {"card": {"number": MASKED, "kind": "visa"}}
    assert hit == ("card.number",)


@pytest.mark.parametrize(
    "claims",
    [
        {"card.number": NUMBER},
        {"a.b": {"card.number": NUMBER}, "card.number": [NUMBER]},
        {"card": {"holder": "ann"}, "card.number": NUMBER},
    ],
)
def test_keys_with_dots_are_found_by_the_dotted_path(claims):
    masked, hit = Mask(("card.number", "a.b.card.number")).apply(claims)
    assert NUMBER not in str(masked)
    assert "card.number" in hit


def test_a_whole_that_is_hidden_stays_hidden_beside_its_parts():
    claims = {"card.number": NUMBER, "card": {"number": NUMBER}}
    masked, _ = Mask(("card.number", "card", "card.number")).apply(claims)
    assert masked == {"card.number": MASKED, "card": MASKED}


def test_elements_of_lists_may_be_named_as_in_jsonpath():
    masked, _ = Mask(("$.users[*].token",)).apply({"users": [{"token": "s3cret"}, {"id": 1}]})
    assert masked == {"users": [{"token": MASKED}, {"id": 1}]}


def test_letters_of_paths_are_compared_as_those_of_claims():
    key = unicodedata.normalize("NFC", "clé")
    masked, _ = Mask((unicodedata.normalize("NFD", "clé"),)).apply({key: "s3cret"})
    assert masked == {key: MASKED}


def test_a_claim_that_is_called_like_a_prefix_is_hidden_as_well():
    masked, _ = Mask(("context.token",)).apply({"context": {"token": "a"}, "token": "b"})
    assert masked == {"context": {"token": MASKED}, "token": MASKED}
