"""11: how long the command line takes to answer."""

import asyncio
import sys
import time
from statistics import median

from tests.bench.plan import Plan
from tests.bench.results import Row, judged
from tests.bench.servers import CALM, daemon

REPEATS = 9
HELP_SECONDS = 0.3
LIST_SECONDS = 0.6


async def run(plan: Plan) -> list[Row]:
    """Time `--help` and `agents list` on an empty daemon."""
    async with daemon(CALM) as server:
        return [
            await _timed(plan, HELP_SECONDS, "--help"),
            await _timed(plan, LIST_SECONDS, "agents", "list", "--address", server.listen),
        ]


async def _timed(plan: Plan, limit: float, *arguments: str) -> Row:
    """Run a command several times; the first one, which reads the disk, does not count."""
    seconds = []
    for _ in range(1 + plan.sized(REPEATS, 1)):
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "controlplane", *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        code = await process.wait()
        seconds.append(time.perf_counter() - began)
        if code:
            raise RuntimeError(f"fleetplane {' '.join(arguments)} ended with {code}")
    middle = median(seconds[1:])
    shown = " ".join(argument for argument in arguments[:2])
    return Row(
        workload=11,
        what=f"fleetplane {shown}",
        target=f"<= {limit:g} s",
        measured=f"{middle:.2f} s",
        verdict=judged(middle <= limit),
        details={"seconds": seconds[1:]},
    )
