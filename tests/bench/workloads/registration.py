"""7: concurrent Register, and BatchRegister of 500, with the store on."""

from collections.abc import Iterator
from itertools import count

from fleetplane.v1 import registry_service_pb2 as pb
from tests.bench.driving import Load, closed_loop, in_turns
from tests.bench.fleet import BATCH, REGISTRY, batch_requests, ordinary_spec
from tests.bench.plan import Plan
from tests.bench.results import Row, Window, judged, ratio_row
from tests.bench.servers import CALM, Server, can, daemon, floor
from tests.bench.store import store_work
from tests.bench.wire import unary

CALLERS = 64
BATCH_CALLERS = 4
AT_LEAST = 0.60
AGENTS_PER_SECOND = 10_000


async def run(plan: Plan) -> list[Row]:
    """Measure single registrations against the floor, then batches."""
    async with daemon(CALM) as server, floor() as bare:
        numbers = count(1_000_000)
        first = _request(next(numbers))
        reply = await unary(server.channel, f"{REGISTRY}Register")(first)
        await can(bare, f"{REGISTRY}Register", reply)
        commits_before = store_work(server).scripts
        measured, compared = await in_turns(
            plan.rounds,
            plan.seconds,
            _singles(server, numbers),
            _singles(bare, numbers),
        )
        commits = store_work(server).scripts - commits_before
    calls = sum(window.operations for window in measured.windows)
    single = ratio_row(7, f"Register, {CALLERS} callers", measured, compared, at_least=AT_LEAST)
    trips = Row(
        workload=7,
        what="store scripts run per Register, followers included",
        measured=f"{commits / calls:.2f} (the warm-up's are counted, its calls are not)",
        target="1 commit",
    )
    return [single, trips, await _batches(plan)]


def _request(number: int) -> bytes:
    request = pb.RegisterRequest(
        spec=ordinary_spec(number), instance=pb.InstanceSpec(instance_id=f"i-{number}")
    )
    return request.SerializeToString()


def _singles(server: Server, numbers: Iterator[int]) -> Load:
    call = unary(server.channel, f"{REGISTRY}Register")

    async def once() -> None:
        await call(_request(next(numbers)))

    async def load(seconds: float) -> Window:
        return await closed_loop(server, [once] * CALLERS, seconds)

    return load


async def _batches(plan: Plan) -> Row:
    """Register as many agents as fit into the time, in batches of 500."""
    async with daemon(CALM) as server:
        batches = int(plan.rounds * plan.seconds * AGENTS_PER_SECOND / BATCH)
        ready = [
            request.SerializeToString()
            for request in batch_requests(max(batches, BATCH_CALLERS) * BATCH)
        ]
        call = unary(server.channel, f"{REGISTRY}BatchRegister")
        waiting = iter(ready)

        async def once() -> None:
            message = next(waiting, None)
            if message is None:
                raise RuntimeError("more registrations than were made ready")
            reply = pb.BatchRegisterResponse.FromString(await call(message))
            refused = sum(result.HasField("error") for result in reply.results)
            if refused:
                raise RuntimeError(f"{refused} registrations were refused")

        seconds = plan.rounds * plan.seconds / 2.5
        window = await closed_loop(server, [once] * BATCH_CALLERS, seconds, per_operation=BATCH)
    return Row(
        workload=7,
        what=f"BatchRegister({BATCH}), agents",
        target=f">= {AGENTS_PER_SECOND:,}/s",
        measured=f"{window.rate:,.0f}/s",
        verdict=judged(window.rate >= AGENTS_PER_SECOND),
        rate=window.rate,
        server_us=window.server_cpu_seconds / window.operations * 1e6,
        store_us=window.store_cpu_seconds / window.operations * 1e6,
    )
