"""Opening, deciding and using approvals over a ledger in memory, on a clock moved by hand."""

import asyncio
from dataclasses import replace

import pytest

from controlplane.domain.approvals.model import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    EntryKind,
)
from controlplane.domain.approvals.refusals import (
    AlreadyConsumed,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalNotOpen,
    ApprovalSuperseded,
    DigestMismatch,
    PolicyNowDenies,
)
from controlplane.domain.errors import LimitExceeded, RevisionConflict
from controlplane.domain.policies import ApprovalRequirement, Effect
from controlplane.services.approvals.consumption import Used
from controlplane.services.approvals.deciding import Ballot
from fleetplane_policy.model import ApprovalStage
from tests.fakes.approval_desk import (
    BOB,
    CID,
    TTL,
    WINDOW,
    Desk,
    LateClock,
    desk_with_a_policy,
    person,
)
from tests.fakes.fleet import NAMESPACE

S, D = ApprovalState, ApprovalDecision


@pytest.fixture
async def desk() -> Desk:
    return await desk_with_a_policy()


class TestOpening:
    async def test_the_same_action_is_asked_about_once_and_whoever_asks_too_waits(self, desk):
        first = await desk.ask()
        again = await desk.ask()
        other = await desk.ask(who=CID)
        assert first.approval_id == again.approval_id == other.approval_id
        assert (again.revision, other.waiters) == (first.revision, ("user:cid",))
        assert await desk.open_ones() == 1

    async def test_another_session_or_another_word_is_another_action(self, desk):
        asked = [await desk.ask(), await desk.ask("t"), await desk.ask(note="x")]
        assert len({one.approval_id for one in asked}) == 3

    async def test_many_who_ask_at_once_get_the_same(self, desk):
        asked = await asyncio.gather(*(desk.ask(who=person(f"p{n}")) for n in range(20)))
        assert len({one.approval_id for one in asked}) == 1

    async def test_a_grant_that_was_not_used_is_found_again_after_a_restart(self, desk):
        granted = await desk.granted()
        assert (await desk.ask()).state is S.GRANTED
        await desk.use(granted)
        assert (await desk.ask()).state is S.PENDING

    async def test_an_agent_waits_for_so_many_and_no_more(self, desk):
        outcomes = await asyncio.gather(
            *(desk.ask(f"s{n}") for n in range(25)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, LimitExceeded)]
        assert len(refused) == 5
        assert refused[0].metadata["limit"] == "20"
        await desk.vote(await desk.ask("s0"), D.DENY)
        assert (await desk.ask("s99")).state is S.PENDING

    async def test_one_that_expired_makes_room_before_anybody_swept(self, desk):
        first = await desk.ask()
        desk.plane.clock.shift(TTL)
        second = await desk.ask()
        assert second.approval_id != first.approval_id
        assert (await desk.now(first)).state is S.EXPIRED
        assert await desk.open_ones() == 1

    async def test_a_higher_ceiling_takes_its_place_and_a_lower_one_does_not(self, desk):
        first = await desk.granted(estimated_cost=2)
        assert (await desk.ask(estimated_cost=1)).approval_id == first.approval_id
        second = await desk.ask(estimated_cost=3)
        assert (second.state, (await desk.now(first)).state) == (S.PENDING, S.SUPERSEDED)

    async def test_policies_that_ask_for_more_take_its_place(self, desk):
        first = await desk.ask()
        two = ApprovalRequirement(stages=(ApprovalStage(name="two", quorum=2),))
        await desk.policy(Effect.REQUIRE_APPROVAL, approval=two)
        second = await desk.ask()
        assert (await desk.now(first)).state is S.SUPERSEDED
        assert second.requirement.stages[0].quorum == 2


class TestDeciding:
    async def test_a_vote_on_what_was_not_shown_is_refused(self, desk):
        approval = await desk.ask()
        await desk.ask(who=CID)
        with pytest.raises(RevisionConflict):
            await desk.vote(approval, expected_revision=approval.revision)
        assert (await desk.vote(approval)).state is S.GRANTED

    async def test_two_votes_at_once_are_two(self, desk):
        two = ApprovalRequirement(stages=(ApprovalStage(name="two", quorum=2),))
        await desk.policy(Effect.REQUIRE_APPROVAL, approval=two)
        approval = await desk.ask()
        await asyncio.gather(desk.vote(approval, who=BOB), desk.vote(approval, who=CID))
        assert (await desk.now(approval)).state is S.GRANTED

    async def test_all_or_nothing_is_all_or_nothing(self, desk):
        first, second = await desk.ask("1"), await desk.ask("2")
        await desk.vote(second, D.DENY, who=CID)
        ballots = [Ballot(approval_id=one.approval_id, decision=D.GRANT) for one in (first, second)]
        decide = desk.parts.decisions.decide_many
        with pytest.raises(ApprovalNotOpen):
            await decide(NAMESPACE, ballots, all_or_nothing=True, caller=BOB)
        assert (await desk.now(first)).state is S.PENDING
        outcomes = await decide(NAMESPACE, ballots, all_or_nothing=False, caller=BOB)
        assert [type(one) for one in outcomes] == [Approval, ApprovalNotOpen]
        third = await desk.ask("3")
        ballots = [Ballot(approval_id=third.approval_id, decision=D.GRANT)]
        (one,) = await decide(NAMESPACE, ballots, all_or_nothing=True, caller=BOB)
        assert isinstance(one, Approval)
        assert one.state is S.GRANTED

    async def test_nobody_is_asked_about_what_is_not_there(self, desk):
        with pytest.raises(ApprovalNotFound):
            await desk.vote(replace(await desk.ask(), approval_id="apr-0"))


class TestUsing:
    async def test_of_two_hundred_at_once_one_passes(self, desk):
        granted = await desk.granted()
        outcomes = await asyncio.gather(
            *(desk.use(granted, f"c{n}") for n in range(200)), return_exceptions=True
        )
        passed = [one for one in outcomes if isinstance(one, Used)]
        assert len(passed) == 1
        assert all(isinstance(one, AlreadyConsumed) for one in outcomes if one is not passed[0])

    async def test_the_same_use_is_answered_again_for_ten_minutes(self, desk):
        granted = await desk.granted()
        first = await desk.use(granted)
        again = await desk.use(granted)
        assert (first.replayed, again.replayed) == (False, True)
        assert again.approval.consume_id == "c"
        with pytest.raises(AlreadyConsumed):
            await desk.use(granted, "other")
        desk.plane.clock.shift(601)
        with pytest.raises(AlreadyConsumed):
            await desk.use(granted)

    async def test_the_same_use_for_something_else_is_no_repetition(self, desk):
        granted = await desk.granted(estimated_cost=2)
        await desk.use(granted, estimated_cost=1)
        with pytest.raises(DigestMismatch):
            await desk.use(granted, estimated_cost=1, to="bob")
        with pytest.raises(DigestMismatch):
            await desk.use(granted, estimated_cost=2)

    @pytest.mark.parametrize(
        "other", [{"to": "bob"}, {"note": ""}, {"estimated_cost": 3}, {"session": "t"}]
    )
    async def test_another_action_is_refused_and_costs_nothing(self, desk, other):
        granted = await desk.granted(estimated_cost=2)
        with pytest.raises(DigestMismatch):
            await desk.use(granted, **({"estimated_cost": 2} | other))
        assert not (await desk.use(granted, estimated_cost=2)).replayed

    async def test_not_before_it_is_granted_and_not_after_its_time(self, desk):
        approval = await desk.ask()
        with pytest.raises(ApprovalNotOpen):
            await desk.use(approval)
        await desk.vote(approval)
        desk.plane.clock.shift(WINDOW)
        with pytest.raises(ApprovalExpired):
            await desk.use(approval)

    async def test_policies_that_refuse_by_now_win_and_the_grant_stays(self, desk):
        granted = await desk.granted()
        await desk.policy(Effect.DENY)
        with pytest.raises(PolicyNowDenies) as refused:
            await desk.use(granted)
        assert refused.value.metadata["policies"] == "ask"
        await desk.policy(None)
        assert (await desk.use(granted)).approval.state is S.CONSUMED

    async def test_policies_that_ask_for_more_by_now_end_it(self, desk):
        granted = await desk.granted()
        two = ApprovalRequirement(stages=(ApprovalStage(name="two", quorum=2),))
        await desk.policy(Effect.REQUIRE_APPROVAL, approval=two)
        with pytest.raises(ApprovalSuperseded):
            await desk.use(granted)
        assert (await desk.now(granted)).state is S.SUPERSEDED

    async def test_policies_that_ask_for_the_same_of_other_names_do_not_matter(self, desk):
        granted = await desk.granted()
        await desk.policy(None)
        await desk.policy(Effect.REQUIRE_APPROVAL, policy_id="other", name="renamed")
        assert (await desk.use(granted)).approval.state is S.CONSUMED

    async def test_a_clock_that_is_behind_lets_nobody_pass_too_late(self, desk):
        granted = await desk.granted()
        late = LateClock(desk.plane.clock, -WINDOW * 1_000)
        desk.parts.consumption._clock = late
        desk.plane.clock.shift(WINDOW + 1)
        with pytest.raises(ApprovalExpired):
            await desk.use(granted)
        assert (await desk.now(granted)).state is S.GRANTED


class TestSweep:
    async def test_what_nobody_decided_or_used_expires_with_nobody_looking(self, desk):
        pending, granted = await desk.ask("1"), await desk.granted("2")
        desk.plane.clock.shift(WINDOW)
        assert await desk.sweep() == 1
        assert (await desk.now(granted)).state is S.EXPIRED
        desk.plane.clock.shift(TTL)
        assert (await desk.sweep(), await desk.sweep()) == (1, 0)
        ended = await desk.now(pending)
        assert (ended.state, ended.entries[-1].kind) == (S.EXPIRED, EntryKind.EXPIRED)
        assert await desk.open_ones() == 0

    async def test_a_clock_that_is_ahead_expires_nothing_too_early(self, desk):
        pending = await desk.ask()
        desk.parts.sweep._clock = LateClock(desk.plane.clock, TTL * 1_000)
        assert await desk.sweep() == 0
        assert (await desk.now(pending)).state is S.PENDING

    async def test_it_is_forgotten_after_a_time_and_not_before(self, desk):
        approval = await desk.vote(await desk.ask(), D.DENY)
        desk.plane.clock.shift(3_599)
        assert await desk.parts.sweep.forget(NAMESPACE) == 0
        desk.plane.clock.shift(2)
        assert await desk.parts.sweep.forget(NAMESPACE) == 1
        await desk.plane.replica.follow()
        with pytest.raises(ApprovalNotFound):
            await desk.now(approval)
