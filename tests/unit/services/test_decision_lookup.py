"""A decision is found by its id: in a busy log, whoever claims the id, whatever time it says."""

import asyncio

import pytest

from controlplane.domain.decisions.records import Origin
from controlplane.domain.decisions.refusals import DecisionNotFound
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import Decision, DecisionReason, Effect, Policy
from controlplane.services.policies.decision_reports import (
    DecisionReports,
    LocalDecision,
    Report,
)
from tests.fakes.decision_world import DecisionWorld
from tests.fakes.plane import NS

BATCHES_IN_FIVE_MINUTES = 3_000
NO_WRITES = Policy(policy_id="no-writes", action=Effect.DENY, conditions={"action": "db:write"})


async def report(world: DecisionWorld, decision_id: str, at_ms: int) -> None:
    """Report, as an agent, that a decision was ALLOW."""
    said = Decision(effect=Effect.ALLOW, reason=DecisionReason.DEFAULT, revision=1)
    made = LocalDecision(
        decision_id=decision_id, decision=said, at_ms=at_ms, action="db:write", claims={}
    )
    reports = DecisionReports(world.log, world.plane.read_model, world.clock)
    told = Report(agent_id=world.agent_id, batch_id=f"b-{decision_id}", decisions=(made,))
    assert await reports.record(NS, told, caller="agent:a")


async def test_a_decision_is_found_in_a_log_that_gets_ten_batches_a_second():
    world = await DecisionWorld().start()
    for _ in range(BATCHES_IN_FIVE_MINUTES):
        world.asks()
        await world.flush()
        world.clock.shift(0.1)
    answer = world.asks()
    await world.flush()
    world.clock.shift(60)

    assert (await world.recorded.get(NS, answer.decision_id)).decision_id == answer.decision_id


async def test_one_of_an_agent_whose_clock_is_fast_is_found_in_a_busy_log():
    world = await DecisionWorld().start()
    for _ in range(BATCHES_IN_FIVE_MINUTES):
        world.asks()
        await world.flush()
        world.clock.shift(0.1)
    at_ms = world.clock.store_ms() + 3_000
    decision_id = f"dec-{at_ms:012x}-0badcafe-1"
    await report(world, decision_id, at_ms)
    world.clock.shift(60)

    assert (await world.recorded.get(NS, decision_id)).origin is Origin.LOCAL


async def test_an_agent_cannot_report_another_answer_under_the_id_of_a_replicas_decision():
    world = await DecisionWorld().start(NO_WRITES)
    denied = world.asks("db:write")
    await report(world, denied.decision_id, denied.request.now_ms)  # before the replica flushes
    await world.flush()
    world.clock.shift(60)

    record = await world.recorded.get(NS, denied.decision_id)
    assert (record.origin, record.decision.effect) == (Origin.SERVER, Effect.DENY)


async def test_what_an_agent_reports_under_an_id_that_a_replica_did_not_record_is_not_shown():
    world = await DecisionWorld().start(NO_WRITES)
    world.asks("db:write")
    await world.flush()
    unrecorded = world.asks("db:write", dry_run=True)
    await report(world, unrecorded.decision_id, unrecorded.request.now_ms)
    world.clock.shift(60)

    with pytest.raises(DecisionNotFound):
        await world.recorded.get(NS, unrecorded.decision_id)


async def test_an_id_of_the_future_is_not_waited_for():
    world = await DecisionWorld().start()
    world.asks()
    await world.flush()
    asking = asyncio.create_task(world.recorded.get(NS, "dec-ffffffffffff-0badcafe-1"))
    await world.clock.advance(0.5)

    assert asking.done()
    with pytest.raises(DecisionNotFound):
        await asking


async def test_a_report_whose_ids_say_another_time_is_refused():
    world = await DecisionWorld().start()
    now_ms = world.clock.store_ms()

    with pytest.raises(InvalidArgument) as refused:
        await report(world, f"dec-{now_ms:012x}-0badcafe-1", now_ms - 61_000)
    assert refused.value.violations[0].field == "decisions[0].decision.decision_id"
