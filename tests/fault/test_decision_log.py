"""The log of decisions while its store is away and its daemon dies: nothing is lost unsaid."""

import asyncio
import contextlib
import hashlib
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.decision_log import RedisDecisionLog
from fleetplane import (
    AgentSpec,
    DecisionDurability,
    DecisionLogRule,
    Evaluation,
    FleetClient,
    FleetError,
)
from fleetplane.v1 import decision_service_pb2 as pb
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import ValkeyServer, valkey_server

pytestmark = [
    pytest.mark.fault,
    pytest.mark.xdist_group("decision log faults"),
    pytest.mark.timeout(120),
]

AWAY_SECONDS = 10.0
"""How long the store is stopped."""

QUEUE = 2_000
"""Decisions that a daemon here keeps, so that it overflows in seconds."""

MORE_MEMORY_KB = 60_000
"""What a daemon may grow by while it keeps that queue and answers."""


@contextlib.asynccontextmanager
async def plane(**settings: float) -> AsyncIterator[tuple[ValkeyServer, Daemon, FleetClient]]:
    async with valkey_server() as store:
        with running_daemon(
            store=store.url,
            grace_seconds=1.0,
            unready_after_seconds=60.0,
            degraded_after_seconds=60.0,
            **settings,
        ) as daemon:
            async with FleetClient(daemon.address) as client:
                yield store, daemon, client


async def agent_of(client: FleetClient) -> str:
    return (await client.register(AgentSpec(name="worker", version="1.0.0"))).agent.agent_id


async def record_first(client: FleetClient, action: str) -> None:
    """Have decisions on an action recorded before they are answered."""
    rule = DecisionLogRule(actions=action, durability=DecisionDurability.SYNC)
    await client.update_policy_settings(log_rules=[rule])


async def entries(client: FleetClient) -> list[pb.DecisionEntry]:
    return [one async for one in client.query_decisions(page_size=1_000)]


def told(found: list[pb.DecisionEntry]) -> tuple[set[str], int]:
    """Return the ids that are recorded, each once, and how many others the log says there were."""
    ids = Counter(one.decision.decision.decision_id for one in found if one.HasField("decision"))
    assert set(ids.values()) <= {1}
    return set(ids), sum(one.gap.number_lost for one in found if one.HasField("gap"))


def memory_kb(daemon: Daemon) -> int:
    with open(f"/proc/{daemon.pid}/status", encoding="ascii") as status:  # noqa: PTH123 - no file
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def test_while_the_store_is_paused_answers_go_on_and_what_is_lost_is_told() -> None:
    async with plane(decision_queue=QUEUE) as (store, daemon, client):
        agent_id = await agent_of(client)
        item = Evaluation(agent_id=agent_id, action="read", context={"note": "n" * 200})
        made: set[str] = set()
        during = 0

        async def decide() -> None:
            answered = await client.batch_evaluate_policy([item] * 50)
            made.update(one.decision_id for one in answered if not isinstance(one, FleetError))

        for _ in range(20):
            await decide()
        before_kb = memory_kb(daemon)
        store.pause()
        loop = asyncio.get_running_loop()
        end = loop.time() + AWAY_SECONDS
        while loop.time() < end:
            await asyncio.wait_for(decide(), 2.0)
            during += 1
        grown_kb = memory_kb(daemon) - before_kb
        store.resume()
        assert during > AWAY_SECONDS * 5  # answers went on
        assert during * 50 > QUEUE * 2  # and were more than fit
        assert grown_kb < MORE_MEMORY_KB

        async def complete() -> bool:
            ids, lost = told(await entries(client))
            return len(ids) + lost >= len(made)

        await eventually("everything is recorded or told", complete, within=20)
        ids, lost = told(await entries(client))
        assert ids <= made
        assert len(ids) + lost == len(made)
        assert lost > 0


async def test_what_a_daemon_has_answered_is_there_after_it_stops() -> None:
    async with plane() as (_, daemon, client):
        agent_id = await agent_of(client)
        made = {(await client.evaluate_policy(agent_id, "read")).decision_id for _ in range(50)}
        daemon.terminate()
        await daemon.await_end()
        await daemon.astart()
        ids, lost = told(await entries(client))

        assert ids == made
        assert lost == 0


async def test_decisions_that_must_be_recorded_first_are_or_are_not_answered() -> None:
    async with plane() as (store, daemon, client):
        agent_id = await agent_of(client)
        await record_first(client, "pay")
        answered: set[str] = set()
        refused = 0

        async def ask() -> None:
            nonlocal refused
            try:
                decision = await client.evaluate_policy(agent_id, "pay", timeout=4.0)
            except FleetError:
                refused += 1
            else:
                answered.add(decision.decision_id)

        async def keep_asking(seconds: float) -> None:
            end = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < end:
                await ask()

        async def all_asking(seconds: float) -> None:
            await asyncio.gather(*(keep_asking(seconds) for _ in range(8)))

        await all_asking(0.5)
        before = len(answered)
        assert before
        store.pause()
        await all_asking(3.0)
        during = len(answered) - before
        store.resume()
        assert refused
        assert during <= 16  # those that were on their way when it stopped, and when it went on
        await eventually("the store is back", lambda: _answers(ask, answered))
        await all_asking(0.5)
        daemon.kill()
        await daemon.astart()
        ids, lost = told(await entries(client))

        assert answered <= ids
        assert lost == 0


async def _answers(ask: Callable[[], Awaitable[None]], answered: set[str]) -> bool:
    before = len(answered)
    await ask()
    return len(answered) > before


async def test_masked_values_are_nowhere_in_the_store() -> None:
    async with plane() as (store, _, client):
        agent_id = await agent_of(client)
        await client.update_policy_settings(masked_paths=["card.number", "users.*.token"])
        planted = "planted-4711"
        for _ in range(3):
            context = {"card": {"number": planted}, "users": {"ann": {"token": planted}}}
            decision = await client.evaluate_policy(agent_id, "pay", context=context)
        recorded = await client.get_decision(decision.decision_id)
        async with StoreConnection(store.url) as connection:
            log: Any = await connection.reads.xrange("fp:{default}:decisions")
        packed = [fields[b"b"] for _, fields in log]

        assert list(recorded.masked_paths) == ["card.number", "users.ann.token"]
        assert packed
        assert not any(planted.encode() in _plain(one) for one in packed)


def _plain(packed: bytes) -> bytes:
    """Return a packed batch without its compression."""
    return zlib.decompress(packed[1:]) if packed[:1] == b"\x02" else packed


async def test_two_daemons_share_a_log_and_find_each_others_decisions() -> None:
    async with valkey_server() as store:
        with running_daemon(store=store.url) as one, running_daemon(store=store.url) as other:
            async with FleetClient(one.address) as here, FleetClient(other.address) as there:
                agent_id = await agent_of(here)

                async def known() -> bool:
                    with contextlib.suppress(FleetError):
                        await there.evaluate_policy(agent_id, "read", dry_run=True)
                        return True
                    return False

                await eventually("the other one knows the agent", known)
                made = [
                    (await client.evaluate_policy(agent_id, "read")).decision_id
                    for client in (here, there) * 10
                ]
                for decision_id in made:
                    for client in (here, there):
                        found = await client.get_decision(decision_id)
                        assert found.decision.decision_id == decision_id
                ids, lost = told(await entries(there))

        assert ids == set(made)
        assert len(ids) == 20
        assert lost == 0


async def test_the_log_is_kept_within_its_bytes() -> None:
    async with plane(decision_log_mib=1) as (store, _, client):
        agent_id = await agent_of(client)
        noise = iter(range(10**6))
        for _ in range(60):
            items = [
                Evaluation(agent_id=agent_id, action="read", context={"blob": _noise(next(noise))})
                for _ in range(50)
            ]
            await client.batch_evaluate_policy(items)
        async with StoreConnection(store.url) as connection:
            trimmed = RedisDecisionLog(connection)
            while await trimmed.trim("default", keep_ms=10**9, max_bytes=1 << 20):
                pass
            size = int(await connection.reads.get("fp:{default}:decisions:bytes") or 0)
            left: Any = await connection.reads.xrange("fp:{default}:decisions")
        stored = sum(len(fields[b"h"]) + len(fields[b"b"]) for _, fields in left)

        assert stored == size
        assert (1 << 20) // 2 < size <= 1 << 20


def _noise(number: int) -> str:
    """Return a KB that does not compress well."""
    return hashlib.shake_256(str(number).encode()).hexdigest(512)
