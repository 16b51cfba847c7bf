"""Calls that wait for their records: none waits for the traffic of others, or for large ones."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from controlplane.domain.policy_settings import DecisionLogRule, DecisionLogSettings, Durability
from controlplane.services.policies.decision_log_port import DecisionBatch
from controlplane.services.policies.recorder import CHUNK_BYTES, CLAIM_FACTOR
from controlplane.storage.memory import MemoryDecisionLog
from tests.fakes.decision_world import DecisionWorld
from tests.fakes.plane import NS

SYNC = DecisionLogSettings(rules=(DecisionLogRule(actions=("**",), durability=Durability.SYNC),))
ENOUGH = 50


def waits_for_its_record(
    world: DecisionWorld, namespace: str, request_bytes: int = 100
) -> Awaitable[None]:
    answer = world.asks(dry_run=True)
    recorded = world.recorder.record(
        namespace, SYNC, (answer,), caller="ada", latency_ns=1, request_bytes=request_bytes
    )
    assert recorded is not None
    return recorded


class BusyLog:
    """A log that takes batches, while a namespace goes on asking and another one begins to."""

    def __init__(self, world: DecisionWorld) -> None:
        self._log = MemoryDecisionLog(world.plane.store)
        self._world = world
        self.batches: list[tuple[str, DecisionBatch]] = []
        self.other: Awaitable[None] | None = None

    async def append(self, namespace: str, batch: DecisionBatch, **options: Any) -> bool:
        if len(self.batches) < ENOUGH:
            waits_for_its_record(self._world, NS)
        if self.other is None:
            self.other = waits_for_its_record(self._world, "quiet")
        await asyncio.sleep(0)
        self.batches.append((namespace, batch))
        return await self._log.append(namespace, batch, **options)


async def test_a_namespace_does_not_wait_until_another_one_is_quiet():
    world = await DecisionWorld().start()
    busy = BusyLog(world)
    world.log._log = busy  # type: ignore[assignment]  # the inside of a fake
    flushing = asyncio.create_task(world.flusher.run_synchronous())
    async with asyncio.timeout(10):
        await waits_for_its_record(world, NS)
        assert busy.other is not None
        await busy.other
        batches = len(busy.batches)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)

    assert batches < ENOUGH


async def test_large_requests_go_in_batches_of_bounded_size():
    world = await DecisionWorld().start()
    each = CHUNK_BYTES // CLAIM_FACTOR // 2
    calls = [waits_for_its_record(world, NS, each) for _ in range(6)]
    flushing = asyncio.create_task(world.flusher.run_synchronous())
    async with asyncio.timeout(10):
        await asyncio.gather(*calls)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)

    counts = [stored.batch.count for stored in await world.log.newest(NS, limit=9)]
    assert counts == [2, 2, 2]
