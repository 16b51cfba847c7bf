"""What every `Ledger` promises of counters, and of collections that nobody follows."""

import asyncio

import pytest

from controlplane.services.ports import (
    ABSENT,
    UNFOLLOWED,
    Append,
    Collection,
    ConditionFailed,
    Count,
    Delete,
    Expect,
    Position,
    Put,
    RequestKey,
    Require,
    ResetCount,
    SetDeadline,
)
from tests.fakes.store_world import World
from tests.fakes.transactions import NS, put_name, transaction

HIGHEST = 2**53 - 1
"""What a counter can hold."""


async def count_of(world: World, counter: str, namespace: str = NS) -> int:
    (count,) = await world.ledger.read_counts(namespace, [counter])
    return count


class TestCount:
    async def test_counters_add_and_subtract(self, world):
        for delta, total in ((3, 3), (4, 7), (-5, 2), (0, 2)):
            await world.ledger.commit(transaction(Count("c", delta)))
            assert await count_of(world, "c") == total

    async def test_counts_are_read_in_order_with_zero_for_what_is_missing(self, world):
        await world.ledger.commit(transaction(Count("a", 1), Count("ü b:c", 2)))
        counts = await world.ledger.read_counts(NS, ["ü b:c", "x", "a", "ü b:c"])
        assert counts == [2, 0, 1, 2]
        assert await world.ledger.read_counts(NS, []) == []
        assert await world.ledger.read_counts("nowhere", ["a"]) == [0]

    async def test_counters_of_namespaces_do_not_meet(self, world):
        await world.ledger.commit(transaction(Count("c", 1)))
        await world.ledger.commit(transaction(Count("c", 5), namespace="team-b"))
        assert await count_of(world, "c") == 1
        assert await count_of(world, "c", "team-b") == 5

    async def test_a_reset_removes_a_counter(self, world):
        await world.ledger.commit(transaction(Count("c", 3), Count("d", 1)))
        await world.ledger.commit(transaction(ResetCount("c"), ResetCount("never there")))
        assert await world.ledger.read_counts(NS, ["c", "d"]) == [0, 1]

    async def test_a_counter_that_came_back_to_zero_starts_over(self, world):
        await world.ledger.commit(transaction(Count("c", 3)))
        await world.ledger.commit(transaction(Count("c", -3)))
        assert await count_of(world, "c") == 0
        await world.ledger.commit(transaction(Count("c", 1, at_most=1)))
        assert await count_of(world, "c") == 1

    async def test_steps_on_one_counter_add_up_in_their_order(self, world):
        await world.ledger.commit(transaction(Count("c", 9)))
        await world.ledger.commit(
            transaction(Count("c", 1), ResetCount("c"), Count("c", 5), Count("c", -2))
        )
        assert await count_of(world, "c") == 3

    async def test_counters_keep_every_digit(self, world):
        await world.ledger.commit(transaction(Count("c", HIGHEST - 2)))
        await world.ledger.commit(transaction(Count("c", 1)))
        assert await count_of(world, "c") == HIGHEST - 1

    async def test_concurrent_commits_lose_no_count(self, world):
        await asyncio.gather(
            *(world.ledger.commit(transaction(Count("c", n))) for n in range(1, 21))
        )
        assert await count_of(world, "c") == 210

    async def test_of_concurrent_takers_only_as_many_as_there_is_room_for_succeed(self, world):
        take = [transaction(Count("c", 1, at_most=5), put_name(f"k{n}")) for n in range(20)]
        outcomes = await asyncio.gather(
            *(world.ledger.commit(one) for one in take), return_exceptions=True
        )
        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 5
        assert await count_of(world, "c") == 5
        records = await world.ledger.read(NS, Collection.NAMES, [f"k{n}" for n in range(20)])
        assert sum(record is not None for record in records) == 5


class TestLimits:
    async def test_a_counter_may_reach_its_limit_and_not_pass_it(self, world):
        await world.ledger.commit(transaction(Count("c", 2, at_most=3)))
        await world.ledger.commit(transaction(Count("c", 1, at_most=3)))
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(Count("c", 1, at_most=3)))
        assert refusal.value.step == 0
        assert (refusal.value.current_revision, refusal.value.current_generation) == (3, 0)
        assert await count_of(world, "c") == 3

    async def test_a_limit_holds_without_a_change_too(self, world):
        await world.ledger.commit(transaction(Count("c", 3)))
        await world.ledger.commit(transaction(Count("c", 0, at_most=3)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(Count("c", 0, at_most=2)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(Count("c", -1, at_most=1)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(Count("d", 0, at_most=-1)))

    async def test_a_limit_is_that_of_its_step_and_not_of_later_ones(self, world):
        await world.ledger.commit(transaction(Count("c", 1, at_most=1), Count("c", 5)))
        assert await count_of(world, "c") == 6

    async def test_several_counts_of_one_counter_are_checked_as_they_add_up(self, world):
        await world.ledger.commit(transaction(Count("c", 1)))
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(
                transaction(*(Count("c", 1, at_most=3) for _ in range(3)), Count("c", -3))
            )
        assert refusal.value.step == 2
        assert refusal.value.current_revision == 1
        await world.ledger.commit(
            transaction(Count("c", 2, at_most=3), ResetCount("c"), Count("c", 3, at_most=3))
        )
        assert await count_of(world, "c") == 3

    async def test_a_counter_never_gets_negative(self, world):
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(Count("c", -1)))
        assert (refusal.value.step, refusal.value.current_revision) == (0, 0)
        await world.ledger.commit(transaction(Count("c", 2)))
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(Count("c", -3), Count("c", 5)))
        assert (refusal.value.step, refusal.value.current_revision) == (0, 2)
        assert await count_of(world, "c") == 2

    @pytest.mark.parametrize("delta", [1, 2**53, 2**63, 2**80])
    async def test_a_counter_never_gets_above_what_it_can_hold(self, world, delta):
        await world.ledger.commit(transaction(Count("c", HIGHEST, at_most=2**80)))
        for step in (Count("c", delta), Count("c", delta, at_most=2**80), Count("c", -(2**80))):
            with pytest.raises(ConditionFailed):
                await world.ledger.commit(transaction(step))
        assert await count_of(world, "c") == HIGHEST


class TestAtomicity:
    async def test_counters_and_records_are_written_together(self, world):
        committed = await world.ledger.commit(
            transaction(put_name("k", expect=ABSENT), Count("c", 1, at_most=1))
        )
        assert committed.revision == 1
        assert await count_of(world, "c") == 1

    async def test_a_refused_count_writes_nothing(self, world):
        await world.ledger.commit(transaction(Count("c", 2), Count("d", 1), put_name("old")))
        request = RequestKey("req", "digest")
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(
                transaction(
                    put_name("k"),
                    Delete(Collection.NAMES, "old"),
                    Append("h", "v"),
                    SetDeadline("i", 60_000),
                    ResetCount("d"),
                    Count("e", 1),
                    Count("c", 1, at_most=2),
                    request=request,
                )
            )
        assert refusal.value.step == 6
        assert await world.ledger.read_counts(NS, ["c", "d", "e"]) == [2, 1, 0]
        new, old = await world.ledger.read(NS, Collection.NAMES, ["k", "old"])
        assert new is None
        assert old is not None
        assert await world.ledger.read_history(NS, "h") == []
        assert await world.beat_log().deadlines(NS) == {}
        assert await world.ledger.find_request(NS, request) is None
        assert (await world.ledger.commit(transaction(put_name("next")))).revision == 2

    async def test_a_refused_record_counts_nothing(self, world):
        await world.ledger.commit(transaction(Count("d", 1)))
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(
                transaction(
                    Count("c", 1),
                    ResetCount("d"),
                    Require(Collection.NAMES, "k", Expect(revision=1)),
                )
            )
        assert refusal.value.step == 2
        assert await world.ledger.read_counts(NS, ["c", "d"]) == [0, 1]

    async def test_a_replayed_request_does_not_count_twice(self, world):
        request = RequestKey("req", "digest")
        count = transaction(Count("c", 1, at_most=1), request=request)
        first = await world.ledger.commit(count)
        again = await world.ledger.commit(count)
        assert (again.revision, again.replayed) == (first.revision, True)
        assert await count_of(world, "c") == 1

    async def test_transactions_sent_together_count_one_after_the_other(self, world):
        outcomes = await world.ledger.commit_many(
            [
                transaction(Count("c", 2, at_most=3)),
                transaction(Count("c", 2, at_most=3)),
                transaction(Count("c", 1, at_most=3)),
            ]
        )
        assert [isinstance(outcome, ConditionFailed) for outcome in outcomes] == [
            False,
            True,
            False,
        ]
        assert outcomes[1].current_revision == 2
        assert await count_of(world, "c") == 3

    async def test_a_commit_that_only_counts_is_followed_as_one_without_records(self, world):
        async with world.feed() as feed:
            await world.ledger.commit(transaction(Count("c", 1)))
            news = await feed.catch_up(NS, Position())
        assert (news.position.revision, news.touched) == (1, ())


class TestUnfollowed:
    @pytest.mark.parametrize("data", [b"", b"\x00\xff\n bytes", bytes(range(256)) * 400])
    async def test_bytes_are_read_back_as_they_were(self, world, data):
        await world.ledger.commit(transaction(Put(Collection.TASK_DATA, "t/input", data)))
        (record,) = await world.ledger.read(NS, Collection.TASK_DATA, ["t/input"])
        assert record.value == data
        assert (record.revision, record.generation) == (1, 1)

    @pytest.mark.parametrize("collection", sorted(UNFOLLOWED))
    async def test_unfollowed_records_obey_conditions_and_can_be_removed(self, world, collection):
        await world.ledger.commit(transaction(Put(collection, "k", b"1", ABSENT)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(Put(collection, "k", b"2", ABSENT)))
        await world.ledger.commit(transaction(Delete(collection, "k", Expect(revision=1))))
        assert await world.ledger.read(NS, collection, ["k"]) == [None]

    @pytest.mark.parametrize("collection", sorted(UNFOLLOWED))
    async def test_followers_are_not_told_of_unfollowed_records(self, world, collection):
        await world.ledger.commit(transaction(put_name("k"), Put(collection, "d", b"1")))
        await world.ledger.commit(
            transaction(Put(collection, "d", b"2"), Put(collection, "e", b""))
        )
        await world.ledger.commit(transaction(Delete(collection, "e")))
        async with world.feed() as feed:
            news = await feed.catch_up(NS, Position())
            batches = [batch async for batch in feed.load(NS)]
        assert news.position.revision == 3
        assert [(t.collection, t.key) for t in news.touched] == [(Collection.NAMES, "k")]
        assert {position for position, _ in batches} == {news.position}
        loaded = [touched for _, batch in batches for touched in batch]
        assert [(t.collection, t.key) for t in loaded] == [(Collection.NAMES, "k")]
