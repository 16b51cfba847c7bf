"""10: from the command to SERVING, with an empty store and a full one; memory of each agent."""

import time
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import mkdtemp

from tests.bench.fleet import living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, daemon

EMPTY_SECONDS = 1.5
FULL_SECONDS = 10.0
KIBIBYTE = 1024
PER_AGENT = 4 * KIBIBYTE


async def run(plan: Plan) -> list[Row]:
    """Start on an empty directory, fill it, start on it again."""
    size = plan.sized(100_000, 1_000)
    empty: list[float] = []
    empty_bytes: list[int] = []
    for _ in range(plan.rounds):
        began = time.perf_counter()
        async with daemon(CALM) as server:
            empty.append(time.perf_counter() - began)
            empty_bytes.append(server.resident_bytes())
    data_dir = Path(mkdtemp(prefix="fp-bench-", dir="/tmp"))
    full: list[float] = []
    full_bytes: list[int] = []
    try:
        async with daemon(CALM, data_dir=data_dir) as server:
            await living_fleet(server.channel, size)
        for _ in range(min(plan.rounds, 3)):
            began = time.perf_counter()
            async with daemon(CALM, data_dir=data_dir) as server:
                full.append(time.perf_counter() - began)
                full_bytes.append(server.resident_bytes())
    finally:
        rmtree(data_dir, ignore_errors=True)
    per_agent = (median(full_bytes) - median(empty_bytes)) / size
    return [
        _start("start, empty store", empty, EMPTY_SECONDS),
        _start(f"start, {size:,} agents", full, FULL_SECONDS),
        Row(
            workload=9,
            what="memory of an agent with an instance, loaded at start",
            target=f"<= {PER_AGENT // KIBIBYTE} KiB",
            measured=f"{per_agent / KIBIBYTE:.1f} KiB",
            verdict=judged(per_agent <= PER_AGENT),
            details={"bytes": per_agent},
        ),
    ]


def _start(what: str, seconds: list[float], limit: float) -> Row:
    middle = median(seconds)
    return Row(
        workload=10,
        what=what,
        target=f"<= {limit:g} s",
        measured=f"{middle:.2f} s",
        verdict=judged(middle <= limit),
        details={"seconds": seconds},
    )
