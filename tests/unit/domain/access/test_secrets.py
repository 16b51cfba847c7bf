"""Secrets: one shape, recognised by digest, never repeated."""

import pytest

from controlplane.domain.access.secrets import (
    SecretKind,
    check_token_id,
    digest_of,
    is_addressed_to,
    new_secret,
    same_digest,
    token_id_in,
)
from controlplane.domain.errors import InvalidArgument

TOKEN_ID = "at-0192f0c1a2b37c3f9d0e5a6b7c8d9e0f"  # noqa: S105 - nobody has it
RANDOM = bytes(range(32))
SECRET = new_secret(TOKEN_ID, RANDOM)

MALFORMED = {
    "empty": "",
    "only the identity": TOKEN_ID,
    "no random part": f"{TOKEN_ID}.",
    "no identity": "." + "A" * 43,
    "a short random part": SECRET[:-1],
    "a long random part": SECRET + "A",
    "padding": SECRET + "=",
    "a newline behind": SECRET + "\n",
    "a space before": " " + SECRET,
    "a NUL inside": SECRET[:10] + "\0" + SECRET[11:],
    "a NUL behind": SECRET + "\0",
    "bidi inside": SECRET[:10] + "\u202e" + SECRET[11:],
    "a bidi mark behind": SECRET + "\u200f",
    "full-width letters": SECRET.replace("a", "\uff41"),
    "other base64": f"{TOKEN_ID}.{'+' * 43}",
    "upper case kind": SECRET.replace("at-", "AT-"),
    "upper case identity": SECRET.replace("f0c1", "F0C1"),
    "another kind": SECRET.replace("at-", "jt-"),
    "an unknown kind": SECRET.replace("at-", "xt-"),
    "two dots": SECRET.replace(".", ".."),
    "a slash in the identity": SECRET.replace("0192", "01/2"),
    "a lone surrogate": SECRET[:-1] + "\ud800",
    "arabic digits": SECRET.replace("0192", "\u0660192"),
    "a very long identity": "at-" + "a" * 65 + "." + "A" * 43,
}


def test_a_secret_names_its_token_and_holds_256_bits():
    token_id, _, random = SECRET.partition(".")
    assert (token_id, len(random)) == (TOKEN_ID, 43)
    assert token_id_in(SecretKind.API_TOKEN, SECRET) == TOKEN_ID


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_a_secret_names_no_token(text):
    assert token_id_in(SecretKind.API_TOKEN, text) == ""


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_no_other_text_has_the_digest_of_a_secret(text):
    assert not same_digest(digest_of(SECRET), digest_of(text))


def test_the_last_character_counts_even_where_base64_does_not_need_all_its_bits():
    twin = SECRET[:-1] + chr(ord(SECRET[-1]) + 1)
    assert token_id_in(SecretKind.API_TOKEN, twin) == TOKEN_ID
    assert not same_digest(digest_of(SECRET), digest_of(twin))


def test_no_digest_matches_a_token_that_does_not_exist():
    assert not same_digest(None, digest_of(SECRET))
    assert not same_digest(None, "0" * 64)
    assert same_digest(digest_of(SECRET), digest_of(SECRET))


@pytest.mark.parametrize(("random", "token_id"), [(b"short", TOKEN_ID), (RANDOM, "token")])
def test_a_secret_is_made_of_an_identity_and_32_random_bytes(random, token_id):
    with pytest.raises(ValueError, match=r"random bytes|no identity"):
        new_secret(token_id, random)


def test_a_text_is_addressed_to_a_kind_by_how_it_begins():
    assert is_addressed_to(SecretKind.API_TOKEN, "at-whatever")
    assert not is_addressed_to(SecretKind.API_TOKEN, "AT-whatever")
    assert not is_addressed_to(SecretKind.JOIN_TOKEN, SECRET)


@pytest.mark.parametrize("text", [SECRET, "at-", "", "at-\0", "at-A", "at-a\n", "at-\u202e"])
def test_an_identity_that_cannot_be_one_is_refused_without_being_repeated(text):
    with pytest.raises(InvalidArgument) as refused:
        check_token_id(text)
    assert refused.value.metadata == {"field": "token_id"}
    assert SECRET[-20:] not in refused.value.message
    assert check_token_id("at-bootstrap") == "at-bootstrap"
