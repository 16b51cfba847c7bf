"""The two ledgers, given the same random transactions, answer, keep and report the same."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.services.ports import (
    Append,
    AuditEntry,
    ChangeFeed,
    ClearDeadline,
    Collection,
    Committed,
    ConditionFailed,
    Count,
    Delete,
    Expect,
    Ledger,
    Position,
    Put,
    Record,
    RequestKey,
    Require,
    RequireClock,
    RequireExpired,
    ResetCount,
    SetDeadline,
    Step,
    Transaction,
)
from controlplane.storage.memory import (
    MemoryBeatLog,
    MemoryChangeFeed,
    MemoryLedger,
    MemoryStore,
)
from controlplane.storage.redis.beat_log import RedisBeatLog
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.clock import FakeClock
from tests.fakes.valkey import valkey_server

EXAMPLES = 25
"""Of up to twelve commits each: two seconds."""

KEYS = ("a", "b", "c")
HISTORIES = ("h", "g")
INSTANCES = ("i", "j")
COUNTERS = ("c", "d")
EXPIRED_MS, FAR_MS = 0, 100_000_000
"""Deadlines that have passed at once, and that never pass here: the clocks differ."""

COLLECTIONS = (Collection.NAMES, Collection.CONFIG_LAYERS, Collection.TASK_DATA)
"""Two that are followed, and one that is not."""

_collections = st.sampled_from(COLLECTIONS)
_keys = st.sampled_from(KEYS)
_instances = st.sampled_from(INSTANCES)
_numbers = st.none() | st.integers(0, 8)
_expects = st.just(Expect()) | st.builds(Expect, _numbers, _numbers)
_values = st.text(max_size=8) | st.integers(-(2**40), 2**40) | st.none() | st.binary(max_size=8)
_counters = st.sampled_from(COUNTERS)
_extremes = st.sampled_from(
    [sign * 2**power + n for sign in (-1, 1) for power in (53, 63, 80) for n in (-1, 0, 1)]
)
"""Around the ends of a counter, and of what fits into the script's arguments."""
_deltas = st.integers(-3, 5) | _extremes

_steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Put, _collections, _keys, _values, _expects, st.booleans()),
    st.builds(Delete, _collections, _keys, _expects),
    st.builds(Require, _collections, _keys, _expects),
    st.builds(Append, st.sampled_from(HISTORIES), _values, st.integers(0, 4)),
    st.builds(SetDeadline, _instances, st.sampled_from((EXPIRED_MS, FAR_MS))),
    st.builds(ClearDeadline, _instances),
    st.builds(RequireExpired, _instances),
    st.builds(RequireClock, st.sampled_from((0, 1, 2**53)), st.sampled_from((0, 1, 2**60))),
    st.builds(Count, _counters, _deltas, st.none() | st.integers(-1, 6) | _extremes),
    st.builds(ResetCount, _counters),
)
_requests = st.none() | st.builds(
    RequestKey, st.sampled_from(("r1", "r2")), st.sampled_from(("d1", "d2"))
)
_transactions = st.builds(
    Transaction,
    namespace=st.just(""),
    steps=st.lists(_steps, max_size=5).map(tuple),
    audit=st.builds(
        AuditEntry,
        actor=st.text(max_size=5),
        method=st.just("Test"),
        object=_keys,
        details=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    ),
    request=_requests,
    answer=st.text(max_size=5),
)
_batches = st.lists(st.lists(_transactions, min_size=1, max_size=4), max_size=6)


def _said(outcome: Committed | Exception) -> tuple[Any, ...]:
    """What a commit said, without the time."""
    if isinstance(outcome, Committed):
        return outcome.revision, outcome.replayed, outcome.answer
    if isinstance(outcome, ConditionFailed):
        return type(outcome), outcome.step, outcome.current_revision, outcome.current_generation
    return type(outcome), str(outcome)


def _kept(record: Record | None) -> Record | None:
    """A record without its times."""
    return record and replace(record, updated_at_ms=0, created_at_ms=0)


async def _everything(ledger: Ledger, namespace: str) -> dict[str, Any]:
    """All that the port shows of a namespace."""
    return {
        **{
            collection: [_kept(r) for r in await ledger.read(namespace, collection, KEYS)]
            for collection in COLLECTIONS
        },
        **{
            history: [_kept(r) for r in await ledger.read_history(namespace, history)]
            for history in HISTORIES
        },
        "counts": await ledger.read_counts(namespace, COUNTERS),
        "audit": [(rev, entry) for rev, _, entry in await ledger.read_audit(namespace)],
    }


async def _told(feed: ChangeFeed, namespace: str) -> set[tuple[Any, ...]]:
    """What a follower that starts from nothing is told."""
    news = await feed.catch_up(namespace, Position())
    assert not news.resync
    assert not news.more
    return {(t.collection, t.key, repr(_kept(t.record))) for t in news.touched}


class Pair:
    """A real server and the memory's, used by one example after the other."""

    def __init__(self, runner: asyncio.Runner, connection: StoreConnection) -> None:
        self.runner = runner
        self.connection = connection
        self.names = itertools.count()

    async def compare(self, batches: list[list[Transaction]]) -> None:
        namespace = f"n{next(self.names)}"
        store = MemoryStore(FakeClock())
        memory = MemoryLedger(store)
        async with RedisLedger(self.connection) as redis:
            for batch in batches:
                named = [replace(one, namespace=namespace) for one in batch]
                expected = [_said(outcome) for outcome in await memory.commit_many(named)]
                assert [_said(outcome) for outcome in await redis.commit_many(named)] == expected
            assert await _everything(redis, namespace) == await _everything(memory, namespace)
        feeds = (
            MemoryChangeFeed(store),
            RedisChangeFeed(self.connection, replica_id="r1"),
        )
        told = [await _told(feed, namespace) for feed in feeds]
        assert told[0] == told[1]
        logs = (MemoryBeatLog(store, "r1"), RedisBeatLog(self.connection, replica_id="r1"))
        deadlines = [set(await log.deadlines(namespace)) for log in logs]
        assert deadlines[0] == deadlines[1]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    async def enter() -> tuple[contextlib.AsyncExitStack, StoreConnection]:
        stack = contextlib.AsyncExitStack()
        server = await stack.enter_async_context(valkey_server(persistent=False))
        return stack, await stack.enter_async_context(StoreConnection(server.url))

    with asyncio.Runner() as runner:
        stack, connection = runner.run(enter())
        try:
            yield Pair(runner, connection)
        finally:
            runner.run(stack.aclose())


@settings(
    max_examples=EXAMPLES,
    deadline=None,  # a busy machine is no defect
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(batches=_batches)
def test_random_transactions_have_one_meaning(pair: Pair, batches: list[list[Transaction]]) -> None:
    pair.runner.run(pair.compare(batches))
