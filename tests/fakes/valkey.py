"""Real Valkey servers for tests: standalone, Sentinel and Cluster, from the bundled binary.

Everything listens on a unix socket or on a free loopback port, lives in a short temporary
directory, and is killed when its context manager ends. The environment variable
FLEETPLANE_TEST_STORE_BINARY names another server program; see tests/contracts/conftest.py.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from controlplane.storage.redis.store_binary import find_server_binary

READY_SECONDS = 20.0  # milliseconds, unless somebody blocks the loop or the machine
_POLL_SECONDS = 0.005


def server_binary() -> Path:
    """The server program that the tests run."""
    chosen = os.environ.get("FLEETPLANE_TEST_STORE_BINARY")
    return find_server_binary(Path(chosen) if chosen else None)


class ValkeyServer:
    """One server process. `url` addresses it; `arguments` are added to the command line."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        port: int | None = None,
        config: Path | None = None,
        persistent: bool = True,
    ) -> None:
        self.directory = directory
        self.port = port
        self.socket = directory / "s.sock"
        self._arguments = arguments
        self._config = config
        self._persistent = persistent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self.port is None:
            return f"unix://{self.socket}?db=0"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        command = [str(server_binary())]
        if self._config is not None:
            command += [str(self._config)]
        else:
            command += ["--dir", str(self.directory), "--save", "", "--loglevel", "warning"]
            command += ["--appendonly", "yes" if self._persistent else "no"]
        if self.port is None:
            command += ["--port", "0", "--unixsocket", str(self.socket)]
        else:
            command += ["--port", str(self.port), "--bind", "127.0.0.1"]
        self._process = self._spawn([*command, *self._arguments])
        async with asyncio.timeout(READY_SECONDS):
            while not (await self.command("PING")).startswith(("+PONG", "-NOAUTH")):
                if self._process.poll() is not None:
                    raise RuntimeError((self.directory / "log").read_text())
                await asyncio.sleep(_POLL_SECONDS)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    async def replies(self, line: str, expected: str) -> None:
        """Return when `line` is answered with something that contains `expected`."""
        while True:
            if expected in await self.command(line):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def command(self, line: str) -> str:
        """Send one inline command and return the start of its reply; empty when nobody answers."""
        try:
            if self.port is None:
                reader, writer = await asyncio.open_unix_connection(self.socket)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return ""
        try:
            writer.write(line.encode() + b"\r\n")
            return (await reader.read(64 * 1024)).decode()
        except OSError:
            return ""
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def kill(self) -> None:
        """Kill the server at once (SIGKILL) and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def restart(self) -> None:
        """Kill the server and start it again on the same data and address."""
        self.kill()
        await self.start()

    def pause(self) -> None:
        """Stall the server (SIGSTOP): connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def short_directory():
    """A temporary directory whose paths fit into a socket address (108 bytes)."""
    path = Path(tempfile.mkdtemp(prefix="fp-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# How far a Cluster node's own port is from the one it serves clients on.
_CLUSTER_BUS = 10_000


def free_port() -> int:
    """A port that is free, and so is the one that a Cluster node would use besides."""
    while True:
        with socket.socket() as probe, socket.socket() as beside:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                beside.bind(("127.0.0.1", port + _CLUSTER_BUS))
                return port


# Two ways in which services forbid CONFIG: unknown command, and refused by the access list.
CONFIG_RENAMED = ("--rename-command", "CONFIG", "")
CONFIG_DENIED = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-config", "-info")


@contextlib.asynccontextmanager
async def valkey_server(
    *arguments: str, tcp: bool = False, persistent: bool = True
) -> AsyncIterator[ValkeyServer]:
    """Run a standalone server on a unix socket, or on a free loopback port with `tcp`."""
    with short_directory() as directory:
        port = free_port() if tcp else None
        server = ValkeyServer(directory, *arguments, port=port, persistent=persistent)
        try:
            await server.start()
            yield server
        finally:
            server.kill()


class SentinelGroup:
    """A primary, a replica, and the sentinels that watch them under `service`."""

    service = "fleet"

    def __init__(
        self, primary: ValkeyServer, replica: ValkeyServer, sentinels: Sequence[ValkeyServer]
    ) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinels = tuple(sentinels)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/0"

    async def replica_promoted(self) -> None:
        """Return when the replica has become the primary, for itself and for the sentinels."""
        await self.replica.replies("INFO replication", "role:master")
        for sentinel in self.sentinels:
            # Not get-master-addr-by-name: it names the new primary before `masters` does, which
            # is what redis-py asks.
            await sentinel.replies("SENTINEL masters", f"\r\nport\r\n$5\r\n{self.replica.port}\r\n")


@contextlib.asynccontextmanager
async def sentinel_group(sentinels: int = 1) -> AsyncIterator[SentinelGroup]:
    """Run a Sentinel group that fails over about a second after the primary's death."""
    with short_directory() as root:
        servers = [_member(root, name) for name in ("primary", "replica")]
        primary, replica = servers
        replica._arguments = ("--replicaof", "127.0.0.1", str(primary.port))
        watchers = [_sentinel(root, i, primary, sentinels) for i in range(sentinels)]
        everyone = [primary, replica, *watchers]
        try:
            async with asyncio.timeout(READY_SECONDS * 2):
                await primary.start()
                await replica.start()
                await replica.replies("INFO replication", "master_link_status:up")
                for watcher in watchers:
                    await watcher.start()
                for watcher in watchers:
                    await _sentinel_ready(watcher, others=sentinels - 1)
            yield SentinelGroup(primary, replica, watchers)
        finally:
            for server in everyone:
                server.kill()


def _member(root: Path, name: str, *arguments: str, persistent: bool = False) -> ValkeyServer:
    directory = root / name
    directory.mkdir()
    # Fast replication for tests: no pause before the first full synchronisation.
    fast = ("--repl-diskless-sync-delay", "0")
    return ValkeyServer(directory, *fast, *arguments, port=free_port(), persistent=persistent)


def _sentinel(root: Path, index: int, primary: ValkeyServer, sentinels: int) -> ValkeyServer:
    directory = root / f"sentinel{index}"
    directory.mkdir()
    config = directory / "sentinel.conf"
    name = SentinelGroup.service
    config.write_text(
        f"dir {directory}\n"
        f"sentinel monitor {name} 127.0.0.1 {primary.port} {sentinels // 2 + 1}\n"
        f"sentinel down-after-milliseconds {name} 500\n"
        f"sentinel failover-timeout {name} 2000\n"
    )
    return ValkeyServer(directory, "--sentinel", port=free_port(), config=config)


async def _sentinel_ready(watcher: ValkeyServer, *, others: int) -> None:
    """Wait until the sentinel knows the replica and its peers."""
    ask = f"SENTINEL masters\r\nSENTINEL replicas {SentinelGroup.service}"
    while True:
        reply = (await watcher.command(ask)).split("\r\n")
        fields = dict(zip(reply, reply[2:], strict=False))
        known = fields.get("num-slaves") == "1" and int(fields["num-other-sentinels"]) == others
        if known:
            return
        await asyncio.sleep(0.02)


class ClusterGroup:
    """A Cluster of primaries without replicas; each owns an equal share of the slots."""

    def __init__(self, nodes: Sequence[ValkeyServer]) -> None:
        self.nodes = tuple(nodes)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    async def ready(self) -> None:
        """Return when every node says that all slots are served."""
        async with asyncio.timeout(READY_SECONDS * 2):
            for node in self.nodes:
                await node.replies("CLUSTER INFO", "cluster_state:ok")


@contextlib.asynccontextmanager
async def valkey_cluster(
    *arguments: str, size: int = 3, persistent: bool = False
) -> AsyncIterator[ClusterGroup]:
    """Run a Cluster of `size` primaries."""
    with short_directory() as root:
        clustered = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        nodes = [
            _member(root, f"node{i}", *clustered, *arguments, persistent=persistent)
            for i in range(size)
        ]
        try:
            async with asyncio.timeout(READY_SECONDS * 2):
                for node in nodes:
                    await node.start()
                await _join(nodes)
            yield ClusterGroup(nodes)
        finally:
            for node in nodes:
                node.kill()


async def _join(nodes: Sequence[ValkeyServer]) -> None:
    share = 16_384 // len(nodes) + 1
    for i, node in enumerate(nodes):
        slots = range(i * share, min(16_384, (i + 1) * share))
        # Redis 6.2 knows no ranges.
        await node.command(f"CLUSTER ADDSLOTS {' '.join(map(str, slots))}")
        await node.command(f"CLUSTER SET-CONFIG-EPOCH {i + 1}")
        for peer in nodes[i + 1 :]:
            await node.command(f"CLUSTER MEET 127.0.0.1 {peer.port}")
    for node in nodes:
        while True:
            info = await node.command("CLUSTER INFO")
            if "cluster_state:ok" in info and f"cluster_known_nodes:{len(nodes)}" in info:
                break
            await asyncio.sleep(0.02)
