"""Recorded decisions are found again: by id, by what they have in common, page by page."""

import asyncio

import pytest

from controlplane.domain.decisions.query import DecisionQuery
from controlplane.domain.decisions.records import DecisionGap, DecisionRecord
from controlplane.domain.decisions.refusals import DecisionNotFound
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import DecisionReason, Effect, Policy
from controlplane.services.policies import recorded_decisions
from controlplane.services.policies.decision_history import DecisionHistory
from controlplane.services.policies.decision_log_port import DecisionBatch
from controlplane.services.policies.recorded_decisions import DecisionPage
from tests.fakes.decision_world import DecisionWorld
from tests.fakes.plane import NS

POLICIES = (
    Policy(policy_id="no-writes", action=Effect.DENY, conditions={"action": "db:write"}),
    Policy(policy_id="watch", action=Effect.LOG_ONLY, conditions={"environment": "staging"}),
    Policy(policy_id="may-write", action=Effect.ALLOW, conditions={"action": "db:write"}),
)
EVERYTHING = DecisionQuery()


async def pages(
    world: DecisionWorld, query: DecisionQuery = EVERYTHING, *, limit: int = 100
) -> list[DecisionPage]:
    """Return all pages of a search."""
    found: list[DecisionPage] = []
    cursor = ""
    while not found or cursor:
        found.append(await world.recorded.query(NS, query, cursor=cursor, limit=limit))
        cursor = found[-1].next_cursor
    return found


async def found(
    world: DecisionWorld, query: DecisionQuery = EVERYTHING, *, limit: int = 100
) -> list[DecisionRecord | DecisionGap]:
    return [entry for page in await pages(world, query, limit=limit) for entry in page.entries]


def decisions_of(*shown: DecisionPage) -> list[DecisionRecord]:
    """Return the decisions of pages that show no gap."""
    entries = [entry for page in shown for entry in page.entries]
    records = [entry for entry in entries if isinstance(entry, DecisionRecord)]
    assert records == entries
    return records


async def decisions(
    world: DecisionWorld, query: DecisionQuery = EVERYTHING
) -> list[DecisionRecord]:
    return decisions_of(*await pages(world, query))


class TestGet:
    async def test_a_decision_is_found_by_its_id(self):
        world = await DecisionWorld().start(*POLICIES)
        answers = []
        for n in range(50):
            answers.append(world.asks("db:write", n=n))
            await world.clock.advance(0.3)
            await world.flush()

        for answer in answers:
            record = await world.recorded.get(NS, answer.decision_id)
            assert record.decision_id == answer.decision_id
            assert record.decision == answer.decision

    async def test_those_of_other_replicas_and_of_earlier_lives_are_found(self):
        world = await DecisionWorld().start()
        first = world.asks()
        await world.flush()
        world.replica()
        second = world.asks()
        await world.flush()

        for answer in (first, second):
            found_again = await world.recorded.get(NS, answer.decision_id)
            assert found_again.decision_id == answer.decision_id

    async def test_one_that_the_store_took_late_is_found(self):
        world = await DecisionWorld().start()
        answer = world.asks()
        await world.clock.advance(9 * 60)
        await world.flush()

        assert (await world.recorded.get(NS, answer.decision_id)).at_ms == answer.request.now_ms

    async def test_one_that_was_just_made_is_waited_for(self):
        world = await DecisionWorld().start()
        answer = world.asks()
        asking = asyncio.create_task(world.recorded.get(NS, answer.decision_id))
        await world.clock.advance(0.2)
        assert not asking.done()
        await world.flush()
        await world.clock.advance(0.2)

        assert (await asking).decision_id == answer.decision_id

    async def test_one_that_nobody_knows_is_not(self):
        world = await DecisionWorld().start()
        answer = world.asks()
        await world.flush()
        await world.clock.advance(60)
        unknown = answer.decision_id[:-1] + "0"

        with pytest.raises(DecisionNotFound):
            await world.recorded.get(NS, unknown)
        with pytest.raises(DecisionNotFound):
            await world.recorded.get("other", answer.decision_id)

    async def test_what_is_no_id_is_refused(self):
        with pytest.raises(InvalidArgument, match="decision_id"):
            await DecisionWorld().recorded.get(NS, "dec-1")


class TestQuery:
    async def test_all_come_newest_first(self):
        world = await DecisionWorld().start()
        made = []
        for n in range(25):
            made.append(world.asks().decision_id)
            if n % 4 == 0:
                await world.flush()
        await world.flush()

        records = await decisions(world)
        assert [record.decision_id for record in records] == made[::-1]

    @pytest.mark.parametrize("limit", [1, 2, 7, 24, 25, 26])
    async def test_pages_hold_each_once_whatever_their_size(self, limit):
        world = await DecisionWorld().start()
        made = []
        for n in range(25):
            made.append(world.asks().decision_id)
            if n % 4 == 0:
                await world.flush()
        await world.flush()

        sized = await pages(world, limit=limit)
        assert all(len(page.entries) <= limit for page in sized)
        assert [one.decision_id for one in decisions_of(*sized)] == made[::-1]

    async def test_what_is_made_meanwhile_does_not_shift_pages(self):
        world = await DecisionWorld().start()
        made = [world.asks().decision_id for _ in range(10)]
        await world.flush()
        first = await world.recorded.query(NS, EVERYTHING, cursor="", limit=4)
        world.asks()
        await world.flush()
        rest = await world.recorded.query(NS, EVERYTHING, cursor=first.next_cursor, limit=100)

        assert [one.decision_id for one in decisions_of(first, rest)] == made[::-1]

    @pytest.mark.parametrize(
        ("query", "actions"),
        [
            ({"action": "db:*"}, ["db:read", "db:write"]),
            ({"action": "db:read"}, ["db:read"]),
            ({"action": "**"}, ["files:read", "db:read", "db:write"]),
            ({"effects": frozenset({Effect.DENY})}, ["db:write"]),
            ({"effects": frozenset({Effect.ALLOW, Effect.DENY})}, ["db:read", "db:write"]),
            ({"reasons": frozenset({DecisionReason.LOG_ONLY})}, ["files:read"]),
            ({"policy_id": "no-writes"}, ["db:write"]),
            ({"policy_id": "may-write"}, ["db:write"]),
            ({"policy_id": "watch"}, ["files:read", "db:read", "db:write"]),
            ({"policy_id": "none"}, []),
            ({"agent_name": "researcher"}, ["files:read", "db:read", "db:write"]),
            ({"agent_name": "other"}, []),
            ({"agent_id": "nobody"}, []),
            ({"session_id": "s-1"}, ["files:read", "db:read", "db:write"]),
            ({"session_id": "s-2"}, []),
            ({"tool": "psql"}, []),
            ({"action": "db:*", "effects": frozenset({Effect.ALLOW})}, ["db:read"]),
        ],
    )
    async def test_what_is_asked_for_must_all_hold(self, query, actions):
        world = await DecisionWorld().start(*POLICIES)
        world.asks("db:write")
        world.asks("db:read")
        world.asks("files:read", environment="staging")
        await world.flush()

        records = await decisions(world, DecisionQuery(**query))
        assert [record.action for record in records] == actions

    async def test_a_time_range_is_that_of_the_decisions(self):
        world = await DecisionWorld().start()
        times = []
        for n in range(20):
            times.append(world.clock.store_ms())
            world.asks(n=n)
            if n % 3 == 0:
                await world.flush()
            await world.clock.advance(10)
        await world.flush()

        for first, last in ((0, 20), (5, 15), (19, 20), (0, 1), (7, 8)):
            end = times[last] if last < len(times) else times[-1] + 1
            query = DecisionQuery(from_ms=times[first], to_ms=end)
            numbers = [record.claims["n"] for record in await decisions(world, query)]
            assert numbers == list(range(last - 1, first - 1, -1))

    async def test_a_gap_is_shown_whatever_is_searched_for(self):
        world = await DecisionWorld(max_records=20).start(*POLICIES)
        world.log.away = True
        world.asks("db:read")
        await world.flusher.round()
        for _ in range(30):
            world.asks("db:read")
        world.log.away = False
        await world.flush()
        world.asks("db:write")
        await world.flush()
        for limit in (1, 2, 100):
            entries = await found(
                world, DecisionQuery(effects=frozenset({Effect.DENY})), limit=limit
            )
            assert isinstance(entries[0], DecisionRecord)
            assert isinstance(entries[1], DecisionGap)
            assert entries[1].number_lost == 21
            assert len(entries) == 2

    async def test_a_page_looks_at_a_bounded_part(self, monkeypatch):
        monkeypatch.setattr(recorded_decisions, "LOOKED_AT", 30)
        world = await DecisionWorld().start()
        for _ in range(12):
            for _ in range(10):
                world.asks("db:read")
            await world.flush()
        wanted = DecisionQuery(action="none")

        sized = await pages(world, wanted)
        assert all(page.scanned <= 30 for page in sized)
        assert sum(page.scanned for page in sized) == 120
        assert len(sized) == 4
        assert all(page.entries == () for page in sized)

    async def test_batches_that_are_skipped_are_bounded_as_well(self, monkeypatch):
        monkeypatch.setattr(recorded_decisions, "SKIPPED", 5)
        world = await DecisionWorld().start()
        for _ in range(20):
            world.asks()
            await world.flush()
        later = world.clock.store_ms() + 1

        sized = await pages(world, DecisionQuery(from_ms=later, to_ms=later + 1))
        assert len(sized) == 4
        assert sum(page.scanned for page in sized) == 0

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"from_ms": 5, "to_ms": 5}, "to"),
            ({"action": "***"}, "action"),
            ({"action": "a" * 513}, "action"),
        ],
    )
    async def test_what_cannot_be_meant_is_refused(self, query, field):
        with pytest.raises(InvalidArgument) as refusal:
            await DecisionWorld().recorded.query(NS, DecisionQuery(**query), cursor="", limit=1)
        assert refusal.value.violations[0].field == field

    async def test_what_a_newer_release_wrote_is_passed_over(self):
        world = await DecisionWorld().start()
        world.asks()
        await world.flush()
        await world.log.append(
            NS,
            DecisionBatch(
                source="new", sequence=1, count=1, first_ms=1, last_ms=10**15, packed=b"\x09?"
            ),
        )
        world.asks()
        await world.flush()

        assert len(await found(world)) == 2


class TestHistory:
    async def test_it_yields_the_newest_first_up_to_a_limit(self):
        world = await DecisionWorld().start()
        made = []
        for n in range(30):
            made.append(world.asks().decision_id)
            if n % 7 == 0:
                await world.flush()
        await world.flush()
        history = DecisionHistory(world.log)

        async def ids(limit: int) -> list[str]:
            return [one.decision_id async for one in history.newest(NS, limit=limit)]

        assert await ids(100) == made[::-1]
        assert await ids(5) == made[:-6:-1]
        assert await ids(0) == []
