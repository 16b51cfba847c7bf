"""Page tokens that nobody issued."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.errors import DomainError, InvalidCursor
from fleetplane.v1 import registry_service_pb2
from tests.fakes.fuzzing import FUZZED, integers, messages, texts

TOKENS = PageTokens(b"s" * 32)
DIGEST = b"d" * 32

_encoded = st.binary(max_size=80).map(lambda b: base64.urlsafe_b64encode(b).decode())


@FUZZED
@given(token=texts | _encoded | st.text("AZaz09-_=", max_size=90))
def test_a_token_that_nobody_issued_is_refused(token: str) -> None:
    if not token:
        assert TOKENS.decode(token, "default", DIGEST) == ""
        return
    with pytest.raises(InvalidCursor) as refusal:
        TOKENS.decode(token, "default", DIGEST)
    assert refusal.value.violations[0].field == "page_token"


@FUZZED
@given(cursor=texts, namespace=texts, place=st.integers(0, 200), put=st.text(max_size=2))
def test_a_token_is_good_for_its_list_only_and_only_unchanged(
    cursor: str, namespace: str, place: int, put: str
) -> None:
    token = TOKENS.encode(namespace, DIGEST, cursor)
    assert TOKENS.decode(token, namespace, DIGEST) == cursor
    changed = token[:place] + put + token[place + len(put) :]
    for where, what in ((namespace + "x", DIGEST), (namespace, b"x" * 32)):
        with pytest.raises(InvalidCursor):
            TOKENS.decode(token, where, what)
    with contextlib.suppress(InvalidCursor):
        # Base64 has spare bits: another spelling of the same bytes is the same token.
        assert TOKENS.decode(changed, namespace, DIGEST) == (cursor if changed else "")


@FUZZED
@given(request=messages(registry_service_pb2.ListAgentsRequest.DESCRIPTOR), size=integers)
def test_the_arguments_of_a_list_have_a_digest_that_paging_does_not_change(
    request: registry_service_pb2.ListAgentsRequest, size: int
) -> None:
    digest = digest_of_arguments(request)
    request.page_token, request.page_size = "another", 7
    assert digest_of_arguments(request) == digest
    with contextlib.suppress(DomainError):
        assert 1 <= page_size(size) <= 1000
