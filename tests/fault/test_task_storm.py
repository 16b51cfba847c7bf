"""Ten thousand tasks through two hundred agents while agents, daemons and the store are killed.

Each task ends exactly once, in a terminal state, and the audit knows each of its moves.
"""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from fleetplane import ChannelConfig, FleetClient, FleetError, RetryPolicy, TaskState
from fleetplane._task_spec import TaskSubmission
from fleetplane.v1 import task_service_pb2 as pb
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import ValkeyServer, valkey_server
from tests.fakes.worker_process import Workers, workers

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("task storm"), pytest.mark.timeout(400)]

TASKS: Final = 10_000
PROCESSES: Final = 10
AGENTS_PER_PROCESS: Final = 20
BATCH: Final = 250
KILLS: Final = 4
SEED: Final = 20_260

PULSE: Final = {
    "heartbeat_interval_seconds": 1.0,
    "degraded_after_seconds": 4.0,
    "lost_after_seconds": 30.0,
    "grace_seconds": 1.0,
    # A machine that is busy with other suites is no overload of the daemon.
    "overload_lag_seconds": 60.0,
}

PATIENT: Final = ChannelConfig(
    retry=RetryPolicy(max_attempts=200), max_reconnect_backoff=0.5, default_timeout=60.0
)

TERMINAL: Final = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}


@dataclass
class Storm:
    """Two daemons over one store, and a client of whichever answers."""

    store: ValkeyServer
    daemons: list[Daemon]
    client: FleetClient
    crew: Workers

    async def start_process(self, number: int) -> None:
        await self.crew.start(
            f"crew-{number}",
            "1.0.0",
            instance_id=f"process-{number}",
            agents=AGENTS_PER_PROCESS,
            max_concurrency=4,
        )


@asynccontextmanager
async def storm() -> AsyncIterator[Storm]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey_server())
        daemons = [stack.enter_context(running_daemon(store=store.url, **PULSE)) for _ in range(2)]
        target = "ipv4:" + ",".join(daemon.address for daemon in daemons)
        client = await stack.enter_async_context(FleetClient(target, channel_config=PATIENT))
        log = daemons[0].directory / "workers.log"
        crew = await stack.enter_async_context(workers(target, "default", log))
        yield Storm(store, daemons, client, crew)


async def submit_all(client: FleetClient) -> list[str]:
    """Submit every task, and again what was not answered, under the same request_id."""
    ids: list[str] = []
    for start in range(0, TASKS, BATCH):
        batch = [
            TaskSubmission(
                capabilities=["work"],
                payload=json.dumps({"seconds": 0.02}).encode(),
                submitter=f"team-{number % 7}",
                max_attempts=20,
                request_id=f"storm-{number}",
            )
            for number in range(start, start + BATCH)
        ]
        while batch:
            try:
                results = await client.submit_tasks(batch)
            except FleetError:
                await asyncio.sleep(0.2)
                continue
            ids += [one.task_id for one in results if isinstance(one, pb.Task)]
            batch = [
                item
                for item, one in zip(batch, results, strict=True)
                if not isinstance(one, pb.Task)
            ]
    return ids


async def kill_at_random(here: Storm, chance: random.Random) -> None:
    """Kill agents, daemons and the store, each several times, and start them again."""
    for round_number in range(KILLS):
        await asyncio.sleep(chance.uniform(1.0, 2.0))
        victim = chance.randrange(PROCESSES)
        alive = [w for w in here.crew.all if w.instance_id == f"process-{victim}"]
        alive[-1].send(signal.SIGKILL)
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        daemon = here.daemons[round_number % 2]
        await daemon.arestart()
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        await here.store.restart()
        await here.start_process(victim)


async def states(client: FleetClient) -> dict[str, pb.Task]:
    return {task.task_id: task async for task in client.list_tasks(page_size=1000)}


async def test_each_of_ten_thousand_tasks_ends_exactly_once_whoever_dies() -> None:
    chance = random.Random(SEED)
    async with storm() as here:
        await asyncio.gather(*(here.start_process(number) for number in range(PROCESSES)))
        async with asyncio.TaskGroup() as group:
            submitting = group.create_task(submit_all(here.client))
            group.create_task(kill_at_random(here, chance))
        ids = submitting.result()
        assert len(set(ids)) == len(ids) == TASKS

        left: list[pb.Task] = []

        async def all_ended() -> bool:
            found = await states(here.client)
            left[:] = [
                one for one in map(found.__getitem__, ids) if TaskState(one.state) not in TERMINAL
            ]
            return not left

        try:
            await eventually("every task has ended", all_ended, within=240.0)
        except pytest.fail.Exception:
            logs = "\n\n".join(daemon.log[-3000:] for daemon in here.daemons)
            pytest.fail(f"{len(left)} tasks have not ended, such as {left[:3]}\n{logs}")
        found = await states(here.client)
        assert len(found) == TASKS, "a retried submission made a second task"
        ends = Counter(TaskState(task.state).name for task in found.values())
        assert ends["SUCCEEDED"] == TASKS, ends
        assert any(task.hop_count > 1 for task in found.values()), "nobody was ever killed at work"
        completions = await audited_completions(here.store.url)
        assert completions == Counter(dict.fromkeys(ids, 1))


async def audited_completions(url: str) -> Counter[str]:
    """Count the audit entries that say a task was completed."""
    completed: Counter[str] = Counter()
    async with (
        StoreConnection(url, client_name="test") as connection,
        RedisLedger(connection) as ledger,
    ):
        after = 0
        while entries := await ledger.read_audit("default", after=after, limit=5_000):
            after = entries[-1][0]
            for _, _, entry in entries:
                if entry.event == "task.completed":
                    completed[entry.object.removeprefix("tasks/")] += 1
    return completed
