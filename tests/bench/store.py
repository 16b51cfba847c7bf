"""What the store of a daemon says about itself."""

from dataclasses import dataclass

import redis

from tests.bench.servers import Server


@dataclass(frozen=True, slots=True)
class StoreWork:
    """What a store has done so far."""

    scripts: int
    """Scripts run: commits, and catching up."""
    reads: int
    """Times it read from a connection: round trips, for a client writes a pipeline at once."""

    def __sub__(self, before: "StoreWork") -> "StoreWork":
        return StoreWork(self.scripts - before.scripts, self.reads - before.reads)


def store_work(server: Server) -> StoreWork:
    """Ask the embedded store of a daemon.

    Raises:
        RuntimeError: the daemon does not have one of its own.
    """
    if server.store is None:
        raise RuntimeError("the daemon has no embedded store")
    arguments = server.store.cmdline()
    socket = arguments[arguments.index("--unixsocket") + 1]
    with redis.Redis(unix_socket_path=socket) as client:
        commands, stats = client.info("commandstats"), client.info("stats")
    scripts = (commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
    return StoreWork(sum(scripts), stats["total_reads_processed"])
