"""What becomes of the chain when seals are gone: lost by the store, or removed by somebody."""

import pytest

from controlplane.domain.audit.chain import Keys
from controlplane.domain.audit.verification import ProblemKind
from controlplane.services.audit.sealing import SETTLED_SECONDS, AuditSealer, Outcome
from tests.fakes.audit_world import KEY, NS, MemoryAuditWorld

KEYS = Keys([KEY])


async def lose_after(world: MemoryAuditWorld, sequence: int) -> None:
    """Be a store that failed over to a replica that had nothing after an entry."""
    state = world.store.namespaces[NS]
    state.audit[:] = [entry for entry in state.audit if entry.sequence <= sequence]
    state.seals[:] = [seal for seal in state.seals if seal.last <= sequence]
    state.sealed = state.seals[-1].last if state.seals else 0
    state.revision = sequence


async def test_a_replica_that_sealed_what_the_store_has_lost_does_not_break_the_chain():
    world = MemoryAuditWorld()
    first, second = (AuditSealer(world.log, world.clock, Keys()) for _ in range(2))
    for _ in range(2):
        await world.write(4)
        world.clock.shift(2)
        assert await first.seal(NS) is Outcome.SEALED
    await lose_after(world, 4)
    await world.write(4, actor="bob")  # the numbers 5 to 8 again
    world.clock.shift(2)
    assert await second.seal(NS) is Outcome.SEALED
    await world.write(1)
    world.clock.shift(2)

    assert await first.seal(NS) is Outcome.OVERTAKEN
    assert await first.seal(NS) is Outcome.SEALED
    result = await world.verify()
    assert (result.problem, result.verified.sequence) == (None, 9)


async def test_after_a_fail_over_the_same_replica_seals_on_at_once():
    world = MemoryAuditWorld()
    sealer = AuditSealer(world.log, world.clock, Keys())
    for _ in range(2):
        await world.write(4)
        world.clock.shift(2)
        await sealer.seal(NS)
    await lose_after(world, 4)
    await world.write(1)
    world.clock.shift(2)

    assert await sealer.seal(NS) is Outcome.SEALED
    assert (await world.verify()).verified.sequence == 5


async def removed_and_sealed_anew(world: MemoryAuditWorld) -> Outcome:
    """Alter an entry and remove all seals, so that the plane seals again what it finds."""
    sealer = AuditSealer(world.log, world.clock, KEYS)
    assert await sealer.seal(NS) is Outcome.SEALED
    world.clock.shift(SETTLED_SECONDS)
    await world.alter_entry(3, 20)
    await world.forget_seals()
    return await sealer.seal(NS)


async def test_who_removes_all_seals_does_not_get_what_he_altered_sealed_with_the_key():
    world = MemoryAuditWorld()
    await world.write(6)
    world.clock.shift(2)

    assert await removed_and_sealed_anew(world) is Outcome.STUCK
    assert (await world.log.extent(NS)).sealed == 0


async def test_heads_of_confirmed_exports_find_an_audit_that_was_sealed_anew():
    world = MemoryAuditWorld()
    await world.write(6)
    await world.seal(KEYS)
    _, end = await world.exported()
    await world.keeper(KEYS).confirm(NS, end, reason="in the vault", actor="ann")
    await world.alter_entry(3, 20)
    await world.forget_seals()
    await world.seal(KEYS)  # a replica that has just begun knows nothing of them

    problem = (await world.verify(KEYS)).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.HEAD_DIFFERS, 6)


async def test_an_audit_that_ends_before_a_confirmed_export_is_not_whole():
    world = MemoryAuditWorld()
    await world.write(6)
    await world.seal(KEYS)
    _, end = await world.exported()
    await world.keeper(KEYS).confirm(NS, end, reason="in the vault", actor="ann")
    state = world.store.namespaces[NS]
    await lose_after(world, 0)
    state.revision = 0

    problem = (await world.verify(KEYS)).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.HEAD_DIFFERS, 1)


@pytest.mark.parametrize("trimmed", [3, 6])
async def test_exports_of_what_was_trimmed_since_are_not_asked_for(trimmed):
    world = MemoryAuditWorld()
    await world.write(trimmed)
    await world.seal(KEYS)
    _, end = await world.exported()
    keeper = world.keeper(KEYS)
    await keeper.confirm(NS, end, reason="in the vault", actor="ann")
    await keeper.trim(NS, end, reason="in the vault", actor="ann")
    await world.seal(KEYS)

    assert (await world.verify(KEYS)).problem is None
