"""What naive approvals get wrong. Each test fails on the naive behaviour that it names."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from controlplane.domain.approvals.model import ApprovalDecision
from controlplane.domain.approvals.refusals import ApprovalExpired
from controlplane.domain.policies import Effect, Policy
from controlplane.services.approvals.consumption import ApprovalConsumption, Use
from controlplane.services.approvals.deciding import ApprovalDecisions, Ballot
from controlplane.services.approvals.opening import ApprovalOpening
from controlplane.services.approvals.records import ApprovalRecords
from controlplane.services.approvals.standing import StandingGrantBook
from controlplane.services.ids import TimeSortedIds
from controlplane.services.policies.decisions import Question
from fleetplane import (
    AgentSpec,
    ApprovalState,
    ApprovalVote,
    FailedPrecondition,
    FleetClient,
    PolicyAction,
    Reason,
)
from tests.fakes.clock import FakeClock
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.plane import CALLER, NS, Plane

PARAMS = {"environment": "production", "table": "users"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as one:
        yield one


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[FleetClient]:
    async with FleetClient(daemon.address) as one:
        yield one


async def asked(client: FleetClient, session: str) -> tuple[str, Any]:
    """Register what needs approval and ask; return agent and decision."""
    known = [one.policy_id async for one in client.list_policies()]
    if not known:
        await client.create_policy(
            "ask", action=PolicyAction.REQUIRE_APPROVAL, conditions={"action": "database_write"}
        )
    agent = await client.register(AgentSpec(name="writer", version="1.0.0"))
    decision = await client.evaluate_policy(
        agent.agent.agent_id, "database_write", context=PARAMS, session_id=session
    )
    return agent.agent.agent_id, decision


async def test_13_what_needs_approval_is_neither_permitted_nor_denied(client: FleetClient) -> None:
    _, decision = await asked(client, "s13")
    assert PolicyAction(decision.action) is PolicyAction.REQUIRE_APPROVAL
    assert decision.approval_id
    approval = await client.get_approval(decision.approval_id)
    assert ApprovalState(approval.state) is ApprovalState.PENDING


async def test_14_an_approval_is_for_one_action_and_for_one_use(client: FleetClient) -> None:
    agent_id, decision = await asked(client, "s14")
    await client.decide_approval(decision.approval_id, ApprovalVote.GRANT)
    use: dict[str, Any] = {"session_id": "s14"}
    with pytest.raises(FailedPrecondition) as other:
        await client.consume_approval(
            decision.approval_id,
            agent_id,
            "database_write",
            context={**PARAMS, "table": "salaries"},
            **use,
        )
    assert other.value.reason == Reason.DIGEST_MISMATCH

    async def consume(number: int) -> str:
        try:
            await client.consume_approval(
                decision.approval_id,
                agent_id,
                "database_write",
                context=PARAMS,
                consume_id=f"use-{number}",
                **use,
            )
        except FailedPrecondition as refusal:
            return refusal.reason
        return "GO"

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*map(consume, range(200)))
    assert outcomes.count("GO") == 1
    assert set(outcomes) == {"GO", "ALREADY_CONSUMED"}


async def test_15_a_pending_approval_survives_the_death_of_everything() -> None:
    with running_daemon() as daemon:
        async with FleetClient(daemon.address) as client:
            agent_id, decision = await asked(client, "s15")
            daemon.kill()
            await daemon.await_end()
            await daemon.arestart()
            async with asyncio.timeout(60):
                approval = await client.get_approval(decision.approval_id)
                assert ApprovalState(approval.state) is ApprovalState.PENDING
                _, again = await asked(client, "s15")
                assert again.approval_id == decision.approval_id
                await client.decide_approval(decision.approval_id, ApprovalVote.GRANT)
                await client.consume_approval(
                    decision.approval_id,
                    agent_id,
                    "database_write",
                    context=PARAMS,
                    session_id="s15",
                )


async def test_33_a_clock_that_is_slow_does_not_prolong_a_grant() -> None:
    """The store's clock ends a grant, whatever the replica that is asked believes."""
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    policy = Policy(
        policy_id="ask", action=Effect.REQUIRE_APPROVAL, conditions={"action": "database_write"}
    )
    await plane.policies.create(NS, policy, reason="", request=None, dry_run=False, caller=CALLER)
    await plane.follow()
    records = ApprovalRecords(plane.ledger, plane.read_model)
    ids = TimeSortedIds()
    opening = ApprovalOpening(
        plane.ledger, plane.read_model, records, StandingGrantBook(), ids, plane.clock
    )
    question = Question(agent_id=agent_id, action="database_write", claims=PARAMS)
    answer = plane.decisions.evaluate(NS, question)
    opened = await opening.open_answer(NS, answer, caller=CALLER)
    assert opened is not None
    decisions = ApprovalDecisions(plane.ledger, records, plane.clock)
    ballot = Ballot(approval_id=opened.approval_id, decision=ApprovalDecision.GRANT)
    granted = await decisions.decide(NS, ballot, caller=CALLER)
    await plane.follow()
    slow = FakeClock()  # stands still from now on
    consumption = ApprovalConsumption(plane.ledger, plane.read_model, records, slow)
    plane.clock.shift((granted.use_until_ms - slow.store_ms()) / 1000 + 1)
    use = Use(
        approval_id=opened.approval_id,
        agent_id=agent_id,
        action="database_write",
        tool="",
        session_id="",
        claims=PARAMS,
        consume_id="use",
    )
    with pytest.raises(ApprovalExpired):
        await consumption.consume(NS, use, caller=CALLER)
