"""What every `BeatLog` promises."""

import asyncio

from controlplane.services.ports import BeatLog, BeatRecord, ClearDeadline, SetDeadline
from tests.fakes.store_world import World
from tests.fakes.transactions import NS, transaction

BEAT = BeatRecord(
    instance_id="i1",
    generation=2**40,
    in_flight=3,
    completed=10**12,
    failed=1,
    latency_ms=12.5,
    progress_token="tok-é",  # noqa: S106 - how far the work is, no secret
    config_attempted=7,
    config_running=6,
    config_status=3,
    config_error="no",
)

# Long enough that nobody's silence counts, in every test that is not about silence.
FOREVER_MS = 10**9


async def set_deadlines(world: World, **after_ms: int) -> int:
    """Give instances deadlines; return the store's time at which they were counted."""
    steps = [SetDeadline(name, ms) for name, ms in after_ms.items()]
    return (await world.ledger.commit(transaction(*steps))).at_ms


async def due(log: BeatLog, *, limit: int = 100, gap_ms: int = FOREVER_MS, grace_ms: int = 0):
    """Return (number of deadlines, who is due)."""
    _, count, names = await log.due(NS, limit=limit, freeze_gap_ms=gap_ms, grace_ms=grace_ms)
    return count, names


class TestDeadlines:
    async def test_a_commit_sets_and_clears_them(self, world):
        log = world.beat_log()
        assert await log.deadlines(NS) == {}
        at_ms = await set_deadlines(world, i1=1000, i2=2000)
        assert await log.deadlines(NS) == {"i1": at_ms + 1000, "i2": at_ms + 2000}
        await world.ledger.commit(transaction(ClearDeadline("i1"), ClearDeadline("unknown")))
        assert await log.deadlines(NS) == {"i2": at_ms + 2000}

    async def test_a_commit_may_shorten_one(self, world):
        await set_deadlines(world, i1=60_000)
        at_ms = await set_deadlines(world, i1=5)
        assert await world.beat_log().deadlines(NS) == {"i1": at_ms + 5}

    async def test_a_flush_prolongs_each_group_by_its_own_time(self, world):
        log = world.beat_log()
        await set_deadlines(world, i1=10, i2=10, i3=10)
        now_ms = await log.flush(NS, {20_000: ["i1", "i2"], 90_000: ["i3"]}, [])
        assert await log.deadlines(NS) == {
            "i1": now_ms + 20_000,
            "i2": now_ms + 20_000,
            "i3": now_ms + 90_000,
        }

    async def test_a_flush_gives_no_deadline_to_who_has_none(self, world):
        log = world.beat_log()
        await set_deadlines(world, i1=10)
        await log.flush(NS, {20_000: ["gone", "never-registered"]}, [])
        assert set(await log.deadlines(NS)) == {"i1"}

    async def test_a_flush_never_shortens_a_deadline(self, world):
        log = world.beat_log()
        at_ms = await set_deadlines(world, i1=60_000)
        await log.flush(NS, {5: ["i1"]}, [])
        assert await log.deadlines(NS) == {"i1": at_ms + 60_000}

    async def test_five_thousand_beats_go_in_one_flush(self, world):
        log = world.beat_log()
        names = [f"i{n}" for n in range(5000)]
        await set_deadlines(world, **dict.fromkeys(names, 10))
        now_ms = await log.flush(NS, {30_000: names}, [BEAT._replace(instance_id=n) for n in names])
        assert await log.deadlines(NS) == dict.fromkeys(names, now_ms + 30_000)

    async def test_an_empty_flush_tells_the_time(self, world):
        earlier = await world.beat_log().flush(NS, {}, [])
        await world.pass_ms(5)
        assert await world.beat_log().flush(NS, {}, []) > earlier


class TestReadBeats:
    async def test_others_read_what_one_flushed_and_it_does_not(self, world):
        ours, theirs = world.beat_log("r1"), world.beat_log("r2")
        start = await theirs.read_beats({NS: ""})
        own_start = await ours.read_beats({NS: ""})
        assert start[NS][1] == []
        other = BEAT._replace(instance_id="i2", config_error="", progress_token="")
        await ours.flush(NS, {}, [BEAT, other])
        cursor, beats = (await theirs.read_beats({NS: start[NS][0]}))[NS]
        assert beats == [BEAT, other]
        assert (await ours.read_beats({NS: own_start[NS][0]}))[NS][1] == []
        assert (await theirs.read_beats({NS: cursor}))[NS] == (cursor, [])

    async def test_an_empty_cursor_means_from_now_on(self, world):
        ours, theirs = world.beat_log("r1"), world.beat_log("r2")
        await ours.flush(NS, {}, [BEAT])
        cursor, beats = (await theirs.read_beats({NS: ""}))[NS]
        assert cursor
        assert beats == []
        later = BEAT._replace(completed=BEAT.completed + 1)
        await ours.flush(NS, {}, [later])
        assert (await theirs.read_beats({NS: cursor}))[NS][1] == [later]

    async def test_many_namespaces_are_read_at_once(self, world):
        ours, theirs = world.beat_log("r1"), world.beat_log("r2")
        names = [f"team-{n}" for n in range(5)]
        starts = await theirs.read_beats(dict.fromkeys(names, ""))
        for name in names[::2]:
            await ours.flush(name, {}, [BEAT._replace(instance_id=name)])
        cursors = {name: cursor for name, (cursor, _) in starts.items()}
        news = await theirs.read_beats({**cursors, "fresh": ""})
        assert set(news) == {*names, "fresh"}
        told = {name: [b.instance_id for b in beats] for name, (_, beats) in news.items() if beats}
        assert told == {name: [name] for name in names[::2]}
        assert await theirs.read_beats({}) == {}

    async def test_flushes_are_read_in_their_order(self, world):
        ours, theirs = world.beat_log("r1"), world.beat_log("r2")
        cursor = (await theirs.read_beats({NS: ""}))[NS][0]
        for n in range(20):
            await ours.flush(NS, {}, [BEAT._replace(completed=n)])
        beats = (await theirs.read_beats({NS: cursor}))[NS][1]
        assert [beat.completed for beat in beats] == list(range(20))


class TestDue:
    async def test_only_passed_deadlines_are_due_oldest_first(self, world):
        log = world.beat_log()
        await due(log)
        await set_deadlines(world, late=2, later=1, alive=60_000)
        await world.pass_ms(5)
        assert await due(log) == (3, ["later", "late"])
        assert await due(log, limit=1) == (3, ["later"])

    async def test_whoever_is_due_stays_due_until_somebody_decides(self, world):
        log = world.beat_log()
        await due(log)
        await set_deadlines(world, i1=0)
        assert (await due(log))[1] == (await due(log))[1] == ["i1"]
        await world.ledger.commit(transaction(ClearDeadline("i1")))
        assert await due(log) == (0, [])

    async def test_the_stores_time_is_told(self, world):
        log = world.beat_log()
        before = await log.flush(NS, {}, [])
        now_ms, _, _ = await log.due(NS, limit=1, freeze_gap_ms=1, grace_ms=0)
        assert before <= now_ms <= before + 60_000

    async def test_nothing_is_due_for_the_grace_after_nobody_looked(self, world):
        log = world.beat_log()
        await due(log)
        await set_deadlines(world, i1=0)
        assert (await due(log, gap_ms=FOREVER_MS))[1] == ["i1"]
        await world.pass_ms(60)
        assert await due(log, gap_ms=50, grace_ms=300) == (1, [])
        assert await due(log, gap_ms=50, grace_ms=300) == (1, [])
        async with asyncio.timeout(10):
            while await due(log, gap_ms=FOREVER_MS, grace_ms=300) == (1, []):
                await world.pass_ms(20)
        assert await due(log, gap_ms=FOREVER_MS, grace_ms=300) == (1, ["i1"])

    async def test_the_first_look_ever_grants_the_grace(self, world):
        log = world.beat_log()
        await set_deadlines(world, i1=0)
        assert await due(log, grace_ms=FOREVER_MS) == (1, [])
        # A shorter grace, asked for later, shortens the one that runs.
        assert await due(log, grace_ms=0) == (1, ["i1"])

    async def test_the_look_of_one_replica_counts_for_all(self, world):
        await due(world.beat_log("r1"))
        await set_deadlines(world, i1=0)
        assert (await due(world.beat_log("r2"), grace_ms=FOREVER_MS))[1] == ["i1"]
