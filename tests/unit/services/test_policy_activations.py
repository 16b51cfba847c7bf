"""Candidates become live in steps, never by accident, and everything can be taken back."""

from dataclasses import replace

import pytest

from controlplane.domain.errors import (
    InvalidArgument,
    InvalidTransition,
    LimitExceeded,
    RevisionConflict,
)
from controlplane.domain.policies import Effect, Policy, digest_of
from controlplane.domain.policy_sets.candidates import MAX_CANDIDATES, StageKind
from controlplane.domain.policy_sets.history import ChangeKind
from controlplane.domain.policy_sets.refusals import PolicyCandidateNotFound, PolicyTestsFailed
from controlplane.domain.policy_sets.tests import PolicyTest, TestAgent
from controlplane.services.policies.candidates import CandidateDraft
from controlplane.services.policies.policy_tests import TestsChange
from controlplane.services.policies.staging import rules_for
from controlplane.services.ports import RequestKey
from tests.fakes.plane import CALLER, NS
from tests.fakes.policy_changes import ChangingPlane, record_of

WRITES = Policy(policy_id="writes", action=Effect.DENY, conditions={"action": "write"})
READS = Policy(policy_id="reads", action=Effect.DENY, conditions={"action": "read"})
CALLS = Policy(policy_id="calls", action=Effect.DENY, conditions={"action": "call"})


async def test_a_candidate_decides_nothing_until_it_is_activated() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    live = await plane.create(WRITES)
    candidate = await plane.candidate(READS)
    assert plane.ask(agent, "read").decision.effect is Effect.ALLOW
    done = await plane.activate(candidate.candidate_id, expected_revision=live)
    answer = plane.ask(agent, "read").decision
    assert answer.effect is Effect.DENY
    assert answer.revision == done.live_revision > live
    assert answer.candidate_id == ""
    page = await plane.revisions.page(NS, before=None, limit=1)
    (newest,) = page.revisions
    assert newest.change.kind is ChangeKind.ACTIVATED
    assert newest.change.candidate_id == candidate.candidate_id
    assert newest.digest == digest_of((WRITES, READS))


async def test_a_whole_set_removes_what_it_does_not_name() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES, READS)
    candidate = await plane.candidate(whole=(WRITES, CALLS))
    assert [p.policy_id for p in candidate.put] == ["calls"]
    assert candidate.delete == ("reads",)
    await plane.activate(candidate.candidate_id)
    assert set(plane.read_model.view(NS).policies) == {"writes", "calls"}


async def test_a_candidate_that_changes_nothing_is_refused() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    with pytest.raises(InvalidArgument, match="change nothing"):
        await plane.candidate(whole=(WRITES,))


async def test_a_candidate_with_a_wrong_policy_is_refused() -> None:
    plane = ChangingPlane()
    with pytest.raises(InvalidArgument, match="conditions"):
        await plane.candidate(replace(READS, conditions={"estimted_cost_exceeds": "x"}))
    with pytest.raises(InvalidArgument, match="there twice"):
        await plane.candidate(READS, READS)
    with pytest.raises(InvalidArgument, match="no policy"):
        await plane.candidate(delete=("nobody",))


async def test_candidates_are_bounded_and_can_be_removed() -> None:
    plane = ChangingPlane()
    kept = [await plane.candidate(READS) for _ in range(MAX_CANDIDATES)]
    with pytest.raises(LimitExceeded):
        await plane.candidate(READS)
    await plane.candidates.delete(NS, kept[0].candidate_id, reason="", request=None, caller=CALLER)
    await plane.follow()
    await plane.candidate(READS)
    with pytest.raises(PolicyCandidateNotFound):
        await plane.candidates.get(NS, kept[0].candidate_id, min_revision=0)


async def test_a_stale_revision_is_refused() -> None:
    plane = ChangingPlane()
    live = await plane.create(WRITES)
    candidate = await plane.candidate(READS, expected_revision=live)
    await plane.create(CALLS)
    with pytest.raises(RevisionConflict):
        await plane.activate(candidate.candidate_id, expected_revision=live)
    with pytest.raises(RevisionConflict):
        await plane.candidate(READS, expected_revision=live)


async def test_a_share_of_the_agents_is_decided_for_by_the_candidate() -> None:
    plane = ChangingPlane()
    live = await plane.create(WRITES)
    agents = [(await plane.register(version=f"1.0.{n}")).agent.agent_id for n in range(60)]
    candidate = await plane.candidate(READS)
    begun = await plane.percent(candidate.candidate_id, 30)
    assert begun.live_revision == live
    denied = {a for a in agents if plane.ask(a, "read").decision.effect is Effect.DENY}
    assert 0 < len(denied) < len(agents)
    decided = {a: plane.ask(a, "read").decision for a in agents}
    assert all(decided[a].candidate_id == candidate.candidate_id for a in denied)
    assert all(decided[a].candidate_id == "" for a in agents if a not in denied)
    assert {decided[a].revision for a in agents} == {live}
    # A batch decides each item by the set of its agent, on one reading.
    await plane.percent(candidate.candidate_id, 70)
    more = {a for a in agents if plane.ask(a, "read").decision.effect is Effect.DENY}
    assert denied < more
    await plane.activate(candidate.candidate_id)
    assert all(plane.ask(a, "read").decision.effect is Effect.DENY for a in agents)
    assert plane.read_model.view(NS).stage is None


async def test_another_replica_that_starts_later_chooses_the_same_agents() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    candidate = await plane.candidate(READS)
    await plane.percent(candidate.candidate_id, 40)
    view = plane.read_model.view(NS)
    late = plane.read_model.new_view(NS)
    async for position, batch in plane.feed.load(NS):
        late.apply(batch, position)
    for number in range(500):
        agent = f"agt-{number}"
        ours, theirs = rules_for(view, agent), rules_for(late, agent)
        assert (ours.candidate_id, ours.revision) == (theirs.candidate_id, theirs.revision)


async def test_a_policy_that_is_added_in_a_hurry_holds_under_a_stage_too() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    candidate = await plane.candidate(READS)
    await plane.percent(candidate.candidate_id, 99)
    agents = [(await plane.register(version=f"1.0.{n}")).agent.agent_id for n in range(10)]
    await plane.create(CALLS)
    assert all(plane.ask(a, "call").decision.effect is Effect.DENY for a in agents)
    await plane.activate(candidate.candidate_id)
    assert set(plane.read_model.view(NS).policies) == {"writes", "reads", "calls"}


async def test_a_stage_can_be_stopped() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    await plane.create(WRITES)
    candidate = await plane.candidate(READS)
    await plane.percent(candidate.candidate_id, 99)
    with pytest.raises(InvalidTransition):
        await plane.candidates.delete(
            NS, candidate.candidate_id, reason="", request=None, caller=CALLER
        )
    stopped = await plane.stages.stop(NS, reason="", request=None, caller=CALLER)
    await plane.follow()
    assert stopped is not None
    assert plane.ask(agent, "read").decision.effect is Effect.ALLOW
    assert await plane.stages.stop(NS, reason="", request=None, caller=CALLER) is None


async def test_one_candidate_is_staged_at_a_time() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    first, second = await plane.candidate(READS), await plane.candidate(CALLS)
    await plane.percent(first.candidate_id, 10)
    with pytest.raises(InvalidTransition):
        await plane.percent(second.candidate_id, 10)


async def test_a_shadow_decides_for_nobody() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    await plane.create(WRITES)
    candidate = await plane.candidate(READS)
    await plane.activate(candidate.candidate_id, stage=StageKind.SHADOW)
    assert plane.ask(agent, "read").decision.effect is Effect.ALLOW


@pytest.mark.parametrize(
    ("stage", "percent"),
    [(StageKind.PERCENT, 0), (StageKind.PERCENT, 100), (StageKind.SHADOW, 5), (None, 5)],
)
async def test_a_percentage_that_means_nothing_is_refused(
    stage: StageKind | None, percent: int
) -> None:
    plane = ChangingPlane()
    with pytest.raises(InvalidArgument):
        await plane.activate("any", stage=stage, percent=percent)


async def test_a_failing_test_blocks_the_activation_and_names_itself() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    reads_work = PolicyTest(
        name="reads work", action="read", effect=Effect.ALLOW, agent=TestAgent(name="a")
    )
    await plane.live_tests.put(NS, TestsChange(tests=(reads_work,)), caller=CALLER)
    await plane.follow()
    candidate = await plane.candidate(READS)
    with pytest.raises(PolicyTestsFailed) as refused:
        await plane.activate(candidate.candidate_id)
    assert refused.value.metadata["failed"] == "1"
    assert "DENY" in refused.value.metadata["test.reads work"]
    # A candidate that brings its own tests is held to those, and they stay with the live set.
    own = replace(reads_work, effect=Effect.DENY, determining=("reads",))
    other = await plane.candidate(READS, tests=(own,))
    await plane.activate(other.candidate_id)
    tests, failed = await plane.live_tests.get(NS, min_revision=0)
    assert tests.tests == (own,)
    assert not failed


async def test_a_rollback_is_a_new_revision_with_the_old_content() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    first = await plane.create(WRITES)
    candidate = await plane.candidate(READS, delete=("writes",))
    await plane.activate(candidate.candidate_id)
    done = await plane.rollback(first)
    assert set(plane.read_model.view(NS).policies) == {"writes"}
    assert plane.ask(agent, "write").decision.revision == done.live_revision
    (newest, *_) = (await plane.revisions.page(NS, before=None, limit=5)).revisions
    assert newest.change.kind is ChangeKind.ROLLED_BACK
    assert newest.change.restored_from == first
    assert newest.digest == digest_of((WRITES,))
    # And back again.
    await plane.rollback(done.live_revision - 1)
    assert set(plane.read_model.view(NS).policies) == {"reads"}


async def test_a_rollback_ends_a_stage() -> None:
    plane = ChangingPlane()
    first = await plane.create(WRITES)
    await plane.create(CALLS)
    candidate = await plane.candidate(READS)
    await plane.percent(candidate.candidate_id, 50)
    await plane.rollback(first)
    assert plane.read_model.view(NS).stage is None


async def test_the_same_request_activates_once() -> None:
    plane = ChangingPlane()
    await plane.create(WRITES)
    candidate = await plane.candidate(READS)
    request = RequestKey("r-1", "digest")
    first = await plane.activate(candidate.candidate_id, request=request)
    again = await plane.activate(candidate.candidate_id, request=request)
    assert again.live_revision == first.live_revision


async def test_a_dry_run_writes_nothing() -> None:
    plane = ChangingPlane()
    live = await plane.create(WRITES)
    shown = await plane.candidates.create(
        NS, CandidateDraft(put=(READS,), dry_run=True), caller=CALLER
    )
    assert [one.policy_id for one in shown.changes] == ["reads"]
    candidate = await plane.candidate(READS)
    tried = await plane.activate(candidate.candidate_id, dry_run=True)
    assert [one.policy_id for one in tried.changes] == ["reads"]
    assert (await plane.follow()).policy_set.revision == live


async def test_two_who_activate_at_once_do_not_both_replace_the_same_set() -> None:
    plane = ChangingPlane()
    live = await plane.create(WRITES)
    first, second = await plane.candidate(READS), await plane.candidate(CALLS)
    await plane.activate(first.candidate_id, expected_revision=live)
    with pytest.raises(RevisionConflict):
        await plane.activate(second.candidate_id, expected_revision=live)


async def test_an_edit_during_a_replay_is_neither_lost_nor_overwritten() -> None:
    plane = ChangingPlane()
    agent = (await plane.register()).agent.agent_id
    await plane.create(WRITES)
    plane.log.add([record_of(plane.ask(agent, "read"))])
    candidate = await plane.candidate(replace(READS, conditions={"action": "nothing"}))
    run = plane.simulations.run

    async def edited(*arguments: object) -> object:
        found = await run(*arguments)  # type: ignore[arg-type]  # handed on as they are
        plane.simulations.run = run  # type: ignore[method-assign]  # once is enough
        await plane.create(CALLS)
        return found

    plane.simulations.run = edited  # type: ignore[method-assign, assignment]  # in between
    done = await plane.activate(candidate.candidate_id, max_flips=0)
    assert set(plane.read_model.view(NS).policies) == {"writes", "reads", "calls"}
    assert [one.policy_id for one in done.changes] == ["reads"]
