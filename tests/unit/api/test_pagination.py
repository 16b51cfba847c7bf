import base64

import pytest

from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.errors import InvalidArgument, InvalidCursor
from fleetplane.v1 import registry_service_pb2 as pb

SECRET = b"0123456789abcdef"
TOKENS = PageTokens(SECRET)
DIGEST = digest_of_arguments(pb.ListAgentsRequest())


def test_a_token_comes_back_as_its_cursor():
    token = TOKENS.encode("default", DIGEST, "agent-ü")
    assert TOKENS.decode(token, "default", DIGEST) == "agent-ü"


def test_a_replica_with_the_same_secret_accepts_it():
    token = TOKENS.encode("default", DIGEST, "agent-1")
    assert PageTokens(SECRET).decode(token, "default", DIGEST) == "agent-1"


def test_no_token_is_the_first_page():
    assert TOKENS.decode("", "default", DIGEST) == ""


def test_a_token_of_another_namespace_or_list_or_secret_is_refused():
    token = TOKENS.encode("default", DIGEST, "agent-1")
    other = digest_of_arguments(pb.ListAgentsRequest(filter=pb.AgentFilter(name="x")))
    for tokens, namespace, digest in (
        (TOKENS, "other", DIGEST),
        (TOKENS, "default", other),
        (PageTokens(b"f" * 16), "default", DIGEST),
    ):
        with pytest.raises(InvalidCursor) as caught:
            tokens.decode(token, namespace, digest)
        assert caught.value.violations[0].field == "page_token"


def test_every_changed_byte_is_noticed():
    token = TOKENS.encode("default", DIGEST, "agent-1")
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for position in range(len(raw)):
        forged = bytearray(raw)
        forged[position] ^= 1
        with pytest.raises(InvalidCursor):
            TOKENS.decode(base64.urlsafe_b64encode(forged).decode(), "default", DIGEST)


@pytest.mark.parametrize("token", ["x", "!!!!", "ü", "AAAA", "A" * 5000, " ", "abc\n"])
def test_garbage_is_refused(token):
    with pytest.raises(InvalidCursor):
        TOKENS.decode(token, "default", DIGEST)


def test_a_namespace_cannot_bleed_into_the_arguments():
    assert TOKENS.encode("ab", b"c", "d") != TOKENS.encode("a", b"bc", "d")


def test_only_the_fields_of_paging_may_change_from_page_to_page():
    paged = pb.ListAgentsRequest(page_size=7, page_token="token", min_revision=9)  # noqa: S106
    assert digest_of_arguments(paged) == DIGEST
    assert digest_of_arguments(pb.ListAgentsRequest(include_instances=True)) != DIGEST
    assert digest_of_arguments(pb.DiscoverRequest()) != DIGEST


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        PageTokens(b"short")


@pytest.mark.parametrize(("value", "size"), [(0, 100), (1, 1), (1000, 1000)])
def test_a_page_size_in_range_is_taken(value, size):
    assert page_size(value) == size


@pytest.mark.parametrize("value", [-1, 1001])
def test_a_page_size_out_of_range_is_refused(value):
    with pytest.raises(InvalidArgument) as caught:
        page_size(value)
    assert caught.value.violations[0].field == "page_size"
