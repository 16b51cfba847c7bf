"""Runs the workloads: `python -m tests.bench`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import uvloop

from tests.bench.plan import Plan
from tests.bench.results import Row, machine, table, write_json
from tests.bench.workloads import (
    approvals,
    beats_multiplexed,
    beats_single,
    command_line,
    config_fan_out,
    config_latency,
    decisions,
    discovery,
    local_decisions,
    memory,
    neighbours,
    reconnect,
    registration,
    rollouts,
    secure_beats,
    secure_calls,
    start,
    task_contention,
    tasks,
)

WORKLOADS: Mapping[int, Callable[[Plan], Awaitable[list[Row]]]] = MappingProxyType(
    {
        1: beats_multiplexed.run,
        2: beats_single.run,
        3: discovery.run,
        4: decisions.run,
        5: config_latency.run,
        6: config_fan_out.run,
        7: registration.run,
        8: reconnect.run,
        9: memory.run,
        10: start.run,
        11: command_line.run,
        13: tasks.run,
        14: task_contention.run,
        15: rollouts.run,
        16: secure_calls.run,
        17: secure_beats.run,
        18: neighbours.run,
        19: local_decisions.run,
        20: approvals.run,
    }
)

BY_DEFAULT = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20)
"""8 breaks the daemon on purpose and takes a minute: it runs when it is asked for."""

WORKLOAD_SECONDS = 600.0
"""Longest time of one workload; it is given up then, and the others go on."""


def main() -> int:
    """Run, print the table, write the JSON; 1 if a workload failed."""
    arguments = _arguments()
    plan = Plan(rounds=arguments.rounds, seconds=arguments.seconds)
    if arguments.quick:
        plan = Plan(rounds=1, seconds=0.3, quick=True)
    run = {"rounds": str(plan.rounds), "seconds": str(plan.seconds), "quick": str(plan.quick)}
    print("  ".join(f"{name} {value}" for name, value in machine().items()), flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows, failed = runner.run(_run(arguments.only, plan))
    print()
    print(table(rows))
    print(f"\n{write_json(rows, run)}")
    return 1 if failed else 0


async def _run(only: tuple[int, ...], plan: Plan) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    failed = False
    for number in only:
        began = time.monotonic()
        try:
            async with asyncio.timeout(WORKLOAD_SECONDS):
                measured = await WORKLOADS[number](plan)
        except Exception as error:  # noqa: BLE001 - the other workloads still say something
            failed = True
            print(f"workload {number} failed: {error!r}", file=sys.stderr, flush=True)
        else:
            rows += measured
            print(f"\n{table(measured)}", flush=True)
        print(f"workload {number}: {time.monotonic() - began:.0f} s", flush=True)
    return rows, failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only",
        type=_numbers,
        default=BY_DEFAULT,
        help=f"workloads to run, such as 1,3 (default: all but 8; there are {sorted(WORKLOADS)})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of daemon and floor")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one turn")
    parser.add_argument("--quick", action="store_true", help="a smoke: the figures mean nothing")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    unknown = set(numbers) - WORKLOADS.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no workload {sorted(unknown)}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
