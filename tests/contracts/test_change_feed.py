"""What every `ChangeFeed` promises."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from controlplane.services.ports import (
    ChangeFeed,
    Collection,
    Delete,
    Position,
    Put,
    Record,
    Step,
    Touched,
)
from tests.fakes.copying_follower import Copy, CopyingFollower
from tests.fakes.store_world import CHANGES_KEEP, World
from tests.fakes.transactions import NS, agent, put_name, transaction

ANTI_ENTROPY_SECONDS = 2.0


@pytest.fixture
async def feed(world: World) -> AsyncIterator[ChangeFeed]:
    async with world.feed() as feed:
        yield feed


async def commit_names(world: World, count: int, *, start: int = 0, namespace: str = NS) -> None:
    await world.ledger.commit_many(
        [transaction(put_name(f"k{n}"), namespace=namespace) for n in range(start, start + count)]
    )


async def load(feed: ChangeFeed, namespace: str = NS) -> tuple[Position, list[Touched]]:
    """Return the one position of a load, and all it yielded."""
    positions, everything = [], []
    async for position, batch in feed.load(namespace):
        positions.append(position)
        everything += batch
    assert positions
    assert len(set(positions)) == 1
    return positions[0], everything


async def stored(world: World) -> Copy:
    """Return what the ledger itself says about every name and agent a test may have written."""
    keys = [f"k{n}" for n in range(60)]
    copy: Copy = {}
    for collection in (Collection.NAMES, Collection.AGENTS):
        for record in await world.ledger.read(NS, collection, keys):
            if record is not None:
                copy[collection, record.key] = record
    return copy


class TestLoad:
    async def test_an_empty_namespace_yields_one_empty_batch(self, feed):
        batches = [batch async for batch in feed.load(NS)]
        assert batches == [(Position(), [])]

    async def test_all_collections_are_yielded_with_the_position_they_are_at(self, world, feed):
        await world.ledger.commit(transaction(put_name("k", "v")))
        await world.ledger.commit(transaction(Put(Collection.AGENTS, "a", agent("a"))))
        position, everything = await load(feed)
        assert position.revision == 2
        assert position.epoch
        assert position.fingerprint
        by_key = {(t.collection, t.key): t.record for t in everything if t.record}
        assert len(by_key) == 2
        assert by_key[Collection.NAMES, "k"].value == "v"
        assert by_key[Collection.AGENTS, "a"].value.spec == agent("a").spec
        assert by_key[Collection.AGENTS, "a"].value.revision == 2

    async def test_many_records_come_in_batches_of_one_position(self, world, feed):
        await commit_names(world, 2500)
        batches = [batch async for batch in feed.load(NS)]
        assert len(batches) >= 3
        assert {position.revision for position, _ in batches} == {2500}
        assert len({t.key for _, batch in batches for t in batch}) == 2500

    async def test_catching_up_from_a_load_makes_the_copy_exact(self, world, feed):
        """Whatever is written between and during the batches of a load."""
        await commit_names(world, 2500)
        fresh: dict[str, Record | None] = {}
        start = Position()
        batches = 0
        async for position, batch in feed.load(NS):
            start = position
            batches += 1
            fresh |= {t.key: t.record for t in batch}
            await world.ledger.commit(
                transaction(put_name("k2499", "new"), Delete(Collection.NAMES, "k2498"))
            )
            await world.ledger.commit(transaction(put_name("later")))
        news = await feed.catch_up(NS, start)
        assert not news.resync
        fresh |= {t.key: t.record for t in news.touched}
        keys = ["k2499", "k2498", "later", "k0"]
        assert [fresh[key] for key in keys] == await world.ledger.read(NS, Collection.NAMES, keys)
        assert news.position.revision == 2500 + 2 * batches


class TestCatchUp:
    async def test_nothing_new_is_no_change_at_the_same_position(self, world, feed):
        await commit_names(world, 3)
        position, _ = await load(feed)
        news = await feed.catch_up(NS, position)
        assert (news.position, news.touched, news.resync, news.more) == (position, (), False, False)

    async def test_changes_come_with_the_records_as_they_are_now(self, world, feed):
        await commit_names(world, 2)
        position, _ = await load(feed)
        await world.ledger.commit(transaction(put_name("k0", "once")))
        await world.ledger.commit(transaction(put_name("k0", "twice"), put_name("k9", "new")))
        await world.ledger.commit(transaction(Delete(Collection.NAMES, "k1")))
        news = await feed.catch_up(NS, position)
        assert news.position.revision == 5
        assert len(news.touched) == 3
        by_key = {t.key: t.record for t in news.touched}
        assert (by_key["k0"].value, by_key["k0"].revision) == ("twice", 4)
        assert by_key["k9"].value == "new"
        assert by_key["k1"] is None

    async def test_records_come_in_the_order_of_their_changes(self, world, feed):
        position, _ = await load(feed)
        await commit_names(world, 50)
        news = await feed.catch_up(NS, position)
        assert [t.record.revision for t in news.touched] == list(range(1, 51))

    async def test_the_beginning_needs_no_load(self, world, feed):
        await commit_names(world, 3)
        news = await feed.catch_up(NS, Position())
        assert not news.resync
        assert [t.key for t in news.touched] == ["k0", "k1", "k2"]
        assert (await feed.catch_up(NS, news.position)).touched == ()

    async def test_a_namespace_that_was_never_written_has_no_news(self, feed):
        news = await feed.catch_up("nowhere", Position())
        assert (news.position, news.touched, news.resync) == (Position(), (), False)

    async def test_commits_without_records_move_the_position(self, world, feed):
        await commit_names(world, 1)
        position, _ = await load(feed)
        await world.ledger.commit(transaction())
        news = await feed.catch_up(NS, position)
        assert (news.position.revision, news.touched, news.resync) == (2, (), False)

    async def test_a_long_backlog_comes_in_pieces(self, world):
        async with world.roomy_feed() as (ledger, feed):
            await ledger.commit_many([transaction(put_name(f"k{n}")) for n in range(1200)])
            follower = CopyingFollower(feed, NS)
            first = await feed.catch_up(NS, Position())
            assert first.more
            assert 0 < first.position.revision < 1200
            await follower.catch_up()
        assert follower.position.revision == 1200
        assert [r.revision for r in follower.seen] == list(range(1, 1201))

    async def test_a_trimmed_history_demands_a_resync(self, world, feed):
        await commit_names(world, 1)
        position, _ = await load(feed)
        await commit_names(world, CHANGES_KEEP + 200)
        assert (await feed.catch_up(NS, position)).resync
        assert (await feed.catch_up(NS, Position())).resync
        fresh, _ = await load(feed)
        assert fresh.epoch == position.epoch
        assert not (await feed.catch_up(NS, fresh)).resync

    async def test_a_position_ahead_of_the_store_demands_a_resync_and_a_new_epoch(
        self, world, feed
    ):
        await commit_names(world, 3)
        position, _ = await load(feed)
        ahead = Position(position.epoch, 4, "fingerprint of a lost commit")
        assert (await feed.catch_up(NS, ahead)).resync
        fresh, _ = await load(feed)
        assert fresh.epoch != position.epoch
        assert fresh.revision == 3

    async def test_another_entry_at_the_position_demands_a_resync_and_a_new_epoch(
        self, world, feed
    ):
        await commit_names(world, 3)
        position, _ = await load(feed)
        await world.rewrite_fingerprint(NS, 3)
        await commit_names(world, 2, start=3)
        news = await feed.catch_up(NS, position)
        assert news.resync
        fresh, _ = await load(feed)
        assert fresh.epoch not in {"", position.epoch}
        assert not (await feed.catch_up(NS, fresh)).resync

    async def test_whoever_follows_the_lost_branch_learns_of_the_new_epoch(self, world, feed):
        """Also a follower whose own position would still look right."""
        await commit_names(world, 2)
        early, _ = await load(feed)
        await commit_names(world, 1, start=2)
        late, _ = await load(feed)
        await world.rewrite_fingerprint(NS, 3)
        assert (await feed.catch_up(NS, late)).resync
        assert (await feed.catch_up(NS, early)).resync

    async def test_one_new_epoch_is_enough_for_all(self, world, feed):
        await commit_names(world, 3)
        lost = Position((await load(feed))[0].epoch, 9, "lost")
        assert (await feed.catch_up(NS, lost)).resync
        epoch = (await load(feed))[0].epoch
        assert (await feed.catch_up(NS, lost)).resync
        assert (await load(feed))[0].epoch == epoch

    async def test_an_emptied_store_demands_a_resync(self, world, feed):
        await commit_names(world, 3)
        position, _ = await load(feed)
        await world.lose_everything()
        assert (await feed.catch_up(NS, position)).resync
        assert await load(feed) == (Position(), [])
        await commit_names(world, 5)
        assert (await feed.catch_up(NS, position)).resync
        fresh, _ = await load(feed)
        assert fresh.epoch not in {"", position.epoch}


class TestWait:
    async def test_a_commit_wakes(self, world, feed):
        async with asyncio.timeout(ANTI_ENTROPY_SECONDS * 2):
            await commit_names(world, 1)
            while NS not in await feed.wait(5):
                pass
            follower = CopyingFollower(feed, NS)
            await follower.catch_up()
            await commit_names(world, 1, start=1)
            while NS not in await feed.wait(5):
                pass

    async def test_nothing_to_do_ends_with_the_timeout(self, feed):
        async with asyncio.timeout(5):
            assert await feed.wait(0.05) == frozenset()

    async def test_what_was_written_before_is_announced(self, world):
        await commit_names(world, 1)
        async with world.feed() as feed, asyncio.timeout(ANTI_ENTROPY_SECONDS * 2):
            while NS not in await feed.wait(5):
                pass

    async def test_a_namespace_that_appears_is_announced_and_listed(self, world, feed):
        async with asyncio.timeout(ANTI_ENTROPY_SECONDS * 3):
            for namespace in ("team-a", "team-b", "namespaces"):
                await commit_names(world, 1, namespace=namespace)
                while namespace not in await feed.wait(5):
                    pass
        assert await feed.namespaces() == {"team-a", "team-b", "namespaces"}

    async def test_news_that_was_not_acted_on_is_announced_again(self, world, feed):
        """A follower that failed in the middle gets another chance."""
        if world.hints_once:
            pytest.skip("nothing can fail between this feed and its follower")
        async with asyncio.timeout(ANTI_ENTROPY_SECONDS * 3):
            await commit_names(world, 1)
            for _ in range(2):
                while NS not in await feed.wait(5):
                    pass


@pytest.mark.parametrize("seed", range(5))
async def test_a_follower_under_concurrent_writers_ends_with_an_exact_copy(world, feed, seed):
    """Loads and catch-ups at random moments, among puts and deletes of the same records."""
    choice = random.Random(seed)
    writers, commits = 8, 40

    async def write(numbers: random.Random) -> None:
        for _ in range(commits):
            key = f"k{numbers.randrange(60)}"
            steps: list[Step] = [
                put_name(key, str(numbers.random())),
                Put(Collection.AGENTS, key, agent(key), fresh_generation=True),
                Delete(Collection.NAMES, key),
                Delete(Collection.AGENTS, key),
            ]
            step = numbers.choice(steps)
            await world.ledger.commit(transaction(step, put_name(f"k{numbers.randrange(60)}")))
            if numbers.random() < 0.3:
                await asyncio.sleep(0)

    follower = CopyingFollower(feed, NS)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(random.Random(seed * 100 + n))) for n in range(writers)]
        while not all(task.done() for task in tasks):
            await (follower.load() if choice.random() < 0.2 else follower.catch_up())
            await asyncio.sleep(0)
    await follower.catch_up()
    assert follower.position.revision == writers * commits
    assert follower.copy == await stored(world)
