"""Tries the targets of tests/fuzz for a while, with other examples in every round.

FUZZ_SECONDS: how long, 600 by default. Ends with 1 after the first round in which something failed;
what failed is kept under .hypothesis and tried first in the next run.
"""

import os
import subprocess
import sys
import time

FIRST_EXAMPLES = 200  # per target: a round of about half a minute
MOST_EXAMPLES = 5_000  # a round of some minutes
ROUND_TIMEOUT_SECONDS = "3600"  # of one target: only what never ends takes so long


def main() -> int:
    """Run rounds, each larger than the one before, until the time is up."""
    began = time.monotonic()
    seconds = float(os.environ.get("FUZZ_SECONDS") or 600)
    examples, done = FIRST_EXAMPLES, 0
    while True:
        started = time.monotonic()
        print(f"fuzz: {examples} examples per target", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "tests/fuzz", "-n", "2"]
        outcome = subprocess.run(
            [*command, "--timeout", ROUND_TIMEOUT_SECONDS, *sys.argv[1:]],
            env=os.environ | {"FUZZ_EXAMPLES": str(examples)},
            check=False,
        )
        if outcome.returncode:
            return 1
        done += examples
        now = time.monotonic()
        left = seconds - (now - began)
        if left <= 0:
            print(f"fuzz: nothing found with {done} examples per target")
            return 0
        # As many as there is time for, as far as the last round tells.
        affordable = int(examples * left / (now - started))
        examples = max(1, min(2 * examples, affordable, MOST_EXAMPLES))


if __name__ == "__main__":
    sys.exit(main())
