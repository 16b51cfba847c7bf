"""Lists and watches of the audit."""

import asyncio
from contextlib import aclosing

import pytest

from controlplane.domain.audit.filters import EventFilter, matches
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.refusals import AuditTrimmed
from controlplane.services.audit.events import (
    CLOCK_SLACK_MS,
    LOOKED_AT_PER_PAGE,
    AuditEvent,
    EventQuery,
)
from controlplane.services.hub import namespace_topic
from tests.fakes.audit_world import NS, MemoryAuditWorld
from tests.fakes.clock import START_MS, FakeClock


async def listed(world: MemoryAuditWorld, query: EventQuery, limit: int = 3) -> list[int]:
    """Return the sequences of all pages."""
    found: list[int] = []
    cursor = 0
    while True:
        page = await world.events().page(NS, query, cursor=cursor, limit=limit)
        assert len(page.events) <= limit
        found += [event.sequence for event in page.events]
        cursor = page.cursor
        if not cursor:
            return found


@pytest.fixture
def world() -> MemoryAuditWorld:
    return MemoryAuditWorld()


@pytest.mark.parametrize(
    ("pattern", "text", "result"),
    [
        ("agent.*", "agent.registered", True),
        ("agent.*", "agents", False),
        ("*", "", True),
        ("", "", True),
        ("", "x", False),
        ("a*b*c", "axxbyyc", True),
        ("a*b*c", "axxc", False),
        ("ab*ba", "aba", False),
        ("*x*", "axb", True),
        ("a.c", "abc", False),
        ("*a*a*a*a*b", "a" * 50_000, False),
    ],
)
def test_a_pattern_means_what_it_says(pattern, text, result):
    assert matches(pattern, text) is result


async def test_pages_show_everything_once_in_either_order(world):
    await world.write(10)
    assert await listed(world, EventQuery()) == list(range(10, 0, -1))
    assert await listed(world, EventQuery(oldest_first=True)) == list(range(1, 11))
    for oldest_first in (False, True):
        query = EventQuery(after=3, before=8, oldest_first=oldest_first)
        assert sorted(await listed(world, query)) == [4, 5, 6, 7]


async def test_filters_hold_together(world):
    await world.write(3, actor="user:ann", method="UpdateConfig", event="config.updated")
    await world.write(3, actor="user:ben", method="UpdatePolicy", event="policy.updated")
    await world.write(2, actor="user:ben", method="DeletePolicy", event="policy.deleted")
    for fields, wanted in (
        ({"actor": "user:ann"}, [1, 2, 3]),
        ({"actor": "user:*"}, [*range(1, 9)]),
        ({"method": "Update*"}, [1, 2, 3, 4, 5, 6]),
        ({"event": "policy.*"}, [4, 5, 6, 7, 8]),
        ({"object_prefix": "things/1"}, [2, 5, 8]),
        ({"event": "policy.*", "object_prefix": "things/0"}, [4, 7]),
        ({"actor": "user"}, []),
    ):
        query = EventQuery(filter=EventFilter(**fields), oldest_first=True)
        assert await listed(world, query) == wanted


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_a_time_range_is_exact_even_where_times_went_back(world, oldest_first):
    minute = CLOCK_SLACK_MS
    assert isinstance(world.clock, FakeClock)
    times = [0, 1, 2, 3, 3, 2.5, 4, 5, 6, 7, 8]
    now = 0.0
    for at in times:
        world.clock.shift((at - now) * 60)
        now = at
        await world.write(1)
    query = EventQuery(
        since_ms=START_MS + 2 * minute,
        until_ms=START_MS + 6 * minute,
        oldest_first=oldest_first,
    )
    assert sorted(await listed(world, query)) == [3, 4, 5, 6, 7, 8]


async def test_a_rare_entry_is_found_over_pages_that_are_empty(world):
    await world.write(1, actor="rare")
    await world.write(LOOKED_AT_PER_PAGE + 700)
    query = EventQuery(filter=EventFilter(actor="rare"))
    page = await world.events().page(NS, query, cursor=0, limit=5)
    assert page.events == ()
    assert page.cursor
    page = await world.events().page(NS, query, cursor=page.cursor, limit=5)
    assert [event.sequence for event in page.events] == [1]
    assert page.cursor == 0


async def test_what_is_damaged_is_shown_as_such(world):
    await world.write(2)
    await world.alter_entry(2, 0)
    page = await world.events().page(NS, EventQuery(), cursor=0, limit=5)
    assert [(event.sequence, event.entry is None) for event in page.events] == [
        (2, True),
        (1, False),
    ]


class TestWatch:
    async def test_entries_come_in_their_order_and_only_those_that_are_wanted(self, world):
        await world.write(2, actor="ann")
        await world.write(2, actor="ben")
        wanted = EventFilter(actor="ann")
        async with aclosing(world.events().watch(NS, wanted, after=1)) as watching:
            assert await anext(watching) == 1
            assert await taken(watching) == 2
            following = asyncio.ensure_future(taken(watching))
            await world.write(1, actor="ben")
            await world.write(1, actor="ann")
            world.hub.notify((namespace_topic(NS),))
            async with asyncio.timeout(5):
                assert await following == 6

    async def test_from_now_on_begins_with_a_bookmark(self, world):
        await world.write(3)
        async with aclosing(world.events().watch(NS, EventFilter(), after=None)) as watching:
            assert await anext(watching) == 3

    async def test_silence_makes_bookmarks_past_what_nobody_wanted(self, world):
        await world.write(2, actor="ben")
        watch = world.events().watch(NS, EventFilter(actor="ann"), after=0, bookmark_seconds=0.01)
        async with aclosing(watch) as watching, asyncio.timeout(5):
            assert await anext(watching) == 0
            while await anext(watching) != 2:
                pass

    async def test_a_slow_reader_misses_nothing(self, world):
        await world.write(5)
        async with aclosing(world.events().watch(NS, EventFilter(), after=0)) as watching:
            assert await anext(watching) == 0
            assert await taken(watching) == 1
            await world.write(2000)
            assert [await taken(watching) for _ in range(2004)] == list(range(2, 2006))

    async def test_what_was_trimmed_is_said(self, world):
        await world.write(10)
        await world.seal()
        async with aclosing(world.events().watch(NS, EventFilter(), after=0)) as watching:
            await anext(watching)
            verified = (await world.verify()).verified
            assert isinstance(verified, Checkpoint)
            await world.keeper().trim(NS, verified, reason="", actor="ann")
            with pytest.raises(AuditTrimmed):
                await anext(watching)
        with pytest.raises(AuditTrimmed) as refusal:
            await anext(world.events().watch(NS, EventFilter(), after=9))
        assert refusal.value.metadata == {"first_sequence": "11"}
        with pytest.raises(AuditTrimmed):
            await world.events().page(NS, EventQuery(after=2), cursor=0, limit=3)


async def taken(watching) -> int:
    event = await anext(watching)
    assert isinstance(event, AuditEvent)
    return event.sequence
