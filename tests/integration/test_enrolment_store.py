"""Enrolment on a real store: the conditions and the count are those of its script."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE, ApiToken, uses_counter
from controlplane.domain.access.refusals import AgentBanned, CredentialRevoked
from controlplane.domain.errors import RequestIdReused
from controlplane.services.ports import Collection, RequestKey
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.credentials import GOOD_CSR
from tests.fakes.identity_plane import ADMIN, HOUR_MS, NOBODY, IdentityPlane, agent_caller
from tests.fakes.valkey import valkey_server

DEFAULT = "default"


@pytest.fixture
async def plane() -> AsyncIterator[IdentityPlane]:
    """Return a plane whose ledger is a real store; its read model stays empty."""
    async with (
        valkey_server(persistent=False) as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection) as ledger,
    ):
        yield IdentityPlane(lambda _: ledger)


async def test_uses_are_counted_exactly_once_under_fifty_enrolments_at_a_time(plane):
    minted = await plane.join_token(DEFAULT, max_uses=7)
    outcomes = await asyncio.gather(
        *(
            plane.enrolment.enroll(minted.secret, f"agent-{number}", GOOD_CSR, caller=NOBODY)
            for number in range(50)
        ),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert {type(one) for one in refused} == {CredentialRevoked}
    assert len(outcomes) - len(refused) == 7
    counter = uses_counter(minted.token.token_id)
    assert await plane.ledger.read_counts(SYSTEM_NAMESPACE, [counter]) == [7]


async def test_a_ban_ends_renewals(plane):
    caller = agent_caller("ann", DEFAULT)
    await plane.enrolment.renew(GOOD_CSR, caller=caller)
    await plane.bans.ban(DEFAULT, "ann", reason="", caller=ADMIN)
    with pytest.raises(AgentBanned):
        await plane.enrolment.renew(GOOD_CSR, caller=caller)
    await plane.bans.unban(DEFAULT, "ann", reason="", caller=ADMIN)
    await plane.enrolment.renew(GOOD_CSR, caller=caller)


async def test_tokens_are_kept_as_they_were_made_and_requests_make_one(plane):
    request = RequestKey("req-1", "digest")
    minted = await plane.api_token(DEFAULT, request=request, ttl_ms=HOUR_MS)
    token_id = minted.token.token_id
    (record,) = await plane.ledger.read(SYSTEM_NAMESPACE, Collection.API_TOKENS, (token_id,))
    kept: ApiToken = record.value
    assert kept == minted.token
    with pytest.raises(RequestIdReused) as refused:
        await plane.api_token(DEFAULT, request=request, ttl_ms=HOUR_MS)
    assert refused.value.metadata["token_id"] == token_id


async def test_replicas_that_start_together_make_one_administrator(plane):
    secrets = await asyncio.gather(*(plane.api_tokens.bootstrap_admin() for _ in range(10)))
    assert sum(secret is not None for secret in secrets) == 1
