"""Uses of API tokens: written at most once an hour, whoever writes them."""

import asyncio

import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.services.access.token_uses import TICK_SECONDS, TokenUses
from controlplane.services.ports import Collection
from tests.fakes.clock import START_MS
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.identity_plane import IdentityPlane


@pytest.fixture
def plane():
    return IdentityPlane()


async def written(plane):
    records = await plane.ledger.read(SYSTEM_NAMESPACE, Collection.TOKEN_USES, ("at-1", "at-2"))
    return [record.value if record is not None else None for record in records]


async def test_a_thousand_uses_are_one_write(plane):
    for _ in range(1000):
        plane.token_uses.note("at-1")
    assert await plane.token_uses.write() == 1
    (use, other) = await written(plane)
    assert (use.token_id, use.at_ms) == ("at-1", START_MS)
    assert other is None
    assert await plane.token_uses.write() == 0


async def test_within_the_hour_nothing_more_is_written(plane):
    plane.token_uses.note("at-1")
    await plane.token_uses.write()
    await plane.catch_up()
    for minutes, count in ((59, 0), (1, 1)):
        plane.clock.shift(minutes * 60)
        plane.token_uses.note("at-1")
        assert await plane.token_uses.write() == count


async def test_replicas_that_do_not_know_of_each_other_yet_write_once(plane):
    other = TokenUses(plane.ledger, plane.read_model, plane.clock)
    for uses in (plane.token_uses, other):
        uses.note("at-1")
        uses.note("at-2")
    assert await plane.token_uses.write() == 2
    assert await other.write() == 0


async def test_the_loop_outlives_a_store_that_is_away():
    plane = IdentityPlane(FaultyLedger)
    assert isinstance(plane.ledger, FaultyLedger)
    loop = asyncio.create_task(plane.token_uses.run())
    plane.token_uses.note("at-1")
    plane.ledger.fail_next()
    await plane.clock.advance(TICK_SECONDS)
    assert not loop.done()
    assert (await written(plane))[0] is None
    await plane.clock.advance(TICK_SECONDS)
    assert (await written(plane))[0] is not None
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
