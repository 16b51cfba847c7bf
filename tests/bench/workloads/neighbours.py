"""18: what one tenant notices of another one that does what its limits forbid.

Daemon and both tenants share the cores, so the latencies grow even if the daemon did nothing. The
control is the same mischief at a bare server that refuses everything: what the tenant notices of
that is the machine's, the rest is the daemon's.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fleetplane.v1 import task_service_pb2
from tests.bench.driving import percentile
from tests.bench.fleet import REGISTRY, living_fleet
from tests.bench.misbehaving import Mischief, Order
from tests.bench.pacing import timed
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, Server, daemon, ended, floor
from tests.bench.task_fleet import CAPABILITY, PAYLOAD, TASKS
from tests.bench.ways import SECURE, Administrator, way_in
from tests.bench.wire import Metadata, unary
from tests.bench.workloads.discovery import questions, spec_with_matches

MEMBERS: Final = 1_000
NEIGHBOUR: Final = "tenant-b"

FINDS_PER_SECOND: Final = 100.0
SUBMISSIONS_PER_SECOND: Final = 40.0
LIMITS: Final = MappingProxyType({"FLEETPLANE_CALLS_PER_SECOND": "300"})
"""Per caller: about a tenth of what one core answers."""

QUOTAS: Final = MappingProxyType({"calls_per_second": 20, "watches": 20})
"""Of the neighbour."""

PER_SECOND: Final[Mapping[Mischief, float]] = MappingProxyType(
    {
        Mischief.HOT: 500.0,
        Mischief.LISTS: 500.0,
        Mischief.STREAMS: 80.0,
        Mischief.CREDENTIALS: 500.0,
        Mischief.LOOP: 0.0,
    }
)
"""What the neighbour tries: five times what it may, or nearly; a loop is as fast as its answers."""

_Window = tuple[Mischief | None, bool]
"""Who misbehaves, and whether it is at the floor."""

_PEACE: Final[_Window] = (None, False)

GROWTH: Final = 1.10
BURST_SECONDS: Final = 10.0
"""What a quota grants at once; spent before anything is measured."""


@dataclass(slots=True)
class _Seen:
    """What the windows with the same neighbour came to."""

    finds: list[float] = field(default_factory=list)
    submissions: list[float] = field(default_factory=list)
    daemon_seconds: float = 0.0
    calls: int = 0
    codes: Counter[str] = field(default_factory=Counter)


async def run(plan: Plan) -> list[Row]:
    """Let every kind of mischief take turns with peace."""
    settings = {**CALM, **LIMITS, **SECURE}
    async with daemon(settings, log_level="info") as server:
        administrator = Administrator(server)
        await administrator.namespace(NEIGHBOUR, **QUOTAS)
        gateway = await administrator.identity("default", "gateway", "agent", "operator")
        async with way_in(server, server.announced["listen_mtls"], gateway.credentials) as way:
            size = plan.sized(MEMBERS, 200)
            await living_fleet(way.channel, size, spec_with_matches(size))
        ours = await administrator.token("default", "operator")
        theirs = await administrator.token(NEIGHBOUR, "operator")
        async with (
            way_in(server, server.listen, server.credentials, ours) as tenant,
            floor(administrator.ca_dir) as bare,
            _neighbour(server, bare, theirs) as neighbour,
        ):
            seen = await _turns(plan, tenant, neighbour)
    peace = seen[_PEACE]
    return [
        _row("nobody else", peace),
        *(_row(one, seen[one, False], peace, seen[one, True]) for one in Mischief),
    ]


class _Neighbour:
    """The process of the other tenant."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        server: Server,
        bare: Server,
        metadata: Metadata,
    ) -> None:
        self._process = process
        self._addresses = {False: server.listen, True: bare.announced["listen_tls"]}
        self._roots = Path(server.announced["ca_bundle"]).read_text(encoding="utf-8")
        self._secret = metadata[0][1].removeprefix("Bearer ")

    async def misbehave(
        self, mischief: Mischief, seconds: float, *, at_floor: bool
    ) -> Counter[str]:
        """Return how its calls were answered."""
        order = Order(
            mischief=mischief,
            per_second=PER_SECOND[mischief],
            seconds=seconds,
            address=self._addresses[at_floor],
            is_floor=at_floor,
            roots=self._roots,
            secret=self._secret,
            namespace=NEIGHBOUR,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the neighbour cannot be spoken to")
        self._process.stdin.write(order.line())
        return Counter(json.loads(await self._process.stdout.readline())["codes"])


@asynccontextmanager
async def _neighbour(server: Server, bare: Server, metadata: Metadata) -> AsyncIterator[_Neighbour]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.misbehaving"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield _Neighbour(process, server, bare, metadata)
    finally:
        await ended(process)


async def _turns(plan: Plan, tenant: Server, neighbour: _Neighbour) -> dict[_Window, _Seen]:
    seen: dict[_Window, _Seen] = {_PEACE: _Seen()}
    for mischief in Mischief:
        seen[mischief, False], seen[mischief, True] = _Seen(), _Seen()
    for warm_up in seen:
        await _window(tenant, neighbour, warm_up, plan.seconds, _Seen())
    for _ in range(plan.rounds):
        for which, into in seen.items():
            await _window(tenant, neighbour, which, plan.seconds, into)
    return seen


async def _window(
    tenant: Server,
    neighbour: _Neighbour,
    which: _Window,
    seconds: float,
    into: _Seen,
) -> None:
    mischief, at_floor = which
    find = unary(tenant.channel, f"{REGISTRY}FindBestAgent", tenant.metadata)
    submit = unary(tenant.channel, f"{TASKS}SubmitTask", tenant.metadata)
    question, submission = questions()["FindBestAgent"], _submission()

    async def once_found() -> None:
        await find(question)

    async def once_submitted() -> None:
        await submit(submission)

    before, _ = tenant.cpu_seconds()
    async with asyncio.TaskGroup() as group:
        finds = group.create_task(timed(FINDS_PER_SECOND, seconds, once_found))
        submissions = group.create_task(timed(SUBMISSIONS_PER_SECOND, seconds, once_submitted))
        if mischief is not None:
            answered = group.create_task(neighbour.misbehave(mischief, seconds, at_floor=at_floor))
    into.daemon_seconds += tenant.cpu_seconds()[0] - before
    into.finds += finds.result()
    into.submissions += submissions.result()
    if mischief is not None:
        into.codes += answered.result()
        into.calls += answered.result().total()


def _submission() -> bytes:
    """Return a task that waits: what is measured is that it is taken in."""
    spec = task_service_pb2.TaskSpec(kind="summarize", capabilities=[CAPABILITY])
    return task_service_pb2.SubmitTaskRequest(spec=spec, payload=PAYLOAD).SerializeToString()


def _row(who: str, seen: _Seen, peace: _Seen | None = None, control: _Seen | None = None) -> Row:
    """Return the latencies of the tenant that behaves, and what a call of the other one costs."""
    measured, details = [], dict[str, float | str | list[float]]()
    worst = 0.0
    for name in ("finds", "submissions"):
        p50, p99 = (percentile(getattr(seen, name), share) * 1000 for share in (0.5, 0.99))
        details[name] = [p50, p99]
        text = f"{name} p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        if peace is not None and control is not None:
            alone, beside = (percentile(getattr(one, name), 0.99) for one in (peace, control))
            growth = p99 / 1000 / max(alone, beside)
            worst = max(worst, growth)
            details[f"{name} beside the floor"] = beside * 1000
            text += f" ({p99 / 1000 / alone:.2f}x; at a bare server {beside / alone:.2f}x)"
        measured.append(text)
    if peace is None:
        return Row(workload=18, what=f"beside {who}", measured="; ".join(measured), details=details)
    extra = (seen.daemon_seconds - peace.daemon_seconds) / max(seen.calls, 1)
    answers = ", ".join(f"{code} {count}" for code, count in seen.codes.most_common())
    return Row(
        workload=18,
        what=f"beside {who}",
        measured=f"{'; '.join(measured)}; answered {answers}",
        target=f"p99 <= {GROWTH:g}x of the control",
        verdict=judged(worst <= GROWTH),
        server_us=extra * 1e6,
        details=details | {"growth": worst},
    )
