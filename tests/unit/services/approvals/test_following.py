"""Grants in advance; lists, watches and waits, over a ledger in memory."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.approvals.model import (
    ApprovalDecision,
    ApprovalState,
    EntryKind,
    StandingGrant,
)
from controlplane.domain.errors import DomainError
from controlplane.domain.policies import ApprovalRequirement, Effect
from controlplane.services.approvals.pages import ApprovalFilter
from controlplane.services.approvals.records import voter_of
from controlplane.services.approvals.waiting import ApprovalWatch, Delta, SnapshotPart
from tests.fakes.approval_desk import (
    BOB,
    CID,
    TTL,
    Desk,
    desk_with_a_policy,
)
from tests.fakes.fleet import NAMESPACE

S, D = ApprovalState, ApprovalDecision


@pytest.fixture
async def desk() -> Desk:
    return await desk_with_a_policy()


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
