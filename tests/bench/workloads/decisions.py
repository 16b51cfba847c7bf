"""4: decisions by the engine, by single calls, by batches, and by the SDK, for three rule books."""

import asyncio
import time
from collections.abc import Sequence

from controlplane.domain.agents import Agent, AgentSpec
from controlplane.domain.policies import Effect, Policy, PolicySet, Request, validate_claims
from controlplane.services.policies.decisions import facts_of
from fleetplane import Evaluation, FleetClient, PolicyAction, to_struct
from fleetplane._values import JsonValue
from fleetplane.v1 import policy_service_pb2 as pb
from tests.bench.driving import Load, Operation, closed_loop, in_turns, percentile, unary_callers
from tests.bench.fleet import living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Series, Window, judged, ratio_row
from tests.bench.servers import CALM, Server, can, daemon, floor
from tests.bench.wire import unary

POLICY = "/fleetplane.v1.PolicyService/"
CALLERS = 64
BATCH = 50
BATCH_CALLERS = 4
AGENT_SPEC = AgentSpec(
    name="worker",
    version="1.0.0",
    owner="team-1",
    capabilities=("summarise", "translate"),
    tools=("search",),
    tags={"region": "eu"},
)
CLAIMS: dict[str, JsonValue] = {
    "environment": "production",
    "estimated_cost": 0.4,
    "ticket": "OPS-1234",
}
FLOOR_SHARE = 0.90
ENGINE_US = 3.0
FLAT = 1.1
BATCHED_PER_SECOND = 100_000
COALESCED_PER_SECOND = 20_000


def policy_conditions(number: int) -> dict[str, str]:
    return {"action": f"act-{number}", "environment": "production"}


def policy_effect(number: int) -> Effect:
    """Return what is cheap to answer: what approvals cost is measured by themselves."""
    return Effect.ALLOW if number % 3 == 0 else Effect.DENY


async def run(plan: Plan) -> list[Row]:
    """Measure the engine in this process, then the ways to ask a daemon."""
    sizes = (plan.sized(10, 10), plan.sized(1_000, 50), plan.sized(10_000, 100))
    rows = _engine(plan, sizes)
    async with daemon({**CALM, "FLEETPLANE_MAX_POLICIES": "20000"}) as server, floor() as bare:
        (member,) = await living_fleet(server.channel, 1)
        made = 0
        for size in sizes:
            await _make_policies(server, made, size)
            made = size
            rows.append(await _single(plan, server, bare, member.agent_id, size))
            rows.append(await _batched(plan, server, bare, member.agent_id, size))
        rows.append(await _coalesced(plan, server, member.agent_id))
    return rows


def _engine(plan: Plan, sizes: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    costs: list[float] = []
    for size in sizes:
        policies = [
            Policy(
                policy_id=f"p-{n}",
                action=policy_effect(n),
                conditions=policy_conditions(n),
                priority=n,
            )
            for n in range(size)
        ]
        rules = PolicySet.compile(policies, revision=1)
        facts = facts_of("default", Agent(agent_id="agt-1", spec=AGENT_SPEC))
        repeats, samples = plan.sized(200, 20), []
        for number in range(plan.sized(500, 20)):
            request = Request(
                agent_id="agt-1",
                action=f"act-{number % size}",
                facts=facts,
                claims=validate_claims(CLAIMS),
                now_ms=1_700_000_000_000,
            )
            began = time.perf_counter()
            for _ in range(repeats):
                rules.evaluate(request)
            samples.append((time.perf_counter() - began) / repeats * 1e6)
        costs.append(percentile(samples, 0.5))
        rows.append(
            Row(
                workload=4,
                what=f"engine, {size:,} policies",
                target=f"p50 <= {ENGINE_US:g} us",
                measured=f"p50 {costs[-1]:.2f} us, p99 {percentile(samples, 0.99):.2f} us",
                verdict=judged(costs[-1] <= ENGINE_US),
                rate=1e6 / costs[-1],
            )
        )
    growth = costs[-1] / costs[0]
    rows.append(
        Row(
            workload=4,
            what="engine, most / fewest policies",
            target=f"<= {FLAT:g}x",
            measured=f"{growth:.2f}x",
            verdict=judged(growth <= FLAT),
        )
    )
    return rows


async def _make_policies(server: Server, made: int, size: int) -> None:
    """Write policies until there are `size`."""
    async with FleetClient(server.listen) as client:
        numbers = iter(range(made, size))

        async def create() -> None:
            for n in numbers:
                await client.create_policy(
                    f"p-{n}",
                    conditions=policy_conditions(n),
                    action=PolicyAction[policy_effect(n).name],
                    priority=n,
                    timeout=60,
                )

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(create())


def evaluation_item(agent_id: str, number: int) -> pb.EvaluationItem:
    item = pb.EvaluationItem(agent_id=agent_id, action=f"act-{number}")
    item.context.CopyFrom(to_struct(CLAIMS))
    return item


async def _single(plan: Plan, server: Server, bare: Server, agent_id: str, size: int) -> Row:
    item = evaluation_item(agent_id, size // 2)
    request = pb.EvaluatePolicyRequest(
        agent_id=item.agent_id, action=item.action, context=item.context
    ).SerializeToString()
    measured, compared = await _in_turns(plan, server, bare, "EvaluatePolicy", [request], CALLERS)
    return ratio_row(
        4, f"EvaluatePolicy, {size:,} policies", measured, compared, at_least=FLOOR_SHARE
    )


async def _batched(plan: Plan, server: Server, bare: Server, agent_id: str, size: int) -> Row:
    requests = [
        pb.BatchEvaluatePolicyRequest(
            items=[evaluation_item(agent_id, (start + n) % size) for n in range(BATCH)]
        ).SerializeToString()
        for start in range(0, BATCH * BATCH_CALLERS, BATCH)
    ]
    measured, compared = await _in_turns(
        plan, server, bare, "BatchEvaluatePolicy", requests, 1, per_operation=BATCH
    )
    row = ratio_row(4, f"BatchEvaluatePolicy({BATCH}), {size:,} policies", measured, compared)
    return Row(
        workload=4,
        what=row.what,
        target=f">= {BATCHED_PER_SECOND:,}/s",
        measured=row.measured,
        verdict=judged(measured.rate >= BATCHED_PER_SECOND),
        rate=row.rate,
        server_us=row.server_us,
        details=row.details,
    )


async def _in_turns(
    plan: Plan,
    server: Server,
    bare: Server,
    name: str,
    requests: Sequence[bytes],
    callers: int,
    *,
    per_operation: int = 1,
) -> tuple[Series, Series]:
    """Let so many callers of each request take turns on both servers."""
    method = f"{POLICY}{name}"
    await can(bare, method, await unary(server.channel, method)(requests[0]))

    def load_of(target: Server) -> Load:
        crowd: list[Operation] = []
        for request in requests:
            crowd += unary_callers(target, method, request, callers)

        async def load(seconds: float) -> Window:
            return await closed_loop(target, crowd, seconds, per_operation=per_operation)

        return load

    measured, compared = await in_turns(plan.rounds, plan.seconds, load_of(server), load_of(bare))
    return measured, compared


async def _coalesced(plan: Plan, server: Server, agent_id: str) -> Row:
    """Let 64 tasks of one SDK client ask one question each, over and over."""
    async with FleetClient(server.listen) as client:
        one = Evaluation(agent_id=agent_id, action="act-7", context=CLAIMS)

        async def ask() -> None:
            await client.evaluate_policy(one.agent_id, one.action, context=one.context)

        async def load(seconds: float) -> Window:
            return await closed_loop(server, [ask] * CALLERS, seconds)

        (series,) = await in_turns(plan.rounds, plan.seconds, load)
    return Row(
        workload=4,
        what=f"SDK, {CALLERS} callers, coalesced by itself",
        target=f">= {COALESCED_PER_SECOND:,}/s",
        measured=f"{series.rate:,.0f}/s",
        verdict=judged(series.rate >= COALESCED_PER_SECOND),
        rate=series.rate,
        server_us=series.server_us,
    )
