"""Opening, deciding and using approvals over a ledger in memory, on a clock moved by hand."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.approvals.model import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    EntryKind,
    StandingGrant,
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
from controlplane.domain.errors import DomainError, LimitExceeded, RevisionConflict
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.policies import ApprovalRequirement, Effect, Policy, Target
from controlplane.services.approvals.consumption import Use, Used
from controlplane.services.approvals.deciding import Ballot
from controlplane.services.approvals.pages import ApprovalFilter
from controlplane.services.approvals.records import pending_counter, voter_of
from controlplane.services.approvals.waiting import ApprovalWatch, Delta, SnapshotPart
from controlplane.services.policies.decisions import Decisions, Question
from controlplane.services.ports import Collection, Put
from fleetplane_policy.model import ApprovalStage
from tests.fakes.fleet import NAMESPACE
from tests.fakes.lifecycle_plane import FollowingLedger, LifecyclePlane

S, D = ApprovalState, ApprovalDecision
TTL, WINDOW = 900, 300  # seconds, by default


def person(name: str) -> Caller:
    return Caller(name=f"user:{name}", kind=CallerKind.USER, subjects=(f"user:{name}",))


ANN, BOB, CID = person("ann"), person("bob"), person("cid")


class Desk:
    """An agent that pays, and everybody around it."""

    def __init__(self) -> None:
        self.plane = LifecyclePlane()
        self.ledger = FollowingLedger(self.plane.replica)
        self.parts = self.plane.ops.approvals
        self.decisions = Decisions(self.plane.replica.read_model, self.plane.clock)

    async def policy(self, effect: Effect | None, **fields: Any) -> None:
        policy = Policy(
            policy_id="ask", action=effect or Effect.LOG_ONLY, targets=Target(actions=("pay",))
        )
        await self.plane.commit(Put(Collection.POLICIES, "ask", replace(policy, **fields)))
        await self.plane.replica.follow()

    async def ask(self, session: str = "s", *, who: Caller = ANN, **claims: Any) -> Approval:
        answer = self.decisions.evaluate(
            NAMESPACE, Question("a", "pay", {"to": "ann"} | claims, session_id=session)
        )
        approval = await self.parts.opening.open_answer(NAMESPACE, answer, caller=who)
        assert approval is not None
        return approval

    async def vote(
        self,
        approval: Approval,
        what: ApprovalDecision = D.GRANT,
        *,
        who: Caller = BOB,
        **fields: Any,
    ) -> Approval:
        ballot = Ballot(approval_id=approval.approval_id, decision=what, **fields)
        return await self.parts.decisions.decide(NAMESPACE, ballot, caller=who)

    async def granted(self, session: str = "s", **claims: Any) -> Approval:
        return await self.vote(await self.ask(session, **claims))

    async def use(
        self, approval: Approval, consume_id: str = "c", *, session: str = "s", **claims: Any
    ) -> Used:
        use = Use(
            approval_id=approval.approval_id,
            agent_id="a",
            action="pay",
            tool="",
            session_id=session,
            claims={"to": "ann"} | claims,
            consume_id=consume_id,
        )
        return await self.parts.consumption.consume(NAMESPACE, use, caller=ANN)

    async def now(self, approval: Approval) -> Approval:
        return await self.parts.records.stored(NAMESPACE, approval.approval_id)

    async def sweep(self) -> int:
        swept = await self.parts.sweep.sweep(NAMESPACE)
        await self.plane.replica.follow()
        return swept

    async def open_ones(self) -> int:
        (count,) = await self.ledger.read_counts(NAMESPACE, [pending_counter("a")])
        return count


@pytest.fixture
async def desk():
    desk = Desk()
    await desk.plane.register("a", "i")
    await desk.policy(Effect.REQUIRE_APPROVAL)
    return desk


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


class LateClock:
    """A copy of the store's clock that is off."""

    def __init__(self, inner: Any, by_ms: int) -> None:
        self._inner = inner
        self._by_ms = by_ms

    def store_ms(self) -> int:
        return int(self._inner.store_ms()) + self._by_ms


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


class TestStanding:
    GRANT = StandingGrant(
        grant_id="",
        agent_name="a",
        agent_id="",
        action="pay",
        tool="",
        conditions={"attr": "claim.to", "op": "eq", "value": "ann"},
        max_uses=2,
        expires_at_ms=0,
        reason="the night run",
        created_by="",
    )

    async def give(self, desk) -> StandingGrant:
        grant = replace(self.GRANT, expires_at_ms=desk.plane.clock.store_ms() + 60_000)
        return await desk.parts.standing.create(NAMESPACE, grant, request=None, caller=BOB)

    async def test_it_grants_at_once_a_few_times_and_each_is_recorded(self, desk):
        grant = await self.give(desk)
        asked = [await desk.ask(f"s{n}") for n in range(3)]
        assert [one.state for one in asked] == [S.GRANTED, S.GRANTED, S.PENDING]
        assert asked[0].standing_grant_id == grant.grant_id
        assert asked[0].entries[-1].kind is EntryKind.STANDING_GRANT
        assert (await desk.use(asked[0], session="s0")).approval.state is S.CONSUMED
        assert await desk.open_ones() == 1

    async def test_its_uses_are_counted_when_many_ask_at_once(self, desk):
        await self.give(desk)
        asked = await asyncio.gather(*(desk.ask(f"s{n}") for n in range(6)))
        assert sum(one.state is S.GRANTED for one in asked) == 2

    async def test_it_holds_for_nothing_else(self, desk):
        await self.give(desk)
        assert (await desk.ask(to="bob")).state is S.PENDING

    async def test_it_never_holds_for_what_is_irreversible(self, desk):
        await self.give(desk)
        gone = ApprovalRequirement(irreversible=True)
        await desk.policy(Effect.REQUIRE_APPROVAL, approval=gone)
        assert (await desk.ask()).state is S.PENDING

    async def test_one_that_was_taken_back_grants_nothing(self, desk):
        grant = await self.give(desk)
        for _ in range(2):
            await desk.parts.standing.revoke(NAMESPACE, grant.grant_id, reason="", caller=CID)
        assert (await desk.ask()).state is S.PENDING


class TestFollowing:
    async def test_lists_show_what_the_caller_may_decide(self, desk):
        mine, own = await desk.ask("1", who=CID), await desk.ask("2", who=BOB)
        voter = voter_of(BOB, NAMESPACE, may_approve=True)
        page = await desk.parts.pages.page(
            NAMESPACE, ApprovalFilter(mine=True), voter, after="", limit=10, min_revision=0
        )
        assert [one.approval_id for one in page.approvals] == [mine.approval_id]
        everything = await desk.parts.pages.page(
            NAMESPACE, ApprovalFilter(), voter, after="", limit=1, min_revision=0
        )
        assert [one.approval_id for one in everything.approvals] == [own.approval_id]
        assert (everything.total, everything.next_cursor) == (2, own.approval_id)

    async def test_a_watch_tells_what_is_there_and_what_changes(self, desk):
        approval = await desk.ask()
        watch = ApprovalWatch(
            desk.plane.replica.read_model,
            NAMESPACE,
            ApprovalFilter(states=frozenset({S.PENDING})).choosing(
                voter_of(BOB, NAMESPACE, may_approve=True), desk.plane.clock.store_ms
            ),
            desk.plane.clock,
        )
        events = watch.events()
        first = await anext(events)
        assert isinstance(first, SnapshotPart)
        assert (first.complete, first.approvals[0].approval_id) == (True, approval.approval_id)
        second = await desk.ask("t")
        event = await anext(events)
        assert isinstance(event, Delta)
        assert [one.approval_id for one in event.approvals] == [second.approval_id]
        await desk.vote(approval)
        event = await anext(events)
        assert isinstance(event, Delta)
        assert event.removed_ids == (approval.approval_id,)
        await events.aclose()

    async def test_a_watch_resumes_with_what_changed_since(self, desk):
        first = await desk.ask()
        position = desk.plane.replica.read_model.view(NAMESPACE).position
        second = await desk.ask("t")
        watch = ApprovalWatch(
            desk.plane.replica.read_model, NAMESPACE, lambda _: True, desk.plane.clock
        )
        events = watch.events(position.epoch, position.revision)
        event = await anext(events)
        assert isinstance(event, Delta)
        assert [one.approval_id for one in event.approvals] == [second.approval_id]
        assert first.approval_id not in event.removed_ids
        await events.aclose()

    async def test_a_wait_ends_with_the_decision_with_time_and_with_expiry(self, desk):
        approval = await desk.ask()
        wait = desk.parts.waits.wait

        async def waiting(wait_ms: int) -> Any:
            task = asyncio.ensure_future(wait(NAMESPACE, approval.approval_id, wait_ms=wait_ms))
            for _ in range(5):
                await asyncio.sleep(0)
            return task

        short = await waiting(1_000)
        await desk.plane.clock.advance(1)
        assert ((await short).approval.state, (await short).poll_after_ms > 0) == (S.PENDING, True)
        long = await waiting(55_000)
        await desk.vote(approval)
        waited = await long
        assert (waited.approval.state, waited.poll_after_ms) == (S.GRANTED, 0)

    async def test_a_wait_sees_the_end_of_time_with_nobody_sweeping(self, desk):
        approval = await desk.ask()
        desk.plane.clock.shift(TTL - 10)
        waiting = asyncio.ensure_future(
            desk.parts.waits.wait(NAMESPACE, approval.approval_id, wait_ms=55_000)
        )
        for _ in range(5):
            await asyncio.sleep(0)
        await desk.plane.clock.advance(10)
        assert (await waiting).approval.state is S.EXPIRED

    async def test_waiting_for_nothing_is_refused(self, desk):
        with pytest.raises(DomainError):
            await desk.parts.waits.wait(NAMESPACE, "apr-0", wait_ms=1)
