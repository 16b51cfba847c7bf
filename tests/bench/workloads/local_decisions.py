"""19: decisions in the agent's own process, on a copy that a real daemon keeps up to date."""

import time
from typing import Final

from fleetplane import FleetClient, PolicyAction
from fleetplane._values import JsonValue
from fleetplane.local import LocalPolicies
from tests.bench.driving import percentile
from tests.bench.fleet import living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Verdict, judged
from tests.bench.servers import CALM, daemon
from tests.bench.workloads.decisions import CLAIMS, policy_conditions, policy_effect

DECIDED_US: Final = 5.0
RECORDED_PER_SECOND: Final = 200_000
ARRIVED_MS: Final = 100.0
NESTED: Final[dict[str, JsonValue]] = {**CLAIMS, "labels": ["a", "b"], "user": {"id": 7}}
"""Claims that are not flat."""


async def run(plan: Plan) -> list[Row]:
    """Measure decisions with and without their record, and how soon a change arrives."""
    policies = plan.sized(1_000, 50)
    async with (
        daemon({**CALM, "FLEETPLANE_MAX_POLICIES": "20000"}) as server,
        FleetClient(server.listen) as client,
    ):
        (member,) = await living_fleet(server.channel, 1)
        for number in range(policies):
            await client.create_policy(
                f"p-{number}",
                conditions=policy_conditions(number),
                action=PolicyAction[policy_effect(number).name],
                priority=number,
                timeout=60,
            )
        rows: list[Row] = []
        for record in (False, True):
            async with client.local_policies(member.agent_id, record=record) as here:
                rows.append(_decided(plan, here, CLAIMS, policies, recorded=record))
                if record:
                    rows.append(_decided(plan, here, NESTED, policies, recorded=record))
                    rows.append(await _arrival(plan, client, here))
        return rows


def _decided(
    plan: Plan, here: LocalPolicies, claims: dict[str, JsonValue], policies: int, *, recorded: bool
) -> Row:
    """Decide over and over, in slices of a few milliseconds."""
    repeats, samples = plan.sized(1_000, 50), []
    for number in range(plan.sized(300, 20)):
        action = f"act-{number % policies}"
        began = time.perf_counter()
        for _ in range(repeats):
            here.decide(action, claims)
        samples.append((time.perf_counter() - began) / repeats * 1e6)
    middle = percentile(samples, 0.5)
    nested = claims is NESTED
    what = f"in process, {'recorded' if recorded else 'not recorded'}{', nested' * nested}"
    target, ok = f"p50 <= {DECIDED_US:g} us", middle <= DECIDED_US
    if recorded:
        target, ok = f">= {RECORDED_PER_SECOND:,}/s", 1e6 / middle >= RECORDED_PER_SECOND
    return Row(
        workload=19,
        what=what,
        target="" if nested else target,
        measured=f"p50 {middle:.2f} us, p99 {percentile(samples, 0.99):.2f} us",
        verdict=Verdict.INFO if nested else judged(ok),
        rate=1e6 / middle,
    )


async def _arrival(plan: Plan, client: FleetClient, here: LocalPolicies) -> Row:
    """Change a policy and wait until this process decides by it."""
    took: list[float] = []
    for number in range(plan.sized(50, 5)):
        changed = await client.update_policy("p-0", priority=number)
        written = time.perf_counter()
        await here.reached(changed.policy.revision)
        took.append((time.perf_counter() - written) * 1000)
    middle = percentile(took, 0.5)
    return Row(
        workload=19,
        what="a change, from its answer to the copy",
        target=f"p50 <= {ARRIVED_MS:g} ms",
        measured=f"p50 {middle:.1f} ms, p99 {percentile(took, 0.99):.1f} ms",
        verdict=judged(middle <= ARRIVED_MS),
    )
