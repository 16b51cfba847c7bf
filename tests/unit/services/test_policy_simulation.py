"""Replays: what would come out otherwise, out of how many, and which cannot be told."""

import asyncio
from dataclasses import replace

import pytest

from controlplane.domain.decisions.records import DecisionGap, GapCause
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import Effect, Policy
from controlplane.domain.policy_sets.candidates import StageKind
from controlplane.domain.policy_sets.refusals import TooManyFlips
from controlplane.domain.policy_sets.replay import NO_POLICY, NotReplayable, ReplayReport
from controlplane.services.policies.answers import Answered
from controlplane.services.policies.decision_log_port import DecisionBatch
from controlplane.services.policies.decision_packing import gap_batch
from controlplane.services.policies.shadow import Shadow
from controlplane.services.policies.simulation import Sample
from tests.fakes.plane import NS
from tests.fakes.policy_changes import ChangingPlane, record_of

COSTLY = Policy(policy_id="costly", action=Effect.DENY, conditions={"estimated_cost_exceeds": 10})
READS = Policy(policy_id="reads", action=Effect.DENY, conditions={"action": "read"})
CARDS = Policy(
    policy_id="cards", action=Effect.DENY, conditions={"action": "pay", "claim.card.kind": "test"}
)


async def decided(plane: ChangingPlane, count: int = 40) -> tuple[str, list[Answered]]:
    """Have an agent ask many things; all of it is recorded."""
    agent = (await plane.register()).agent.agent_id
    answers = [
        plane.ask(agent, "read" if n % 4 == 0 else "write", estimated_cost=n) for n in range(count)
    ]
    plane.log.add([record_of(one) for one in answers])
    return agent, answers


async def run(plane: ChangingPlane, *policies: Policy, **sample: int) -> ReplayReport:
    return await plane.simulations.run(plane.read_model.view(NS), policies, Sample(**sample))


async def test_flips_are_exactly_what_the_candidate_answers_otherwise() -> None:
    plane = ChangingPlane()
    await plane.create(COSTLY)
    agent, before = await decided(plane)
    candidate = await plane.candidate(READS)
    rules = candidate.rules(plane.read_model.view(NS).policy_set)
    report = await run(plane, *rules.policies)
    await plane.activate(candidate.candidate_id)
    after = [plane.ask(agent, b.request.action, **b.request.claims) for b in before]
    differ = {
        b.decision_id
        for b, a in zip(before, after, strict=True)
        if b.decision.effect is not a.decision.effect
    }
    assert report.recorded == report.replayed == len(before)
    assert report.flips == len(differ) > 0
    assert {one.decision_id for one in report.examples} == differ
    assert report.by_effect == {(Effect.ALLOW, Effect.DENY): len(differ)}
    assert report.by_agent == {(agent, "researcher"): len(differ)}
    assert report.by_policy == {"reads": len(differ), NO_POLICY: len(differ)}
    assert report.agreed_by_live == 0


async def test_what_the_live_set_answers_otherwise_already_is_told_apart() -> None:
    plane = ChangingPlane()
    await decided(plane)
    await plane.create(READS)
    report = await run(plane, READS)
    assert report.flips == report.agreed_by_live == 10


async def test_only_the_newest_are_replayed() -> None:
    plane = ChangingPlane()
    _, before = await decided(plane)
    report = await run(plane, READS, limit=4)
    assert report.recorded == 4
    assert [one.decision_id for one in report.examples] == [before[36].decision_id]


async def test_a_time_range_bounds_the_replay() -> None:
    plane = ChangingPlane()
    _, first = await decided(plane)
    at = first[0].request.now_ms
    late = [record_of(one, at_ms=at + 60_000) for one in first[:8]]
    plane.log.add(late)
    report = await run(plane, READS, from_ms=at + 1_000)
    assert report.recorded == 8
    earlier = await run(plane, READS, to_ms=at + 1_000)
    assert earlier.recorded == 40
    assert earlier.newest_ms == at


async def test_a_decision_that_hangs_on_a_masked_value_is_not_replayed() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    pays = plane.ask(agent, "pay", card={"kind": "test"}, cost=1)
    reads = plane.ask(agent, "read", card={"kind": "test"}, cost=1)
    masked = {"claims": {"card": {"kind": "(masked)"}, "cost": 1}, "masked_paths": ("card.kind",)}
    plane.log.add([record_of(pays, **masked), record_of(reads, **masked)])
    report = await run(plane, CARDS)
    # The other one is no payment, whatever the card was.
    assert report.recorded == 2
    assert report.not_replayable == {NotReplayable.MASKED: 1}
    assert report.replayed == 1
    unread = await run(plane, READS)
    assert unread.replayed == 2


async def test_what_was_lost_and_what_was_sampled_is_in_the_denominator() -> None:
    plane = ChangingPlane()
    _, before = await decided(plane, 4)
    plane.log.add([record_of(one, sample_rate=0.1) for one in before])
    at = before[0].request.now_ms
    gap = DecisionGap(
        number_lost=7, first_ms=at, last_ms=at, cause=GapCause.OVERFLOW, source="fake"
    )
    plane.log.append(gap_batch(gap, "fake", 9))
    plane.log.append(
        DecisionBatch(
            source="fake", sequence=10, count=3, first_ms=at, last_ms=at, packed=b"damaged"
        )
    )
    report = await run(plane, READS)
    assert report.not_replayable == {NotReplayable.LOST: 7, NotReplayable.UNREADABLE: 3}
    assert report.recorded == 11
    assert report.made == 18
    assert report.sampled == 4
    assert report.unsampled == pytest.approx(36)


async def test_more_flips_than_allowed_refuse_the_activation() -> None:
    plane = ChangingPlane()
    live = await plane.create(COSTLY)
    await decided(plane)
    candidate = await plane.candidate(READS)
    with pytest.raises(TooManyFlips) as refused:
        await plane.activate(candidate.candidate_id, max_flips=2)
    assert int(refused.value.metadata["flips"]) == 3
    assert refused.value.metadata["max_flips"] == "2"
    assert plane.read_model.view(NS).policy_set.revision == live
    done = await plane.activate(candidate.candidate_id, max_flips=40)
    assert done.report is not None
    assert done.report.replayed == 40


async def test_the_loop_goes_on_while_decisions_are_replayed() -> None:
    plane = ChangingPlane()
    _, before = await decided(plane, 200)
    for _ in range(20):
        plane.log.add([record_of(one) for one in before])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    busy = asyncio.create_task(others())
    report = await run(plane, READS)
    busy.cancel()
    assert report.recorded == 4_200
    assert turns > 21


@pytest.mark.parametrize(
    "sample", [{"limit": 0}, {"limit": 1_000_000}, {"from_ms": 10, "to_ms": 5}]
)
async def test_a_sample_that_means_nothing_is_refused(sample: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        await run(ChangingPlane(), **sample)


async def shadowed(plane: ChangingPlane) -> None:
    await plane.create(COSTLY)
    candidate = await plane.candidate(READS)
    await plane.activate(candidate.candidate_id, stage=StageKind.SHADOW)


async def test_a_shadow_compares_what_was_recorded() -> None:
    plane = ChangingPlane()
    await shadowed(plane)
    shadow = Shadow(plane.read_model)
    _, before = await decided(plane)
    shadow.listen(NS, [record_of(one) for one in before])
    assert await shadow.compare() == 40
    stage = plane.read_model.view(NS).stage
    assert stage is not None
    found = shadow.report_of(NS, stage)
    assert found.report.replayed == 40
    assert found.report.by_effect == {(Effect.ALLOW, Effect.DENY): 3}
    assert not shadow.heard.is_set()
    assert shadow.report_of(NS, replace(stage, stage_id="other")).report.replayed == 0


async def test_a_shadow_counts_what_it_cannot_keep() -> None:
    plane = ChangingPlane()
    await shadowed(plane)
    shadow = Shadow(plane.read_model, waiting=10)
    _, before = await decided(plane)
    shadow.listen(NS, [record_of(one) for one in before])
    stage = plane.read_model.view(NS).stage
    assert stage is not None
    assert shadow.report_of(NS, stage).dropped == 30
    assert await shadow.compare() == 10


async def test_without_a_shadow_nothing_is_kept() -> None:
    plane = ChangingPlane()
    shadow = Shadow(plane.read_model)
    _, before = await decided(plane)
    shadow.listen(NS, [record_of(one) for one in before])
    assert await shadow.compare() == 0
