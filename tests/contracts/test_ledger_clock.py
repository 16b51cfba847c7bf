"""What every `Ledger` promises of conditions on its clock, and of durable commits."""

import pytest

from controlplane.services.ports import (
    ABSENT,
    Collection,
    ConditionFailed,
    RequestKey,
    RequireClock,
)
from tests.fakes.transactions import NS, put_name, transaction

FAR_MS = 60_000


async def store_ms(world) -> int:
    """Return the time of a commit, and leave nothing that is looked at behind."""
    return (await world.ledger.commit(transaction(put_name("clock")))).at_ms


class TestRequireClock:
    async def test_a_time_that_is_not_over_lets_pass(self, world):
        now_ms = await store_ms(world)
        await world.ledger.commit(
            transaction(RequireClock(not_after_ms=now_ms + FAR_MS), put_name("k"))
        )
        (record,) = await world.ledger.read(NS, Collection.NAMES, ["k"])
        assert record is not None

    async def test_a_time_that_is_over_refuses_everything_and_names_the_step(self, world):
        now_ms = await store_ms(world)
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(put_name("k"), RequireClock(not_after_ms=now_ms)))
        assert refusal.value.step == 1
        assert (refusal.value.current_revision, refusal.value.current_generation) == (0, 0)
        assert await world.ledger.read(NS, Collection.NAMES, ["k"]) == [None]

    async def test_a_time_that_has_not_come_refuses(self, world):
        now_ms = await store_ms(world)
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(RequireClock(not_before_ms=now_ms + FAR_MS)))
        await world.ledger.commit(transaction(RequireClock(not_before_ms=now_ms)))

    async def test_no_bounds_are_no_condition(self, world):
        await world.ledger.commit(transaction(RequireClock()))

    async def test_time_passes_between_two_commits(self, world):
        now_ms = await store_ms(world)
        step = RequireClock(not_after_ms=now_ms + 20)
        await world.pass_ms(30)
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(step))

    async def test_bounds_beyond_every_clock_mean_what_they_say(self, world):
        await world.ledger.commit(transaction(RequireClock(not_after_ms=2**63)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(RequireClock(not_before_ms=2**63)))

    async def test_a_replay_is_answered_when_time_is_over(self, world):
        now_ms = await store_ms(world)
        step = RequireClock(not_after_ms=now_ms + 200)
        request = RequestKey("r", "d")
        first = await world.ledger.commit(transaction(step, put_name("k"), request=request))
        await world.pass_ms(250)
        again = await world.ledger.commit(transaction(step, put_name("k"), request=request))
        assert again.replayed
        assert again.revision == first.revision


class TestDurable:
    async def test_a_durable_commit_is_a_commit(self, world):
        first = await world.ledger.commit(
            transaction(put_name("k", expect=ABSENT), durable=True, request=RequestKey("r", "d"))
        )
        again = await world.ledger.commit(
            transaction(put_name("k", expect=ABSENT), durable=True, request=RequestKey("r", "d"))
        )
        assert (again.revision, again.replayed) == (first.revision, True)
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(put_name("k", expect=ABSENT), durable=True))

    async def test_durable_ones_among_others_are_answered_in_order(self, world):
        outcomes = await world.ledger.commit_many(
            [transaction(put_name(f"k{n}"), durable=n == 1) for n in range(3)]
        )
        revisions = [outcome.revision for outcome in outcomes]
        assert revisions == sorted(revisions)
