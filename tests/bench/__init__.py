"""The benchmark: what the daemon costs above the transport, workload by workload.

    make bench
    python -m tests.bench --only 1,3 --rounds 5
    python -m tests.bench --quick

A figure is a ratio measured in one run: the daemon and a *floor* take turns (A B A B ...), and the
median of the rounds counts. The floor (`floor.py`) is a bare grpc.aio server with the same options
and messages that returns canned replies; it is what the transport costs. docs/performance.md says
how to read the table.
"""

import os

# Servers are started while channels are open; grpc says so on every fork. Set before grpc loads.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
