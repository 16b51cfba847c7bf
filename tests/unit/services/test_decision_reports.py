"""Agents report what they decided themselves."""

from typing import Any

import pytest

from controlplane.domain.decisions.records import MASKED, GapCause, Origin
from controlplane.domain.errors import AgentNotFound, InvalidArgument, StoreUnavailable
from controlplane.domain.policies import Decision, DecisionReason, Effect
from controlplane.services.policies.decision_reports import (
    DecisionReports,
    LocalDecision,
    Report,
)
from controlplane.services.policies.decisions import DecisionIds
from tests.fakes.decision_world import DecisionWorld
from tests.fakes.plane import NS

IDS = DecisionIds()


def reports_of(world: DecisionWorld) -> DecisionReports:
    return DecisionReports(world.log, world.plane.read_model, world.clock)


def local(world: DecisionWorld, **fields: Any) -> LocalDecision:
    at_ms = fields.pop("at_ms", world.clock.store_ms())
    said = Decision(
        effect=Effect.DENY, reason=DecisionReason.POLICY, revision=3, determining=("p",)
    )
    stated: dict[str, Any] = {
        "decision_id": IDS.new(at_ms),
        "decision": said,
        "at_ms": at_ms,
        "action": "read",
        "claims": {"environment": "production"},
        "latency_ns": 900,
        "policy_digest": "sha256:1",
    }
    return LocalDecision(**stated | fields)


def report(world: DecisionWorld, *decisions: LocalDecision, **fields: Any) -> Report:
    stated = {"agent_id": world.agent_id, "batch_id": "b-1", "decisions": decisions}
    return Report(**stated | fields)


async def test_what_an_agent_reports_is_recorded_as_its_word():
    world = await DecisionWorld().start()
    made = [local(world, tool="psql", session_id="s") for _ in range(3)]
    assert await reports_of(world).record(NS, report(world, *made), caller="agent:researcher")

    records = await world.records()
    assert [record.decision_id for record in records] == [one.decision_id for one in made]
    record = records[0]
    assert record.origin is Origin.LOCAL
    assert record.caller == "agent:researcher"
    assert record.agent_id == world.agent_id
    assert record.facts["agent_tags"] == {"team": "red"}
    assert record.decision == made[0].decision
    assert record.policy_digest == "sha256:1"
    assert (record.tool, record.session_id, record.latency_ns) == ("psql", "s", 900)


async def test_a_report_is_found_by_the_ids_in_it():
    world = await DecisionWorld().start()
    made = local(world, at_ms=world.clock.store_ms() - 120_000)
    await reports_of(world).record(NS, report(world, made), caller="a")

    assert (await world.recorded.get(NS, made.decision_id)).decision_id == made.decision_id


async def test_a_repeated_report_is_recorded_once():
    world = await DecisionWorld().start()
    told = report(
        world,
        local(world),
        number_lost=7,
        lost_from_ms=world.clock.store_ms() - 10,
        lost_to_ms=world.clock.store_ms(),
    )
    reports = reports_of(world)
    world.log.away = world.log.takes_silently = True  # the first half arrives, unacknowledged
    with pytest.raises(StoreUnavailable):
        await reports.record(NS, told, caller="a")
    world.log.away = world.log.takes_silently = False

    assert await reports.record(NS, told, caller="a")  # the rest of it
    assert not await reports.record(NS, told, caller="a")
    assert len(await world.records()) == 1
    (gap,) = await world.gaps()
    assert (gap.number_lost, gap.cause, gap.source) == (
        7,
        GapCause.NOT_REPORTED,
        world.agent_id,
    )


async def test_batches_of_other_agents_are_others():
    world = await DecisionWorld().start()
    other = (await world.plane.register(name="other")).agent.agent_id
    reports = reports_of(world)

    assert await reports.record(NS, report(world, local(world)), caller="a")
    assert await reports.record(NS, report(world, local(world), agent_id=other), caller="b")
    assert [record.agent_name for record in await world.records()] == ["researcher", "other"]


async def test_masks_hold_for_reports():
    world = await DecisionWorld().start(masked=["card"])
    await reports_of(world).record(NS, report(world, local(world, claims={"card": 1})), caller="a")

    (record,) = await world.records()
    assert record.claims == {"card": MASKED}
    assert record.masked_paths == ("card",)


async def test_an_empty_report_is_nothing():
    world = await DecisionWorld().start()

    assert not await reports_of(world).record(NS, report(world), caller="a")
    assert await world.contents() == []


async def test_nobody_reports_for_an_agent_that_there_is_not():
    world = await DecisionWorld().start()

    with pytest.raises(AgentNotFound):
        await reports_of(world).record(NS, report(world, agent_id="nobody"), caller="a")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"decision_id": "dec-1"}, "decisions[1].decision.decision_id"),
        ({"action": "do it"}, "decisions[1].action"),
        ({"action": ""}, "decisions[1].action"),
        ({"tool": '"'}, "decisions[1].tool"),
        ({"at_ms": 10**15, "decision_id": IDS.new(1)}, "decisions[1].made_at"),
        ({"at_ms": 0, "decision_id": IDS.new(1)}, "decisions[1].made_at"),
        ({"claims": {"x": float("nan")}}, "decisions[1].context.x"),
    ],
)
async def test_malformed_decisions_are_named_and_nothing_is_recorded(fields, named):
    world = await DecisionWorld().start()

    with pytest.raises(InvalidArgument) as refusal:
        await reports_of(world).record(
            NS, report(world, local(world), local(world, **fields)), caller="a"
        )
    assert refusal.value.violations[0].field == named
    assert await world.contents() == []


@pytest.mark.parametrize(("first", "last"), [(0, 5), (5, 4), (5, 10**15)])
async def test_a_gap_needs_its_time(first, last):
    world = await DecisionWorld().start()

    with pytest.raises(InvalidArgument, match="lost_from"):
        await reports_of(world).record(
            NS, report(world, number_lost=1, lost_from_ms=first, lost_to_ms=last), caller="a"
        )
