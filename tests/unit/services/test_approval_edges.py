"""Approvals where it gets tight: at the end of their time, among many who ask, and when flooded."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.approvals.model import (
    MAX_ENTRIES,
    MAX_WAITERS,
    ROOM_FOR_VOTES,
    Approval,
    ApprovalDecision,
    ApprovalState,
    StandingGrant,
)
from controlplane.domain.approvals.refusals import ApprovalExpired, SelfApproval
from controlplane.domain.errors import LimitExceeded
from controlplane.services.approvals.deciding import Ballot
from controlplane.services.approvals.pages import ApprovalFilter
from controlplane.services.approvals.records import voter_of
from controlplane.services.approvals.sweep import MAX_ENDED_PER_AGENT
from controlplane.services.approvals.waiting import ApprovalWatch, Delta, SnapshotPart
from tests.fakes.approval_desk import (
    ANN,
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

LARGE = "x" * 60_000
"""Nearly as large as a context may be."""

MESSAGE_BYTES = 4 * 1024 * 1024
"""What a message may have."""


@pytest.fixture
async def desk() -> Desk:
    return await desk_with_a_policy()


class TestTheEndOfTime:
    async def test_what_is_over_is_not_taken_back_and_the_refusal_says_so(self, desk):
        approval = await desk.ask()
        desk.plane.clock.shift(TTL)
        with pytest.raises(ApprovalExpired):
            await desk.parts.decisions.cancel(
                NAMESPACE, approval.approval_id, reason="", caller=ANN
            )
        assert await desk.sweep() == 1
        assert (await desk.now(approval)).state is S.EXPIRED

    async def test_a_grant_that_is_over_is_not_revoked_after_it_was_shown_as_expired(self, desk):
        granted = await desk.granted()
        desk.plane.clock.shift(WINDOW)
        with pytest.raises(ApprovalExpired):
            await desk.parts.decisions.revoke(NAMESPACE, granted.approval_id, reason="", caller=BOB)
        assert await desk.sweep() == 1
        assert (await desk.now(granted)).state is S.EXPIRED

    @pytest.mark.parametrize("together", [False, True])
    async def test_a_replica_whose_clock_is_behind_says_that_the_time_is_over(self, desk, together):
        approval = await desk.ask()
        desk.parts.decisions._clock = LateClock(desk.plane.clock, -TTL * 1_000)
        desk.plane.clock.shift(TTL + 1)
        ballot = Ballot(approval_id=approval.approval_id, decision=D.GRANT)
        decide = desk.parts.decisions.decide_many
        outcome: Any
        (outcome,) = await asyncio.gather(
            decide(NAMESPACE, [ballot], all_or_nothing=together, caller=BOB),
            return_exceptions=True,
        )
        assert isinstance(outcome if together else outcome[0], ApprovalExpired)

    async def test_a_replica_whose_clock_is_behind_uses_no_grant_that_is_over(self, desk):
        now_ms = desk.plane.clock.store_ms()
        grant = StandingGrant(
            grant_id="",
            agent_name="a",
            agent_id="",
            action="pay",
            tool="",
            conditions={},
            max_uses=2,
            expires_at_ms=now_ms + 60_000,
            reason="tonight",
            created_by="",
        )
        await desk.parts.standing.create(NAMESPACE, grant, request=None, caller=BOB)
        desk.parts.opening._clock = LateClock(desk.plane.clock, -61_000)
        desk.plane.clock.shift(60)
        assert (await desk.ask()).state is S.PENDING


class TestManyWhoAsk:
    async def test_whoever_loses_a_race_for_the_same_question_may_not_answer_it(self, desk):
        approval = await desk.ask()
        crowd = [person(f"p{n}") for n in range(MAX_WAITERS)]
        await asyncio.gather(*(desk.ask(who=one) for one in crowd))
        assert set((await desk.now(approval)).waiters) == {one.name for one in crowd}
        for one in crowd:
            with pytest.raises(SelfApproval):
                await desk.vote(approval, who=one)

    async def test_nobody_waits_without_a_name(self, desk):
        approval = await desk.ask()
        for n in range(MAX_WAITERS):
            await desk.ask(who=person(f"p{n}"))
        with pytest.raises(LimitExceeded):
            await desk.ask(who=BOB)
        assert (await desk.ask(who=ANN)).approval_id == approval.approval_id


class TestFloods:
    async def test_opinions_leave_room_for_votes(self, desk):
        approval = await desk.ask()
        for n in range(MAX_ENTRIES - ROOM_FOR_VOTES - 1):
            await desk.vote(approval, D.ADVISE, who=CID, comment="hm", vote_id=f"v{n}")
        with pytest.raises(LimitExceeded):
            await desk.vote(approval, D.ADVISE, who=CID, comment="hm", vote_id="one more")
        assert (await desk.vote(approval)).state is S.GRANTED

    async def test_lists_and_watches_come_in_messages_that_can_be_sent(self, desk):
        for n in range(20):
            await desk.ask(f"s{n}", text=LARGE)
            approval = await desk.ask(f"s{n}", text=LARGE)
            await desk.parts.decisions.cancel(
                NAMESPACE, approval.approval_id, reason="", caller=ANN
            )
            await desk.ask(f"t{n}", text=LARGE)
        voter = voter_of(BOB, NAMESPACE, may_approve=True)
        found, cursor = set(), ""
        while True:
            page = await desk.parts.pages.page(
                NAMESPACE, ApprovalFilter(), voter, after=cursor, limit=100, min_revision=0
            )
            assert 0 < 2 * len(LARGE) * len(page.approvals) < MESSAGE_BYTES
            assert page.total == 40
            found |= {one.approval_id for one in page.approvals}
            cursor = page.next_cursor
            if not cursor:
                break
        assert len(found) == 40
        watch = ApprovalWatch(
            desk.plane.replica.read_model, NAMESPACE, lambda _: True, desk.plane.clock
        )
        events = watch.events()
        seen: list[Approval] = []
        while True:
            event = await anext(events)
            assert isinstance(event, SnapshotPart)
            assert 0 < 2 * len(LARGE) * len(event.approvals) < MESSAGE_BYTES
            seen += event.approvals
            if event.complete:
                break
        assert {one.approval_id for one in seen} == found
        await events.aclose()
        resumed = watch.events(event.position.epoch, 1)
        changed: list[Approval] = []
        while len(changed) < 40:
            delta = await anext(resumed)
            assert isinstance(delta, Delta)
            assert 2 * len(LARGE) * len(delta.approvals) < MESSAGE_BYTES
            changed += delta.approvals
        await resumed.aclose()

    async def test_an_agent_that_asks_and_takes_back_without_end_is_not_kept_for_ever(self, desk):
        cancel = desk.parts.decisions.cancel
        first = await desk.granted("first")
        await desk.use(first, session="first")
        for n in range(MAX_ENDED_PER_AGENT + 3):
            approval = await desk.ask(f"s{n}")
            await cancel(NAMESPACE, approval.approval_id, reason="", caller=ANN)
        kept = await desk.ask("kept")
        assert await desk.parts.sweep.forget(NAMESPACE) == 3
        await desk.plane.replica.follow()
        assert await desk.parts.sweep.forget(NAMESPACE) == 0
        # A use is answered again for as long as the store remembers it.
        assert (await desk.use(first, session="first")).replayed
        assert (await desk.now(kept)).state is S.PENDING
