"""Refused calls do not fill the store, however many methods, callers and networks there are."""

import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.services.audit.refused import (
    BURST_SECONDS,
    ENTRIES_PER_SECOND,
    MAX_OF_SOURCE,
    OTHERS,
    Refusal,
    RefusedCalls,
)
from controlplane.services.hub import Hub
from controlplane.services.ports import AuditEntry
from controlplane.services.read_model import ReadModel
from tests.fakes.audit_world import MemoryAuditWorld

PERIOD_SECONDS = 2
HOUR_SECONDS = 3600


def refusal(method: int, network: str = "ipv4:192.0.2.1", actor: str = "anonymous") -> Refusal:
    return Refusal(
        namespace="",
        actor=actor,
        caller_kind="anonymous",
        network=network,
        method=f"Method{method}",
        reason="CREDENTIAL_MISSING",
    )


@pytest.fixture
def world() -> MemoryAuditWorld:
    return MemoryAuditWorld()


@pytest.fixture
def refused(world) -> RefusedCalls:
    read_model = ReadModel(Hub())
    read_model.ready = True
    return RefusedCalls(world.ledger, read_model, world.clock)


async def written(world: MemoryAuditWorld) -> list[AuditEntry]:
    return [e for _, _, e in await world.ledger.read_audit(SYSTEM_NAMESPACE, limit=10**6)]


@pytest.mark.parametrize("networks", [1, 100])
async def test_an_hour_of_refusals_of_every_method_makes_few_entries(world, refused, networks):
    told = 0
    for _ in range(HOUR_SECONDS // PERIOD_SECONDS):
        for number in range(100):
            refused.note(refusal(number, f"ipv4:192.0.2.{number % networks}"), "r")
            told += 1
        await refused.write()
        world.clock.shift(PERIOD_SECONDS)
    await refused.write(everything=True)

    entries = await written(world)
    assert len(entries) <= HOUR_SECONDS * ENTRIES_PER_SECOND + 2 * BURST_SECONDS
    assert sum(int(entry.details["count"]) for entry in entries) == told  # none is lost


async def test_one_caller_leaves_room_for_others(world, refused):
    for number in range(10_000):
        refused.note(refusal(number), "r")
    refused.note(refusal(1, "ipv4:198.51.100.7", "user:eve"), "r")
    await refused.write()

    entries = await written(world)
    assert len(entries) == MAX_OF_SOURCE + 2
    assert entries[1].actor == "user:eve"  # after the first of the others, before their second
    (rest,) = [entry for entry in entries if entry.method == OTHERS]
    assert (rest.actor, rest.address) == ("anonymous", "ipv4:192.0.2.1")
    assert int(rest.details["count"]) == 10_000 - MAX_OF_SOURCE
