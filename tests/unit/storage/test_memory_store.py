"""What only the clock of the memory store can show; the rest is in `tests/contracts`."""

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.ports import Collection, RequestKey
from controlplane.storage.memory import MemoryChangeFeed, MemoryLedger, MemoryStore
from tests.fakes.clock import FakeClock
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.transactions import NS, put_name, transaction

TEN_MINUTES = 600


async def test_a_request_is_forgotten_after_ten_minutes():
    clock = FakeClock()
    ledger = MemoryLedger(MemoryStore(clock))
    request = RequestKey("req", "digest")
    await ledger.commit(transaction(put_name("k"), request=request))
    clock.shift(TEN_MINUTES - 1)
    assert (await ledger.commit(transaction(request=request))).replayed
    clock.shift(2)
    assert await ledger.find_request(NS, request) is None
    again = await ledger.commit(transaction(put_name("k"), request=RequestKey("req", "other")))
    assert (again.replayed, again.revision) == (False, 2)


async def test_forgotten_requests_take_no_room():
    clock = FakeClock()
    store = MemoryStore(clock)
    ledger = MemoryLedger(store)
    for n in range(2000):
        clock.shift(1)
        await ledger.commit(transaction(request=RequestKey(f"req-{n}", "digest")))
    assert len(store.namespaces[NS].requests) <= TEN_MINUTES + 1


async def test_a_feed_that_was_left_hears_nothing_more():
    store = MemoryStore(FakeClock())
    async with MemoryChangeFeed(store) as feed:
        pass
    await MemoryLedger(store).commit(transaction(put_name("k")))
    assert await feed.wait(0) == frozenset()


class TestFaultyLedger:
    async def test_a_failed_call_did_nothing(self):
        inner = MemoryLedger(MemoryStore(FakeClock()))
        faulty = FaultyLedger(inner)
        faulty.fail_next()
        with pytest.raises(StoreUnavailable):
            await faulty.commit(transaction(put_name("k")))
        assert await inner.read(NS, Collection.NAMES, ["k"]) == [None]
        assert (await faulty.commit(transaction(put_name("k")))).revision == 1

    async def test_a_lost_answer_hides_a_commit_that_happened(self):
        inner = MemoryLedger(MemoryStore(FakeClock()))
        faulty = FaultyLedger(inner)
        faulty.execute_then_fail()
        request = RequestKey("req", "digest")
        with pytest.raises(StoreUnavailable):
            await faulty.commit(transaction(put_name("k"), request=request))
        assert (await faulty.commit(transaction(put_name("k"), request=request))).replayed
        assert faulty.commits == 2
