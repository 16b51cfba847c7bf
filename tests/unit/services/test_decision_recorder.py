"""Decisions on their way to the log: what is recorded, what is lost, and that it is told."""

import asyncio
from typing import Never

import pytest

from controlplane.domain.decisions.records import MASKED, DecisionRecord, GapCause, Origin
from controlplane.domain.errors import AgentNotFound, DomainError, StoreUnavailable
from controlplane.domain.policies import DecisionReason, Effect, ExplainLevel, Policy
from controlplane.services.policies.answers import Answered, Question
from controlplane.services.policies.decision_queue import MAX_WAITING
from controlplane.services.policies.decisions import Asked
from tests.fakes.decision_world import DecisionWorld, write_of
from tests.fakes.plane import NS

DENY = Policy(policy_id="no-writes", action=Effect.DENY, conditions={"action": "write"})
SOON = 5.0


async def test_a_record_says_what_was_decided_on_what():
    world = await DecisionWorld().start(DENY)
    answer = world.asks("write", environment="production", card={"number": "4711"})
    await world.flush()

    (record,) = await world.records()
    assert record.decision_id == answer.decision_id
    assert record.decision == answer.decision
    assert record.decision.effect is Effect.DENY
    assert record.decision.reason is DecisionReason.POLICY
    assert record.decision.determining == ("no-writes",)
    assert (record.agent_id, record.agent_name) == (world.agent_id, "researcher")
    assert record.agent_version == "1.0.0"
    assert record.facts["agent_tags"] == {"team": "red"}
    assert record.claims == {"environment": "production", "card": {"number": "4711"}}
    assert (record.action, record.tool, record.session_id) == ("write", "", "s-1")
    assert record.caller == "ada"
    assert record.origin is Origin.SERVER
    assert record.at_ms == world.clock.store_ms()
    assert record.latency_ns > 0
    assert record.policy_digest == world.plane.read_model.view(NS).policy_set.digest
    assert record.sample_rate == 1


async def test_every_item_of_a_batch_is_recorded_but_refusals():
    world = await DecisionWorld().start(DENY)
    questions: list[Question | DomainError] = [
        Question(world.agent_id, "read", {}),
        Question("nobody", "read", {}),
        Question(world.agent_id, "write", {"environment": "production"}),
        AgentNotFound("nobody"),
    ]
    _, answers, recorded = world.decisions.evaluate_many(NS, questions, asked=Asked("ada"))
    await world.flush()

    assert recorded is None
    assert [record.decision_id for record in await world.records()] == [
        answer.decision_id for answer in answers if isinstance(answer, Answered)
    ]
    assert [isinstance(answer, Answered) for answer in answers] == [True, False, True, False]


async def test_a_dry_run_leaves_no_record():
    world = await DecisionWorld().start()
    world.asks(dry_run=True)
    world.decisions.evaluate_many(
        NS, [Question(world.agent_id, "read", {})], asked=Asked("ada", dry_run=True)
    )
    await world.flush()

    assert await world.contents() == []


async def test_explanations_are_not_kept():
    world = await DecisionWorld().start(DENY)
    question = Question(world.agent_id, "write", {})
    answer = world.decisions.evaluate(NS, question, explain=ExplainLevel.FULL)
    assert answer.decision.explanation
    await world.flush()

    assert (await world.records())[0].decision.explanation is None


async def test_many_decisions_are_written_in_few_batches_and_in_their_order():
    world = await DecisionWorld().start(DENY)
    made = [world.asks("write" if n % 3 else "read").decision_id for n in range(2_500)]
    await world.flush()

    assert [record.decision_id for record in await world.records()] == made
    assert world.log.attempts == 3


async def test_while_the_store_is_away_decisions_wait_and_none_is_written_twice():
    world = await DecisionWorld().start()
    world.log.away = world.log.takes_silently = True
    made = [world.asks().decision_id for _ in range(10)]
    await world.flusher.round()
    await world.flusher.round()
    made += [world.asks().decision_id for _ in range(10)]
    world.log.away = world.log.takes_silently = False
    await world.flusher.round()

    assert [record.decision_id for record in await world.records()] == made
    assert world.recorder.lost == 0


async def test_what_does_not_fit_is_lost_counted_and_told():
    world = await DecisionWorld(max_records=200).start()
    world.log.away = True
    await world.flusher.round()
    world.asks()
    await world.flusher.round()  # notices that the store is away: no call waits in vain
    made = [world.asks() for _ in range(300)]
    assert all(answer.recorded is None for answer in made)
    assert world.recorder.lost == 201  # one namespace may fill half of it
    await world.clock.advance(60)
    world.log.away = False
    await world.flusher.round()

    (gap,) = await world.gaps()
    assert gap.number_lost == 201
    assert gap.cause is GapCause.OVERFLOW
    assert gap.source == world.recorder.source
    assert len(await world.records()) + gap.number_lost == 301


async def test_bytes_are_bounded_as_well():
    world = await DecisionWorld(max_bytes=1_000_000).start()
    world.log.away = True
    world.asks()
    await world.flusher.round()
    question = Question(world.agent_id, "read", {"blob": "b" * 60_000})
    for _ in range(20):
        world.decisions.evaluate(NS, question, asked=Asked("ada", 60_000))

    assert world.recorder.lost > 15
    assert world.recorder.bounds.bytes < 1_000_000


async def test_a_gap_is_told_while_shedding_goes_on_but_not_for_every_call():
    world = await DecisionWorld(max_records=20).start()
    world.log.away = True
    world.asks()
    await world.flusher.round()
    for _ in range(12):
        for _ in range(20):
            world.asks()
        await world.clock.advance(0.9)
    world.log.away = False
    await world.flusher.round()

    gaps = await world.gaps()
    assert len(gaps) == 1
    assert gaps[0].last_ms - gaps[0].first_ms >= 9_000
    assert len(await world.records()) + gaps[0].number_lost == 241


async def test_a_call_waits_for_room_for_a_moment():
    world = await DecisionWorld(max_records=20).start()
    made = [world.asks() for _ in range(11)]
    assert [answer.recorded is None for answer in made] == [True] * 10 + [False]
    await world.flush()
    await asyncio.wait_for(write_of(made[-1]), SOON)
    await world.flush()

    assert len(await world.records()) == 11
    assert world.recorder.lost == 0


async def test_without_room_the_call_goes_on_and_its_decision_is_lost():
    world = await DecisionWorld(max_records=20).start()
    made = [world.asks() for _ in range(12)]
    await asyncio.wait_for(write_of(made[-1]), SOON)
    await asyncio.wait_for(write_of(made[-2]), SOON)
    await world.flush()

    assert len(await world.records()) == 10
    assert (await world.gaps())[0].number_lost == 2


async def test_only_so_many_calls_wait():
    world = await DecisionWorld(max_records=20).start()
    made = [world.asks() for _ in range(10 + MAX_WAITING + 5)]

    assert sum(answer.recorded is not None for answer in made) == MAX_WAITING
    assert world.recorder.lost == 5
    await asyncio.gather(*(one.recorded for one in made if one.recorded is not None))
    await world.flush()


async def test_one_namespace_does_not_take_the_room_of_others():
    world = await DecisionWorld(max_records=100).start()
    await world.plane.register(name="other")
    world.log.away = True
    world.asks()
    await world.flusher.round()
    for _ in range(500):
        world.asks()
    settings = world.recorder.queues[NS].rules.settings
    answer = world.asks(dry_run=True)
    for _ in range(40):
        world.recorder.record(
            "quiet", settings, [answer], caller="bob", latency_ns=1, request_bytes=10
        )
    world.log.away = False
    await world.flush()

    assert len(await world.records("quiet")) == 40


class TestSync:
    async def test_the_answer_waits_for_the_record(self):
        world = await DecisionWorld().start(pay="SYNC")
        flushing = asyncio.create_task(world.flusher.run_synchronous())
        answers = [world.asks("pay") for _ in range(5)]
        await asyncio.wait_for(asyncio.gather(*(write_of(one) for one in answers)), SOON)

        assert {r.decision_id for r in await world.records()} == {a.decision_id for a in answers}
        assert world.asks("read").recorded is None
        await _ended(flushing)

    async def test_calls_share_writes(self):
        world = await DecisionWorld().start(pay="SYNC")
        answers = [world.asks("pay") for _ in range(500)]
        flushing = asyncio.create_task(world.flusher.run_synchronous())
        await asyncio.wait_for(asyncio.gather(*(write_of(one) for one in answers)), SOON)

        assert world.log.attempts == 1
        await _ended(flushing)

    async def test_without_the_store_nothing_is_answered(self):
        world = await DecisionWorld().start(pay="SYNC")
        world.log.away = True
        flushing = asyncio.create_task(world.flusher.run_synchronous())
        answer = world.asks("pay")
        with pytest.raises(StoreUnavailable, match="not recorded"):
            await asyncio.wait_for(write_of(answer), SOON)
        world.log.away = False
        again = world.asks("pay")
        await asyncio.wait_for(write_of(again), SOON)

        assert [record.decision_id for record in await world.records()] == [again.decision_id]
        assert world.recorder.lost == 0  # nobody was told the first one
        await _ended(flushing)

    async def test_a_batch_waits_if_one_of_its_items_does(self):
        world = await DecisionWorld().start(pay="SYNC")
        questions = [Question(world.agent_id, action, {}) for action in ("read", "pay", "read")]
        _, _, recorded = world.decisions.evaluate_many(NS, questions, asked=Asked("ada"))
        flushing = asyncio.create_task(world.flusher.run_synchronous())
        assert recorded is not None
        await asyncio.wait_for(recorded, SOON)

        assert [record.action for record in await world.records()] == ["pay"]
        await world.flush()
        assert len(await world.records()) == 3
        await _ended(flushing)

    async def test_who_waits_when_the_daemon_stops_is_told(self):
        world = await DecisionWorld().start(pay="SYNC")
        flushing = asyncio.create_task(world.flusher.run_synchronous())
        await asyncio.sleep(0)
        answer = world.asks("pay")
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)

        with pytest.raises(StoreUnavailable, match="stops"):
            await asyncio.wait_for(write_of(answer), SOON)


class TestSettings:
    async def test_a_share_is_recorded_and_says_so(self):
        world = await DecisionWorld().start(read="0.25")
        for _ in range(2_000):
            world.asks("read")
        world.asks("write")
        await world.flush()

        records = await world.records()
        sampled = [record for record in records if record.action == "read"]
        assert 380 < len(sampled) < 630  # six standard deviations around 500
        assert {record.sample_rate for record in sampled} == {0.25}
        assert [record.sample_rate for record in records if record.action == "write"] == [1]
        assert world.recorder.lost == 0

    async def test_the_first_rule_that_matches_holds(self):
        world = await DecisionWorld().start(**{"db:read": "ASYNC", "db:*": "SYNC"})

        assert world.asks("db:read").recorded is None
        assert world.asks("db:write").recorded is not None
        assert world.asks("other").recorded is None

    async def test_new_settings_hold_from_the_next_decision(self):
        world = await DecisionWorld().start()
        assert world.asks("pay").recorded is None
        await world.set(pay="SYNC")

        assert world.asks("pay").recorded is not None

    async def test_masked_values_do_not_reach_the_store(self):
        world = await DecisionWorld().start(masked=["card.number", "users.*.token"])
        planted = "4711-s3cr3t"
        world.asks("pay", card={"number": planted}, users={"ann": {"token": planted}}, amount=3)
        world.asks("pay", amount=4)
        await world.flush()

        masked, plain = await world.records()
        assert masked.claims == {
            "card": {"number": MASKED},
            "users": {"ann": {"token": MASKED}},
            "amount": 3,
        }
        assert masked.masked_paths == ("card.number", "users.ann.token")
        assert plain.masked_paths == ()
        for stored in await world.log.newest(NS, limit=10):
            assert planted not in str(stored)


class TestListeners:
    async def test_they_hear_of_everything_as_it_was_made(self):
        world = await DecisionWorld().start(DENY, masked=["environment"], pay="SYNC")
        heard: list[DecisionRecord] = []
        world.recorder.subscribe(lambda _, records: heard.extend(records))
        made = [world.asks("write", environment="production"), world.asks("pay")]
        assert heard == []  # not on the path of the answer
        await world.flush()
        await world.flusher.flush_synchronous(NS)

        assert [record.decision_id for record in heard] == [one.decision_id for one in made]
        assert heard[0].claims == {"environment": "production"}

    async def test_they_hear_only_of_namespaces_that_they_want(self):
        world = await DecisionWorld().start()
        heard: list[DecisionRecord] = []
        wanted: set[str] = set()
        world.recorder.subscribe(
            lambda _, records: heard.extend(records), wanted=lambda name: name in wanted
        )
        world.asks()
        await world.flush()
        assert heard == []
        wanted.add(NS)
        made = world.asks()
        await world.flush()

        assert [record.decision_id for record in heard] == [made.decision_id]

    async def test_one_that_cannot_say_what_it_wants_harms_nobody(self):
        world = await DecisionWorld().start()
        world.recorder.subscribe(_fail, wanted=_fail)
        world.asks()
        await world.flush()

        assert len(await world.records()) == 1

    async def test_one_that_fails_harms_nobody(self):
        world = await DecisionWorld().start()
        heard: list[DecisionRecord] = []
        world.recorder.subscribe(_fail)
        end = world.recorder.subscribe(lambda _, records: heard.extend(records))
        world.asks()
        await world.flush()
        end()
        world.asks()
        await world.flush()

        assert len(heard) == 1
        assert len(await world.records()) == 2


def _fail(*_: object) -> Never:
    raise ZeroDivisionError


async def _ended(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
