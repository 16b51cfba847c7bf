"""3: Discover and FindBestAgent in fleets of three sizes, and the SDK's watched catalogue."""

import time
from statistics import median

from fleetplane import Catalogue, FleetClient
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as pb
from tests.bench.driving import Load, closed_loop, in_turns, unary_callers
from tests.bench.fleet import REGISTRY, SpecOf, living_fleet, ordinary_spec
from tests.bench.plan import Plan
from tests.bench.results import Row, Series, Window, judged, ratio_row
from tests.bench.servers import CALM, Server, can, daemon, floor
from tests.bench.wire import unary

CALLERS = 64
MATCHING = 20
WANTED = ("extract-tables", "read-pdf")
AT_LEAST = 0.95
FLAT = 1.2
LOOK_UP_US = 10.0


def spec_with_matches(size: int) -> SpecOf:
    """Return specs of which 20, spread over the fleet, have the wanted capabilities."""
    step = size // MATCHING

    def spec_of(number: int) -> agent_pb2.AgentSpec:
        spec = ordinary_spec(number)
        if number % step == 0:
            spec.capabilities.extend(WANTED)
        return spec

    return spec_of


def questions() -> dict[str, bytes]:
    wanted = pb.AgentFilter(capabilities=WANTED)
    return {
        "Discover": pb.DiscoverRequest(filter=wanted).SerializeToString(),
        "FindBestAgent": pb.FindBestAgentRequest(filter=wanted).SerializeToString(),
    }


async def run(plan: Plan) -> list[Row]:
    """Measure the calls in each fleet, then the catalogue."""
    rows: list[Row] = []
    costs: dict[str, list[float]] = {name: [] for name in questions()}
    for size in (plan.sized(1_000, 200), plan.sized(10_000, 400), plan.sized(100_000, 1_000)):
        async with daemon(CALM) as server, floor() as bare:
            await living_fleet(server.channel, size, spec_with_matches(size))
            for name, question in questions().items():
                measured, compared = await _measured(plan, server, bare, name, question)
                costs[name].append(measured.server_us)
                what = f"{name}, {MATCHING} of {size:,} agents"
                rows.append(ratio_row(3, what, measured, compared, at_least=AT_LEAST))
            if size == plan.sized(10_000, 400):
                rows.append(await _catalogue(plan, server, size))
    for name, by_size in costs.items():
        growth = by_size[-1] / by_size[0]
        rows.append(
            Row(
                workload=3,
                what=f"{name}: CPU per call, largest / smallest fleet",
                target=f"<= {FLAT:g}x",
                measured=f"{growth:.2f}x",
                verdict=judged(growth <= FLAT),
            )
        )
    return rows


async def _measured(
    plan: Plan, server: Server, bare: Server, name: str, question: bytes
) -> tuple[Series, Series]:
    method = f"{REGISTRY}{name}"
    reply = await unary(server.channel, method)(question)
    found = (
        len(pb.DiscoverResponse.FromString(reply).agents)
        if name == "Discover"
        else pb.FindBestAgentResponse.FromString(reply).candidate_count
    )
    if found != MATCHING:
        raise RuntimeError(f"{name} found {found} agents, not {MATCHING}")
    await can(bare, method, reply)

    def load_of(target: Server) -> Load:
        callers = unary_callers(target, method, question, CALLERS)

        async def load(seconds: float) -> Window:
            return await closed_loop(target, callers, seconds)

        return load

    measured, compared = await in_turns(plan.rounds, plan.seconds, load_of(server), load_of(bare))
    return measured, compared


async def _catalogue(plan: Plan, server: Server, size: int) -> Row:
    """Time look-ups in the SDK's copy of the registry."""
    async with FleetClient(server.listen) as client, Catalogue(client) as catalogue:
        await catalogue.ready()
        repeats, costs = plan.sized(5_000, 200), []
        for _ in range(plan.rounds):
            began = time.perf_counter()
            for _ in range(repeats):
                found = catalogue.discover(capabilities=WANTED)
            costs.append((time.perf_counter() - began) / repeats * 1e6)
        if len(found) != MATCHING:
            raise RuntimeError(f"the catalogue found {len(found)} agents, not {MATCHING}")
    cost = median(costs)
    return Row(
        workload=3,
        what=f"SDK catalogue look-up, {MATCHING} of {size:,} agents",
        target=f"<= {LOOK_UP_US:g} us",
        measured=f"{cost:.1f} us",
        verdict=judged(cost <= LOOK_UP_US),
        rate=1e6 / cost,
    )
