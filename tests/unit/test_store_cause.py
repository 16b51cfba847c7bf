"""What the log says of a store that cannot be reached."""

from typing import Any

import pytest

from controlplane.app import _cause_of
from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.connection import StoreConnection


def caused_by(cause: Exception | None) -> StoreUnavailable:
    failure = StoreUnavailable()
    failure.__cause__ = cause
    return failure


@pytest.mark.parametrize(
    ("url", "cause", "said"),
    [
        ("redis://host:1", ConnectionError("refused"), "ConnectionError: refused"),
        ("redis://host:1", TimeoutError("Timeout connecting"), "TimeoutError: Timeout connecting"),
        ("rediss://host:1", ConnectionError("refused"), "ConnectionError: refused"),
        ("redis://host:1", None, "the store is unavailable"),
    ],
)
async def test_the_cause_is_what_the_client_of_the_store_said(
    url: str, cause: Any, said: str
) -> None:
    async with StoreConnection(url, client_name="test") as connection:
        assert _cause_of(caused_by(cause), connection) == said


async def test_a_port_that_may_not_speak_tls_is_named_as_a_cause() -> None:
    async with StoreConnection("rediss://host:1", client_name="test") as connection:
        said = _cause_of(caused_by(TimeoutError("Timeout connecting to server")), connection)
    assert "rediss:// needs a port that speaks TLS" in said
