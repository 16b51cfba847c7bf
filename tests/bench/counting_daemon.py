"""The daemon with the counters of its task assigner in a file, for the benchmark to read.

    TASK_COUNTERS=<file> python -m tests.bench.counting_daemon serve ...

Nothing else differs: the file is mapped into memory, so writing it after each pass costs nothing.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

FILE = "TASK_COUNTERS"
"""Environment variable that names the file."""

_LAYOUT = struct.Struct("=QQ")


class TaskCounters(NamedTuple):
    """What a replica has assigned since its start, and how often another one was faster."""

    assigned: int
    contested: int


def read_counters(path: Path) -> TaskCounters:
    """Return what the daemon that was given this file has counted so far."""
    return TaskCounters(*_LAYOUT.unpack(path.read_bytes()))


def _run() -> None:
    from controlplane import wiring  # noqa: PLC0415 - whoever only reads counters needs none of it
    from controlplane.cli import entry  # noqa: PLC0415 - the same
    from controlplane.services.tasks.assignment import TaskAssigner  # noqa: PLC0415 - the same

    path = Path(os.environ[FILE])
    path.write_bytes(bytes(_LAYOUT.size))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _LAYOUT.size)

    class Counted(TaskAssigner):
        async def assign(self, namespace: str) -> int:
            try:
                return await super().assign(namespace)
            finally:
                _LAYOUT.pack_into(shared, 0, self.assigned, self.contested)

    replaced: Any = wiring
    replaced.TaskAssigner = Counted
    entry.run()


if __name__ == "__main__":
    _run()
