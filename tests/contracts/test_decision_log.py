"""What every `DecisionLog` promises."""

import asyncio

from controlplane.services.policies.decision_log_port import (
    DecisionBatch,
    DecisionLog,
    place_at,
)
from tests.fakes.transactions import NS

FOREVER_MS = 10**12


def batch(sequence: int = 1, source: str = "r1", **fields) -> DecisionBatch:
    return DecisionBatch(
        source=source,
        sequence=sequence,
        count=fields.get("count", 3),
        first_ms=fields.get("first_ms", 1_000),
        last_ms=fields.get("last_ms", 2_000),
        packed=fields.get("packed", b"\x00packed\xff"),
    )


async def sequences(log: DecisionLog, namespace: str = NS) -> list[int]:
    """Return the numbers of all batches, newest first."""
    return [stored.batch.sequence for stored in await log.newest(namespace, limit=1_000)]


async def filled(log: DecisionLog, number: int, **fields) -> list[str]:
    """Append so many batches; return their places, in order."""
    for sequence in range(1, number + 1):
        assert await log.append(NS, batch(sequence, **fields))
    return [stored.place for stored in reversed(await log.newest(NS, limit=number))]


class TestAppend:
    async def test_what_was_appended_is_read_as_it_was(self, world):
        log = world.decision_log()
        assert await log.append(NS, batch())
        (stored,) = await log.newest(NS, limit=10)
        assert stored.batch == batch()
        assert stored.at_ms > 0

    async def test_a_repetition_is_not_written_again(self, world):
        log = world.decision_log()
        assert await log.append(NS, batch(1))
        assert await log.append(NS, batch(2))
        assert not await log.append(NS, batch(2))
        assert not await log.append(NS, batch(1, packed=b"other"))
        assert await sequences(log) == [2, 1]

    async def test_sources_count_for_themselves(self, world):
        log = world.decision_log()
        assert await log.append(NS, batch(5, source="r1"))
        assert await log.append(NS, batch(1, source="r2"))
        assert await sequences(log) == [1, 5]

    async def test_two_repetitions_at_once_are_one(self, world):
        log = world.decision_log()
        outcomes = await asyncio.gather(*(log.append(NS, batch()) for _ in range(8)))
        assert sorted(outcomes) == [False] * 7 + [True]
        assert await sequences(log) == [1]

    async def test_namespaces_are_apart(self, world):
        log = world.decision_log()
        await log.append(NS, batch(1))
        await log.append("other", batch(7))
        assert await sequences(log) == [1]
        assert await sequences(log, "other") == [7]


class TestReading:
    async def test_an_empty_log_has_nothing(self, world):
        log = world.decision_log()
        assert list(await log.newest(NS, limit=10)) == []
        assert list(await log.oldest(NS, after=place_at(0), to_ms=FOREVER_MS * 10, limit=10)) == []

    async def test_newest_goes_on_below_a_place(self, world):
        log = world.decision_log()
        await filled(log, 5)
        first = await log.newest(NS, limit=2)
        rest = await log.newest(NS, before=first[-1].place, limit=10)
        assert [s.batch.sequence for s in (*first, *rest)] == [5, 4, 3, 2, 1]
        assert list(await log.newest(NS, before=rest[-1].place, limit=10)) == []
        assert list(await log.newest(NS, before=place_at(0), limit=10)) == []

    async def test_newest_ends_at_a_time(self, world):
        log = world.decision_log()
        await log.append(NS, batch(1))
        await world.pass_ms(20)
        await log.append(NS, batch(2))
        newest = (await log.newest(NS, limit=1))[0]
        found = await log.newest(NS, from_ms=newest.at_ms, limit=10)
        assert [s.batch.sequence for s in found] == [2]

    async def test_oldest_goes_on_above_a_place_and_ends_at_a_time(self, world):
        log = world.decision_log()
        await log.append(NS, batch(1))
        await log.append(NS, batch(2))
        await world.pass_ms(20)
        await log.append(NS, batch(3))
        places = [s.place for s in reversed(await log.newest(NS, limit=10))]
        last_ms = (await log.newest(NS, limit=1))[0].at_ms
        everything = await log.oldest(NS, after=place_at(0), to_ms=last_ms, limit=10)
        assert [s.batch.sequence for s in everything] == [1, 2, 3]
        earlier = await log.oldest(NS, after=places[0], to_ms=last_ms - 1, limit=10)
        assert [s.batch.sequence for s in earlier] == [2]
        assert len(await log.oldest(NS, after=place_at(0), to_ms=last_ms, limit=2)) == 2

    async def test_any_time_is_a_place(self, world):
        log = world.decision_log()
        await filled(log, 3)
        at_ms = (await log.newest(NS, limit=1))[0].at_ms
        assert list(await log.newest(NS, before=place_at(at_ms - 60_000), limit=10)) == []
        assert len(await log.newest(NS, before=place_at(at_ms + 60_000), limit=10)) == 3


class TestTrim:
    async def test_a_log_within_its_bounds_keeps_everything(self, world):
        log = world.decision_log()
        await filled(log, 3)
        assert await log.trim(NS, keep_ms=FOREVER_MS, max_bytes=10_000) == 0
        assert await sequences(log) == [3, 2, 1]

    async def test_what_is_too_old_is_dropped(self, world):
        log = world.decision_log()
        await filled(log, 2)
        await world.pass_ms(50)
        await log.append(NS, batch(3))
        assert await log.trim(NS, keep_ms=30, max_bytes=10_000) == 2
        assert await sequences(log) == [3]

    async def test_what_is_too_much_is_dropped_oldest_first(self, world):
        log = world.decision_log()
        await filled(log, 50, packed=b"x" * 1_000)
        assert await log.trim(NS, keep_ms=FOREVER_MS, max_bytes=10_500) in {40, 41}
        left = await sequences(log)
        assert left == list(range(50, 50 - len(left), -1))
        assert await log.trim(NS, keep_ms=FOREVER_MS, max_bytes=10_500) == 0

    async def test_everything_may_go(self, world):
        log = world.decision_log()
        await filled(log, 3)
        while await log.trim(NS, keep_ms=FOREVER_MS, max_bytes=0):
            pass
        assert await sequences(log) == []
        assert await log.append(NS, batch(4))
        assert await sequences(log) == [4]

    async def test_many_are_dropped_call_by_call(self, world):
        log = world.decision_log()
        await filled(log, 450)
        dropped = 0
        while (now := await log.trim(NS, keep_ms=FOREVER_MS, max_bytes=0)) > 0:
            dropped += now
        assert dropped == 450
        assert await sequences(log) == []

    async def test_an_empty_log_has_nothing_to_drop(self, world):
        assert await world.decision_log().trim(NS, keep_ms=0, max_bytes=0) == 0


class TestErase:
    async def test_an_erased_log_is_empty_and_others_are_not(self, world):
        log = world.decision_log()
        await filled(log, 3)
        await log.append("other", batch(1))
        await log.erase(NS)
        assert await sequences(log) == []
        assert await sequences(log, "other") == [1]
        await log.erase("never-written")
