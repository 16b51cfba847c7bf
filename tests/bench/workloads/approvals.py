"""20: approvals asked for, decided and used, one after the other and by many callers at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.json_format import ParseDict

from fleetplane.v1 import approval_service_pb2 as pb
from fleetplane.v1 import (
    approval_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)
from fleetplane.v1 import policy_service_pb2 as policy_pb
from fleetplane.v1 import registry_service_pb2 as registry_pb
from tests.bench.driving import percentile
from tests.bench.fleet import living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, Server, daemon

WORKLOAD = 20
CALLERS = 128
OPEN_AT_ONCE = 900
"""Approvals that are asked for before they are used; a namespace lets an agent have 1,000."""

VOTES_AT_ONCE = 100
ABOVE_FLOOR_MS = 3.0
"""What an operation may take above the cheapest call there is, at the 99th percentile."""

USES_PER_SECOND = 1_500

SETTINGS = {**CALM, "FLEETPLANE_STORE_FSYNC": "always"}
"""Where the store syncs every second a use waits for that."""


class _Desk:
    """One agent that pays, and who lets it."""

    def __init__(self, server: Server, agent_id: str) -> None:
        channel = server.channel
        self.approvals: Any = approval_service_pb2_grpc.ApprovalServiceStub(channel)
        self.policies: Any = policy_service_pb2_grpc.PolicyServiceStub(channel)
        self.registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.agent_id = agent_id

    async def prepare(self) -> None:
        policy = {
            "policyId": "ask",
            "action": "POLICY_ACTION_REQUIRE_APPROVAL",
            "targets": {"actions": ["pay"]},
            "enabled": True,
        }
        await self.policies.CreatePolicy(
            ParseDict({"policy": policy}, policy_pb.CreatePolicyRequest())
        )
        settings = {
            "settings": {"approval": {"maxPendingPerAgent": 1000}},
            "updateMask": "approval",
        }
        await self.policies.UpdatePolicySettings(
            ParseDict(settings, policy_pb.UpdatePolicySettingsRequest())
        )

    async def look(self) -> None:
        await self.registry.GetAgent(registry_pb.GetAgentRequest(agent_id=self.agent_id))

    async def ask(self, session: str) -> str:
        question = policy_pb.EvaluatePolicyRequest(
            agent_id=self.agent_id, action="pay", session_id=session
        )
        answer = await self.policies.EvaluatePolicy(question)
        return str(answer.decision.approval_id)

    async def decide(self, *approval_ids: str) -> None:
        votes = [
            pb.DecideApprovalRequest(approval_id=one, decision=pb.APPROVAL_DECISION_GRANT)
            for one in approval_ids
        ]
        if len(votes) == 1:
            await self.approvals.DecideApproval(votes[0])
            return
        await self.approvals.BatchDecideApprovals(
            pb.BatchDecideApprovalsRequest(decisions=votes, all_or_nothing=True)
        )

    async def use(self, approval_id: str, session: str) -> None:
        await self.approvals.ConsumeApproval(
            pb.ConsumeApprovalRequest(
                approval_id=approval_id,
                agent_id=self.agent_id,
                action="pay",
                session_id=session,
                consume_id="bench",
            )
        )


async def run(plan: Plan) -> list[Row]:
    """Measure single operations, then uses by many."""
    async with daemon(SETTINGS) as server:
        (member,) = await living_fleet(server.channel, 1)
        desk = _Desk(server, member.agent_id)
        await desk.prepare()
        return [*await _singly(plan, desk), await _by_many(plan, desk)]


async def _singly(plan: Plan, desk: _Desk) -> list[Row]:
    repeats = plan.sized(300, 10)
    taken: dict[str, list[float]] = {"look": [], "ask": [], "decide": [], "use": []}

    async def timed(what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        began = time.perf_counter()
        answer = await call()
        taken[what].append((time.perf_counter() - began) * 1_000)
        return answer

    for number in range(repeats):
        session = f"single-{number}"
        await timed("look", desk.look)
        approval_id = await timed("ask", partial(desk.ask, session))
        await timed("decide", partial(desk.decide, approval_id))
        await timed("use", partial(desk.use, approval_id, session))
    limit = percentile(taken["look"], 0.99) + ABOVE_FLOOR_MS
    return [
        Row(
            workload=WORKLOAD,
            what=f"approvals: {what}, alone",
            target=f"p99 <= {limit:.1f} ms (a read, and {ABOVE_FLOOR_MS:g} ms)",
            measured=f"p50 {percentile(taken[what], 0.5):.2f} ms, "
            f"p99 {percentile(taken[what], 0.99):.2f} ms",
            verdict=judged(percentile(taken[what], 0.99) <= limit),
            rate=1_000 / percentile(taken[what], 0.5),
        )
        for what in ("ask", "decide", "use")
    ]


async def _by_many(plan: Plan, desk: _Desk) -> Row:
    taken: list[float] = []
    used = 0
    for round_ in range(plan.sized(plan.rounds, 1)):
        sessions = [f"many-{round_}-{n}" for n in range(plan.sized(OPEN_AT_ONCE, 20))]
        approvals = await asyncio.gather(*(desk.ask(session) for session in sessions))
        for start in range(0, len(approvals), VOTES_AT_ONCE):
            await desk.decide(*approvals[start : start + VOTES_AT_ONCE])
        waiting = iter(zip(approvals, sessions, strict=True))

        async def caller(mine: Any = waiting) -> None:
            for approval_id, session in mine:
                await desk.use(approval_id, session)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        taken.append(time.perf_counter() - began)
        used += len(approvals)
    rate = used / sum(taken)
    return Row(
        workload=WORKLOAD,
        what=f"approvals: uses by {CALLERS} callers",
        target=f">= {USES_PER_SECOND:,}/s",
        measured=f"{rate:,.0f}/s",
        verdict=judged(rate >= USES_PER_SECOND),
        rate=rate,
    )
