"""`agent.permitted` against the real daemon: whoever enters the block may act, once."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from fleetplane import (
    AgentSpec,
    ApprovalRefused,
    ApprovalRequired,
    ApprovalRequirement,
    ApprovalStage,
    ApprovalState,
    ApprovalVote,
    ChannelConfig,
    FailedPrecondition,
    FleetClient,
    InvalidArgument,
    PolicyAction,
    PolicyDenied,
    Unavailable,
)
from fleetplane._permits import Permits
from tests.fakes.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.xdist_group("permits"), pytest.mark.timeout(90)]

SECONDS = 30.0
"""Deadline of everything that is waited for."""

T = TypeVar("T")

ASK = PolicyAction.REQUIRE_APPROVAL


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


class Payer(Permits):
    """The part of an agent that asks people; nothing beats here."""

    def __init__(self, client: FleetClient, agent_id: str) -> None:
        self._client = client
        self._agent_id = agent_id

    @property
    def client(self) -> FleetClient:
        return self._client

    @property
    def agent_id(self) -> str:
        return self._agent_id


@dataclass
class Desk:
    """An agent that wants to pay, and who decides."""

    client: FleetClient
    agent: Payer
    asked: "asyncio.Queue[Any]"

    async def policy(self, action: PolicyAction = ASK, **fields: Any) -> None:
        await self.client.create_policy("ask", action=action, target_actions="pay", **fields)

    async def pay(self, amount: int = 1, **options: Any) -> str:
        """Pay, and return what the permit names."""
        options.setdefault("on_wait", self.asked.put_nowait)
        async with self.agent.permitted("pay", {"to": "ann", "n": amount}, **options) as permit:
            return permit.approval_id

    async def next_question(self) -> Any:
        async with asyncio.timeout(SECONDS):
            return await self.asked.get()

    async def decide(self, approval_id: str, vote: ApprovalVote = ApprovalVote.GRANT) -> Any:
        return await self.client.decide_approval(approval_id, vote)

    async def state(self, approval_id: str) -> ApprovalState:
        return ApprovalState((await self.client.get_approval(approval_id)).state)


async def opened(daemon: Daemon, stack: AsyncExitStack) -> Desk:
    client = await stack.enter_async_context(
        FleetClient(
            daemon.address,
            namespace=f"t-{secrets.token_hex(6)}",
            channel_config=ChannelConfig(default_timeout=5.0, max_reconnect_backoff=0.2),
        )
    )
    registered = await client.register(AgentSpec(name="payer", version="1.0.0"))
    agent = Payer(client, registered.agent.agent_id)
    return Desk(client, agent, asyncio.Queue())


@pytest.fixture
async def desk(daemon: Daemon) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await opened(daemon, stack)


async def soon(what: Awaitable[T]) -> T:
    async with asyncio.timeout(SECONDS):
        return await what


class TestPolicies:
    async def test_what_policies_allow_needs_nobody(self, desk: Desk) -> None:
        assert await desk.pay() == ""
        assert desk.asked.empty()

    async def test_what_policies_refuse_is_not_entered(self, desk: Desk) -> None:
        await desk.policy(PolicyAction.DENY)
        with pytest.raises(PolicyDenied):
            await desk.pay()

    async def test_what_is_no_json_is_refused_before_anybody_is_asked(self, desk: Desk) -> None:
        await desk.policy()
        with pytest.raises((TypeError, ValueError, InvalidArgument)):
            async with desk.agent.permitted("pay", {"to": object()}):
                pytest.fail("it was entered")


class TestPeople:
    async def test_the_block_is_entered_once_people_agree_and_the_grant_is_used(
        self, desk: Desk
    ) -> None:
        await desk.policy()
        paying = asyncio.ensure_future(desk.pay())
        question = await desk.next_question()
        assert question.action.context["to"] == "ann"
        await desk.decide(question.approval_id)
        assert await soon(paying) == question.approval_id
        assert await desk.state(question.approval_id) is ApprovalState.CONSUMED
        assert desk.asked.empty()

    async def test_a_no_is_raised_with_what_was_said(self, desk: Desk) -> None:
        await desk.policy()
        paying = asyncio.ensure_future(desk.pay())
        question = await desk.next_question()
        await desk.client.decide_approval(
            question.approval_id, ApprovalVote.DENY, comment="not in business hours"
        )
        with pytest.raises(ApprovalRefused) as refused:
            await soon(paying)
        assert refused.value.approval.entries[-1].comment == "not in business hours"

    async def test_nobody_in_time_is_refused(self, desk: Desk) -> None:
        await desk.policy(approval=ApprovalRequirement(ttl=1.0))
        with pytest.raises(ApprovalRefused) as refused:
            await soon(desk.pay())
        assert ApprovalState(refused.value.approval.state) is ApprovalState.EXPIRED

    async def test_what_is_taken_back_before_it_is_decided_is_refused(self, desk: Desk) -> None:
        await desk.policy()
        paying = asyncio.ensure_future(desk.pay())
        question = await desk.next_question()
        await desk.client.cancel_approval(question.approval_id, reason="by hand")
        with pytest.raises(ApprovalRefused):
            await soon(paying)

    async def test_a_wait_that_is_over_leaves_the_question_open(self, desk: Desk) -> None:
        await desk.policy()
        with pytest.raises(ApprovalRequired):
            await soon(desk.pay(wait=0.2))
        question = await desk.next_question()
        await desk.decide(question.approval_id)
        assert await soon(desk.pay(wait=0.0)) == question.approval_id

    async def test_one_cancelled_while_it_waits_leaves_the_question_open(self, desk: Desk) -> None:
        await desk.policy()
        paying = asyncio.ensure_future(desk.pay())
        question = await desk.next_question()
        paying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await paying
        assert await desk.state(question.approval_id) is ApprovalState.PENDING
        await desk.decide(question.approval_id)
        assert await soon(desk.pay()) == question.approval_id

    async def test_a_failure_in_the_block_is_passed_on_and_the_grant_stays_used(
        self, desk: Desk
    ) -> None:
        await desk.policy()
        with pytest.raises(ApprovalRequired):
            await desk.pay(wait=0.0)
        question = await desk.next_question()
        await desk.decide(question.approval_id)
        with pytest.raises(ZeroDivisionError):
            async with desk.agent.permitted("pay", {"to": "ann", "n": 1}):
                _ = 1 / 0
        assert await desk.state(question.approval_id) is ApprovalState.CONSUMED


class TestTime:
    async def test_a_grant_whose_time_has_not_come_is_waited_for(self, desk: Desk) -> None:
        await desk.policy(approval=ApprovalRequirement(not_before_delay=2.0))
        with pytest.raises(ApprovalRequired):
            await desk.pay(wait=0.0)
        question = await desk.next_question()
        await desk.decide(question.approval_id)
        with pytest.raises(ApprovalRequired):
            await desk.pay(wait=0.0)
        assert await soon(desk.pay()) == question.approval_id
        assert desk.asked.empty()

    async def test_a_grant_in_advance_waits_for_its_time_as_well(self, desk: Desk) -> None:
        await desk.policy(approval=ApprovalRequirement(not_before_delay=1.0))
        await desk.client.create_standing_grant(
            "pay",
            max_uses=1,
            expires_at=datetime.now(UTC) + timedelta(hours=1),
            reason="tonight",
            agent_id=desk.agent.agent_id,
        )
        assert await soon(desk.pay())
        assert desk.asked.empty()


class TestMany:
    async def test_each_of_many_same_actions_needs_its_own_approval(self, desk: Desk) -> None:
        await desk.policy()
        count = 8
        paying = [asyncio.ensure_future(desk.pay()) for _ in range(count)]

        async def decides() -> None:
            decided: set[str] = set()
            while len(decided) < count:
                question = await desk.next_question()
                if question.approval_id not in decided:
                    decided.add(question.approval_id)
                    await desk.decide(question.approval_id)

        await soon(decides())
        used = await soon(asyncio.gather(*paying))
        assert len(set(used)) == count

    async def test_one_whose_grant_gave_way_to_a_higher_ceiling_asks_anew(self, desk: Desk) -> None:
        await desk.policy()

        async def pay(cost: float) -> str:
            params = {"estimated_cost": cost}
            wait = desk.agent.permitted("pay", params, on_wait=desk.asked.put_nowait)
            async with wait as permit:
                return permit.approval_id

        cheap = asyncio.ensure_future(pay(1))
        first = await desk.next_question()
        dear = asyncio.ensure_future(pay(2))
        second = await desk.next_question()
        joined = await desk.next_question()
        assert first.approval_id != second.approval_id == joined.approval_id
        await desk.decide(second.approval_id)
        third = await desk.next_question()
        await desk.decide(third.approval_id)
        if not cheap.done() and not dear.done() and third.action.ceilings["estimated_cost"] == 1:
            pytest.fail("two wait for what one has asked for")
        assert {await soon(cheap), await soon(dear)} == {second.approval_id, third.approval_id}


class TestDrift:
    async def test_policies_that_refuse_by_now_are_told(self, desk: Desk) -> None:
        await desk.policy()
        paying = asyncio.ensure_future(desk.pay())
        question = await desk.next_question()
        await desk.client.update_policy("ask", action=PolicyAction.DENY)
        await desk.decide(question.approval_id)
        with pytest.raises(FailedPrecondition) as refused:
            await soon(paying)
        assert refused.value.reason == "POLICY_NOW_DENIES"

    async def test_policies_that_ask_for_more_by_now_are_asked_anew(self, desk: Desk) -> None:
        await desk.policy()
        paying = asyncio.ensure_future(desk.pay())
        question = await desk.next_question()
        more = ApprovalRequirement(
            stages=(ApprovalStage(name="board", eligible=("user:nobody@example.com",)),)
        )
        await desk.client.update_policy("ask", approval=more)
        await desk.decide(question.approval_id)
        again = await desk.next_question()
        assert again.approval_id != question.approval_id
        assert [stage.name for stage in again.stages] == ["board"]
        await desk.decide(again.approval_id)
        assert await soon(paying) == again.approval_id


class TestOutages:
    async def test_a_daemon_that_restarts_is_waited_for(self) -> None:
        with running_daemon() as daemon:
            async with AsyncExitStack() as stack:
                desk = await opened(daemon, stack)
                await desk.policy()
                paying = asyncio.ensure_future(desk.pay())
                question = await desk.next_question()
                await asyncio.to_thread(daemon.kill)
                await asyncio.to_thread(daemon.start)
                await desk.decide(question.approval_id)
                assert await soon(paying) == question.approval_id

    async def test_a_use_whose_answer_was_lost_is_answered_again(self) -> None:
        with running_daemon(failpoint="committed:ConsumeApproval") as daemon:
            async with AsyncExitStack() as stack:
                desk = await opened(daemon, stack)
                await desk.policy()
                paying = asyncio.ensure_future(desk.pay())
                question = await desk.next_question()
                await desk.decide(question.approval_id)
                await asyncio.to_thread(daemon.wait, SECONDS)
                # Longer away than one call is tried.
                await asyncio.wait((paying,), timeout=6.0)
                assert not paying.done()
                daemon._failpoint = ""
                await asyncio.to_thread(daemon.start)
                assert await soon(paying) == question.approval_id

    async def test_a_plane_that_stays_away_is_not_waited_for_beyond_the_wait(self) -> None:
        with running_daemon() as daemon:
            async with AsyncExitStack() as stack:
                desk = await opened(daemon, stack)
                await desk.policy()
                paying = asyncio.ensure_future(desk.pay(wait=1.0))
                await desk.next_question()
                await asyncio.to_thread(daemon.kill)
                with pytest.raises(Unavailable):
                    await soon(paying)
