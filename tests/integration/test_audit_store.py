"""The audit on a real store: tampering, replicas that seal together, one that dies meanwhile."""

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest

from controlplane.domain.audit.chain import Keys
from controlplane.domain.audit.verification import ProblemKind
from controlplane.services.audit.events import EventQuery
from controlplane.services.audit.sealing import BLOCK, AuditSealer, Outcome
from controlplane.storage.redis.audit_log import RedisAuditLog
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.audit_world import (
    KEY,
    NS,
    OTHER_KEY,
    AheadClock,
    RedisAuditWorld,
    flipped,
    redis_audit_world,
    seal_under,
)
from tests.fakes.transactions import transaction
from tests.fakes.valkey import valkey_server

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
NEWEST = 20
SEALED = 16


async def written(world: RedisAuditWorld, keys: Keys) -> None:
    for count in (5, 1, 10):
        await world.write(count)
        assert await world.seal(keys) is Outcome.SEALED
    await world.write(NEWEST - SEALED)


async def problem_of(world: RedisAuditWorld, keys: Keys) -> tuple[ProblemKind, int]:
    problem = (await world.verify(keys)).problem
    assert problem is not None
    return problem.kind, problem.sequence


@pytest.mark.parametrize("keys", [Keys(), Keys([KEY])], ids=["without a key", "with a key"])
async def test_whatever_is_done_to_the_store_is_found_where_it_begins(keys):
    dice = random.Random(7)
    for sequence in range(1, SEALED + 1, 3):
        async with redis_audit_world() as world:
            await written(world, keys)
            assert (await world.verify(keys)).problem is None
            seals = await world.log.seals(NS, after=0, limit=9)
            seal = seal_under(seals, sequence)
            other = sequence % SEALED + 1

            # Each is undone by doing it again.
            byte = dice.randrange(400)
            await world.alter_entry(sequence, byte)
            assert await problem_of(world, keys) == (ProblemKind.ENTRY_ALTERED, sequence)
            await world.alter_entry(sequence, byte)
            await world.swap_entries(sequence, other)
            first = min(sequence, other)
            assert await problem_of(world, keys) == (ProblemKind.ENTRY_ALTERED, first)
            await world.swap_entries(sequence, other)
            for field in ("previous", "head", "leaves"):
                whole = getattr(seal, field)
                await world.alter_seal(seal.last, **{field: flipped(whole, byte)})
                assert await problem_of(world, keys) == (ProblemKind.SEAL_ALTERED, seal.first)
                await world.alter_seal(seal.last, **{field: whole})
            assert (await world.verify(keys)).problem is None

            await world.remove_entries(sequence)
            assert await problem_of(world, keys) == (ProblemKind.ENTRY_MISSING, sequence)
            await world.remove_seal(seal.last)
            assert await problem_of(world, keys) == (ProblemKind.SEAL_MISSING, seal.first)


async def test_entries_that_are_cut_off_or_no_entries_at_all_are_found():
    async with redis_audit_world() as world:
        await written(world, Keys())
        await world.remove_entries(19, 20)
        assert await problem_of(world, Keys()) == (ProblemKind.ENTRY_MISSING, 19)
        await world.alter_seal(16, leaves=b"", first=b"x" * 9, key_id=b"\xff")
        assert (await problem_of(world, Keys()))[1] in {0, 7}
        client = world._client
        await client.delete("fp:{team-a}:audit")
        await client.xadd("fp:{team-a}:audit", {"at": "9" * 30, "x": "y"}, id="3-0")
        assert await problem_of(world, Keys()) == (ProblemKind.ENTRY_MISSING, 1)
        page = await world.events().page(NS, EventQuery(), cursor=0, limit=9)
        assert [(event.sequence, event.entry) for event in page.events] == [(3, None)]


async def test_who_can_write_the_store_but_lacks_the_key_cannot_seal_anew():
    async with redis_audit_world() as world:
        await written(world, Keys([KEY]))
        remembered = (await world.verify(Keys([KEY]))).verified
        await world.alter_entry(2, 30)
        await world.forget_seals()
        await world.seal(Keys([OTHER_KEY]))
        assert await problem_of(world, Keys([KEY])) == (ProblemKind.UNKNOWN_KEY, 1)
        await world.forget_seals()
        await world.seal()
        # Without a key as before the key was there: a remembered head, or the result, tells.
        result = await world.verify(Keys([KEY]), remembered)
        assert result.problem is not None
        assert result.problem.kind is ProblemKind.HEAD_DIFFERS
        assert (await world.verify(Keys([KEY]))).keyless_through == NEWEST


async def test_replicas_that_seal_together_make_one_chain():
    async with (
        valkey_server(persistent=False) as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection) as ledger,
    ):
        world = RedisAuditWorld(connection, ledger)
        sealers = [AuditSealer(RedisAuditLog(connection), AheadClock(), Keys()) for _ in range(3)]
        outcomes: set[Outcome] = set()

        async def keep_sealing(sealer: AuditSealer) -> None:
            while (await world.log.extent(NS)).sealed < 3000:
                outcomes.add(await sealer.seal(NS))

        async def keep_writing() -> None:
            for _ in range(30):
                await asyncio.gather(
                    *(ledger.commit(transaction(namespace=NS)) for _ in range(100))
                )

        async with asyncio.timeout(60):
            await asyncio.gather(keep_writing(), *map(keep_sealing, sealers))
        result = await world.verify()
        assert (result.problem, result.verified.sequence) == (None, 3000)
        assert outcomes >= {Outcome.SEALED, Outcome.OVERTAKEN}


async def test_a_replica_that_is_killed_while_it_seals_leaves_a_chain_that_goes_on():
    async with (
        valkey_server(persistent=False) as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection) as ledger,
    ):
        world = RedisAuditWorld(connection, ledger)
        script = (
            "import asyncio, sys\n"
            "from controlplane.domain.audit.chain import Keys\n"
            "from controlplane.services.audit.sealing import AuditSealer\n"
            "from controlplane.storage.redis.audit_log import RedisAuditLog\n"
            "from controlplane.storage.redis.connection import StoreConnection\n"
            "from tests.fakes.audit_world import AheadClock, NS\n"
            "async def main():\n"
            "    async with StoreConnection(sys.argv[1]) as connection:\n"
            "        sealer = AuditSealer(RedisAuditLog(connection), AheadClock(), Keys())\n"
            "        while True:\n"
            "            await sealer.seal(NS)\n"
            "asyncio.run(main())\n"
        )
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, server.url, cwd=ROOT
            )
            try:
                before = (await world.log.extent(NS)).sealed
                async with asyncio.timeout(30):
                    while (await world.log.extent(NS)).sealed < before + 2 * BLOCK:
                        await asyncio.gather(
                            *(ledger.commit(transaction(namespace=NS)) for _ in range(100))
                        )
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
            assert (await world.verify()).problem is None
        await world.seal()
        result = await world.verify()
        assert (result.problem, result.unsealed) == (None, 0)
